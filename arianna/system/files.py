"""Files that are whole or not there; their hashes; outputs that may be written. Standard library only."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from arianna.system.config import UsageError


def write_atomic(
    path: str | Path, data: bytes | Iterable[bytes], check: Callable[[Path], None] | None = None
) -> None:
    """Write a file so that a crash at any moment leaves the old one or the new one, never a mixture.

    `data` comes whole or in pieces. A failed write or fsync raises OSError naming the file; the old file
    stays. An fsync is never retried: after a failure the kernel may have dropped the pages and the next call
    would report success. `check` is shown the written file; if it raises, the old one stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    pieces, size = ((data,), len(data)) if isinstance(data, (bytes, bytearray, memoryview)) else (data, 0)
    try:
        if is_stream(path):  # /dev/null or a pipe: a rename would put a file in its place
            path.write_bytes(b"".join(pieces))
            return
        with open(temporary, "wb") as f:
            for piece in pieces:
                f.write(piece)
            f.flush()
            os.fsync(f.fileno())
        if check is not None:
            check(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno is None:  # not the system's but check's, and a sentence already
            raise
        length = f" ({size:,} bytes)" if size else ""
        raise OSError(error.errno, f"{path} could not be written{length}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):  # gone already, unless something failed
            temporary.unlink()


def is_stream(path: Path) -> bool:
    """Whether a device, a pipe or a socket is there: it takes bytes and keeps none."""
    return path.exists() and not path.is_file() and not path.is_dir()


def rename_aside(folder: Path) -> Path | None:
    """Rename a folder to folder-1 (or the first free number) and return that; None where nothing is."""
    if not folder.exists():
        return None
    number = next(n for n in range(1, 10**6) if not folder.with_name(f"{folder.name}-{n}").exists())
    aside = folder.with_name(f"{folder.name}-{number}")
    folder.rename(aside)
    return aside


def remove_leftovers(folder: Path, shared: bool = False) -> None:
    """Delete the temporary files of killed writers; in a shared folder, only those whose writer is dead."""
    for path in folder.glob(".*.tmp"):
        writer = re.fullmatch(r"\..+\.(\d+)\.tmp", path.name)
        if writer and not (shared and is_alive(int(writer[1]))):
            with contextlib.suppress(OSError):  # the folder may be read-only
                path.unlink()


def is_alive(pid: int) -> bool | None:
    """Whether there is a process of this number; None where the system cannot be asked."""
    if os.name != "posix":
        return None
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True


def write_missing(contents: Mapping[str, bytes], folder: Path) -> None:
    """Write the files that are not there, or hold something else; a file that is as wanted is left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != data:
            write_atomic(path, data)


def append(file: BinaryIO, line: str) -> None:
    """Add a line to an unbuffered file. A failed write raises OSError naming the file."""
    data = memoryview(f"{line}\n".encode())
    try:
        while data:
            data = data[file.write(data) :]
    except OSError as error:
        sentence = f"{file.name} could not be written ({len(data):,} bytes): {error.strerror}"
        raise OSError(error.errno, sentence) from error


def sync(file: BinaryIO) -> None:
    """Bring the contents of an unbuffered file to the disk, for good."""
    try:
        os.fsync(file.fileno())
    except OSError as error:
        sentence = f"{file.name} could not be written to the disk: {error.strerror}"
        raise OSError(error.errno, sentence) from error


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable: on POSIX the name is data of the folder, not of the file."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def json_object(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if it holds none."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def sha256(path: str | Path) -> str:
    """Hex digest of a file's bytes; of a folder, of the names and bytes of its files."""
    path = Path(path)
    if path.is_dir():
        lines = [f"{p.name} {sha256(p)}\n" for p in sorted(path.iterdir()) if p.is_file()]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


AnyPath = str | os.PathLike[str]


def check_outputs(
    outputs: Iterable[AnyPath],
    inputs: Iterable[AnyPath | None],
    force: bool = False,
    ours: Iterable[AnyPath] = (),
    instead: str = "another name",
    writable: bool = True,
) -> None:
    """Raise UsageError for an output that is an input, or that exists and was not made by this run.

    `outputs` are files, or folders that the command fills; `inputs` are what it reads (None is left out);
    `ours` are outputs that an earlier start of this run made. `force` allows to replace an output, never an
    input. `instead` is what to give for an output that cannot be. A caller that does without an output whose
    folder is read-only, or tells of it in its own words, says `writable=False`.
    """
    sources, made = [Path(path) for path in inputs if path], [Path(path).absolute() for path in ours]
    for path in outputs:
        check_name(path)
        output = Path(path)
        if file := next(
            (parent for parent in output.parents if parent.exists() and not parent.is_dir()), None
        ):
            raise UsageError(f"{file} is no folder, so that {output} cannot be written; give {instead}.")
        folder = next(parent for parent in output.absolute().parents if parent.exists())
        if writable and not is_stream(output) and not os.access(folder, os.W_OK | os.X_OK):
            raise UsageError(f"{output} cannot be written: {folder} is read-only; give {instead}.")
        for source in sources:
            if how := overlap(output, source):
                raise UsageError(f"{output} would be written, but {how}; give {instead}.")
        if not force and is_occupied(output) and output.absolute() not in made:
            raise UsageError(
                f"{output} exists and was not made by this run; give another name, or --force to replace it."
            )


def check_name(path: AnyPath) -> None:
    """Raise UsageError for a path that is empty or not UTF-8, which no text file could name."""
    if not os.fspath(path):
        raise UsageError("an output's name is empty; give the name of a file or folder.")
    try:
        str(Path(path).absolute()).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(Path(path).absolute()).decode(errors="backslashreplace")
        raise UsageError(f"the name {shown} is not UTF-8; give a folder whose name is.") from None


def overlap(output: Path, source: Path) -> str:
    """A phrase on an output that is an input (also by a link), or lies in one; empty if they are apart."""
    a, b = output.resolve(), source.resolve()
    linked = output.exists() and source.exists() and output.samefile(source)  # hard links have two paths
    if a == b or linked:
        return "it is an input of this run"
    if b in a.parents:
        return f"it lies in {source}, an input of this run"
    return f"{source}, an input of this run, lies in it" if a in b.parents else ""


def is_occupied(path: Path) -> bool:
    """Whether something would be lost there: a file, a link, a folder with contents; not at /dev/null."""
    if path.is_dir():
        return any(path.iterdir())
    return path.is_symlink() or path.is_file()
