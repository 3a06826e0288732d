"""Files are whole or not there."""

import builtins
import errno
import hashlib
import io
import os
from pathlib import Path

import pytest

from arianna.system import files
from arianna.system.config import UsageError
from arianna.system.files import append, remove_leftovers, sha256, write_atomic


class Full(io.FileIO):
    """A file on a disk that takes two more bytes."""

    def write(self, data):
        super().write(data[:2])
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_is_written_and_written_again(tmp_path):
    path = tmp_path / "a.bin"
    write_atomic(path, b"old")
    write_atomic(str(path), b"new, and longer")
    assert path.read_bytes() == b"new, and longer"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_failure_keeps_the_old_file_and_leaves_no_temporary(tmp_path, monkeypatch, function):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    calls = []

    def fail(*args):
        calls.append(args)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(
        OSError, match=r"a\.bin could not be written \(1,234 bytes\): No space left"
    ) as caught:
        write_atomic(path, bytes(1234))
    assert caught.value.errno == errno.ENOSPC
    assert len(calls) == 1, "an fsync that failed must not be tried again"
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_disk_that_fills_halfway_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    monkeypatch.setattr(builtins, "open", Full)
    with pytest.raises(OSError, match="could not be written"):
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_data_is_synced_before_the_rename_and_the_folder_after_it(tmp_path, monkeypatch):
    order = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), real_fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("replace"), real_replace(a, b)))
    write_atomic(tmp_path / "a.bin", b"data")
    assert order == ["fsync", "replace"] + ["fsync"] * (os.name == "posix")


def test_a_check_sees_the_whole_file_and_can_refuse_it(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def refuse(fresh):
        assert fresh.read_bytes() == b"new" and path.read_bytes() == b"old"
        raise LookupError("not this one")

    with pytest.raises(LookupError):
        write_atomic(path, b"new", check=refuse)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.bin could not be written"):
        write_atomic(tmp_path / "nowhere" / "a.bin", b"data")


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_line_that_cannot_be_added_names_the_file(tmp_path):
    with open(tmp_path / "log", "ab", buffering=0) as file:
        append(file, "one")
        append(file, "zwei \u00fc")
    assert (tmp_path / "log").read_text(encoding="utf-8") == "one\nzwei \u00fc\n"
    with (
        Full(tmp_path / "log", "a") as file,
        pytest.raises(OSError, match=r"log could not be written \(\d+ bytes\): No space left"),
    ):
        append(file, "three")


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    alive, dead = f".a.pt.{os.getpid()}.tmp", ".a.pt.99999999.tmp"
    others = [".ckpt.pt.tmp", ".run.lock", "ckpt.pt.99999999.tmp"]
    for name in (alive, dead, *others):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, shared=True)
    assert sorted(os.listdir(tmp_path)) == [alive, *others]
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == others


def test_an_output_that_is_an_input_is_refused_even_with_force(tmp_path):
    source, folder = tmp_path / "a.jsonl", tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_text("w")
    source.write_text("one")
    (tmp_path / "link").symlink_to(source)
    os.link(source, tmp_path / "hard")
    told = {
        source: "it is an input of this run",
        tmp_path / "link": "it is an input of this run",
        tmp_path / "hard": "it is an input of this run",
        tmp_path / "x/../a.jsonl": "it is an input of this run",
        folder / "new": f"it lies in {folder}, an input of this run",
        folder: "it is an input of this run",
        tmp_path: f"{source}, an input of this run, lies in it",
    }
    for output, how in told.items():
        with pytest.raises(UsageError, match=f"would be written, but {how}; give another name"):
            files.check_outputs([output], [source, folder, None], force=True)
    assert source.read_text() == "one"


def test_what_is_there_needs_force_unless_this_run_made_it(tmp_path):
    there, empty, full = tmp_path / "there", tmp_path / "empty", tmp_path / "full"
    there.write_text("mine")
    for folder in (empty, full):
        folder.mkdir()
    (full / "file").write_text("mine")
    (tmp_path / "astray").symlink_to(tmp_path / "nothing")
    for output in (there, full, tmp_path / "astray"):
        with pytest.raises(UsageError, match="exists and was not made by this run"):
            files.check_outputs([output], [])
        files.check_outputs([output], [], force=True)
        files.check_outputs([output], [], ours=[output])
    files.check_outputs([tmp_path / "new", empty, "/dev/null"], [tmp_path / "missing"])


def test_a_name_that_is_empty_or_not_utf_8_is_refused():
    for name in ("", os.fsdecode(b"caf\xe9/out")):
        with pytest.raises(UsageError, match="name"):
            files.check_outputs([name], [])


def test_files_that_hold_it_already_are_left_alone(tmp_path, monkeypatch):
    files.write_missing({"train.bin": b"one", "val.bin": b"two"}, tmp_path / "a" / "b")
    written = []
    monkeypatch.setattr(files, "write_atomic", lambda path, data: written.append((path.name, data)))
    files.write_missing({"train.bin": b"one", "val.bin": b"other"}, tmp_path / "a" / "b")
    assert written == [("val.bin", b"other")]


def test_a_read_only_folder_is_told_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(
        os, "access", lambda folder, mode: Path(folder) != tmp_path
    )  # root may write anywhere
    for path in ("a", "new/folder/a"):
        with pytest.raises(
            UsageError, match=f"cannot be written: {tmp_path} is read-only; give another name"
        ):
            files.check_outputs([tmp_path / path], [])
    files.check_outputs(["/dev/null"], [])
    files.check_outputs([tmp_path / "a"], [], writable=False)


def test_a_write_that_fails_names_the_file_and_not_the_temporary_one(tmp_path, monkeypatch):
    def read_only(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "the temporary file")

    monkeypatch.setattr(builtins, "open", read_only)
    monkeypatch.setattr(Path, "unlink", read_only)
    with pytest.raises(OSError, match=r"a\.md could not be written .*: Read-only file system$"):
        write_atomic(tmp_path / "a.md", b"text")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
def test_a_pipe_is_written_into_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    files.write_atomic(pipe, [b"one ", b"two"])
    assert os.read(reader, 100) == b"one two" and pipe.is_fifo()
    os.close(reader)


def test_nothing_is_written_into_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in ("file/a", "file/a/b/c"):
        with pytest.raises(
            UsageError, match="file is no folder, so that .* cannot be written; give another name"
        ):
            files.check_outputs([tmp_path / path], [], force=True)
