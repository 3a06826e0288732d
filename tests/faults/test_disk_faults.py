"""Kills, power cuts, failed syncs and full disks while files are written."""

import builtins
import dataclasses
import errno
import io
import os
import random
import resource
import subprocess
import sys

import pytest
from disk import Disk, cuts
from faults import FULL, finish, inputs_kept, results, run, small, start, times, weights
from helpers import ROOT, furnish

from arianna.formats import checkpoint
from arianna.system import files
from arianna.system.files import write_atomic
from arianna.training import log
from arianna.training.log import read_log
from arianna.training.run_folder import latest_state
from train_arianna import train

pytestmark = pytest.mark.skipif(os.name != "posix", reason="faults of POSIX systems")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """The weights of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    train(small(folder))
    return weights(folder / "run")


# ---- killed at each call of a save ----

SAVE = f"""
import os, sys; sys.path.insert(0, {str(ROOT)!r})
import builtins, io, pathlib
from arianna.formats import checkpoint
from arianna.system import files
from arianna.training import run_folder
folder, dies_at = pathlib.Path(sys.argv[1]), 0
checkpoint.serialized = lambda state: state
new, calls = (folder / "new").read_bytes(), 0

def dying(function):
    def called(*a, **k):
        global calls
        calls += 1
        if calls == dies_at:
            os._exit(9)
        return function(*a, **k)
    return called

class Slow(io.FileIO):
    def write(self, data):
        half = len(data) // 2
        return sum(dying(super(Slow, self).write)(part) for part in (data[:half], data[half:]))

files.open = dying(lambda path, mode: Slow(path, "w"))
for name in ("fsync", "replace", "unlink", "open", "close"):
    setattr(os, name, dying(getattr(os, name)))
for dies_at in range(1, 100):
    for name in ("ckpt.pt", "ckpt_prev.pt"):
        with builtins.open(folder / name, "wb") as f: f.write((folder / f"old {{name}}").read_bytes())
    child = os.fork()
    if child == 0:
        calls = 0
        run_folder.save_state(folder, new)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    os.makedirs(folder / str(dies_at))
    for path in folder.glob("*ckpt*"):
        if path.is_file() and not path.name.startswith("old"):
            os.rename(path, folder / str(dies_at) / path.name)
    if status == 0: break
"""


def test_a_kill_at_any_call_of_a_save_leaves_the_old_or_the_new_state(tmp_path):
    train(small(tmp_path))
    folder = tmp_path / "kills"
    folder.mkdir()
    before = {name: (tmp_path / "run" / name).read_bytes() for name in ("ckpt.pt", "ckpt_prev.pt")}
    state = checkpoint.load(tmp_path / "run/ckpt.pt") | {"iter_num": 5}
    (folder / "new").write_bytes(checkpoint.serialized(state))
    for name, data in before.items():
        (folder / f"old {name}").write_bytes(data)
    with inputs_kept(tmp_path):
        subprocess.run([sys.executable, "-c", SAVE, folder], check=True, timeout=300)
    died = sorted(int(p.name) for p in folder.iterdir() if p.is_dir())
    assert len(died) > 8
    for n in times("kill at each system call of a save", len(died), len(died)):
        steps = latest_state(folder / str(died[n]))["iter_num"]
        assert steps == (5 if died[n] == died[-1] else steps) and steps in (4, 5)
    for path in (folder / str(died[0])).glob(".*.tmp"):
        assert path.name.endswith(".tmp")


# ---- power cuts ----


def broken_writes(folder, monkeypatch, deaf: str = "", randomly: int = 40) -> list[str]:
    """What is wrong after a power cut at any time while a file is written over an old one."""
    path, old, new = folder / "a.bin", bytes(range(256)) * 9, bytes(reversed(range(256))) * 17
    path.write_bytes(old)
    with monkeypatch.context() as patch:
        disk = Disk(folder, patch, deaf)
        write_atomic(path, new)
    wrong = []
    for done, left in cuts(disk, randomly):
        if left.get("a.bin") not in (old, new):
            wrong.append(f"neither the old file nor the new one after {done} operations")
        if done == len(disk.ops) and left["a.bin"] != new:
            wrong.append("a file that was written is lost")
    return wrong


def test_a_power_cut_leaves_the_old_file_or_the_new_one(tmp_path, monkeypatch):
    assert not broken_writes(tmp_path, monkeypatch)


@pytest.mark.parametrize(("deaf", "wrong"), [("file", "neither the old"), ("folder", "is lost")])
def test_without_a_sync_a_power_cut_breaks_files(tmp_path, monkeypatch, deaf, wrong):
    """The model of the disk is harsh enough to notice when a sync is left out."""
    assert any(wrong in w for w in broken_writes(tmp_path, monkeypatch, deaf))


def broken_run(left: dict[str, bytes], folder) -> str:
    """What is wrong with a run's folder after a power cut, nothing if it can go on."""
    folder.mkdir()
    for name, data in left.items():
        (folder / name).write_bytes(data)
    state = latest_state(folder)
    step = state["iter_num"] if state else 0
    if state is None:
        return "" if not {"ckpt.pt", "ckpt_prev.pt"} & left.keys() else "no state loads"
    evaluated = (
        {s for s, entry in read_log(folder).items() if "val_loss" in entry} if "log.jsonl" in left else set()
    )
    needed = {s for s in (0, 2, 4) if s <= step}
    lost = [s for s in needed if s not in evaluated]
    for s in needed:
        checkpoint.load(folder / f"ckpt_{s:06d}.pt")
    return f"the evaluations of steps {lost} are lost at step {step}" if lost else ""


def recorded_run(tmp_path, monkeypatch, deaf: str = "") -> Disk:
    cfg = small(tmp_path)
    (tmp_path / "run").mkdir()
    with monkeypatch.context() as patch:
        disk = Disk(tmp_path / "run", patch, deaf)
        train(cfg)
    return disk


def test_a_power_cut_leaves_a_run_that_goes_on(tmp_path, monkeypatch, whole, capsys):
    disk = recorded_run(tmp_path, monkeypatch)
    found = list(cuts(disk, 500 if FULL else 20))
    few = random.Random(1).sample(range(len(found)), 3)
    for n in times("power cut: writes dropped, reordered, torn", len(found), len(found)):
        done, left = found[n]
        folder = tmp_path / f"cut{n}"
        assert not broken_run(left, folder), f"after {done} operations"
        if done == len(disk.ops):
            assert latest_state(folder)["iter_num"] == 4, "what was saved is lost"
        if n in few:
            with inputs_kept(tmp_path):
                train(small(tmp_path, folder.name))
            assert weights(folder) == whole
    capsys.readouterr()


def test_a_log_that_is_not_synced_loses_evaluations(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(log, "sync", lambda file: None)
    disk = recorded_run(tmp_path, monkeypatch)
    assert any(broken_run(left, tmp_path / f"cut{n}") for n, (_, left) in enumerate(cuts(disk, 20)))
    capsys.readouterr()


# ---- syncs that fail ----


def syncs_of_a_run(tmp_path, monkeypatch, fails_at: int | None) -> int:
    """How many syncs a run asks for; the one with this number fails."""
    asked, real = 0, os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal asked
        asked += 1
        if asked == fails_at:
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        if fails_at is None:
            train(small(tmp_path))
        else:
            with pytest.raises(OSError, match=r"could not be written.*Input/output error"):
                train(small(tmp_path))
    return asked


def test_a_sync_that_fails_ends_the_run_and_is_not_tried_again(tmp_path, monkeypatch, whole):
    count = syncs_of_a_run(tmp_path / "all", monkeypatch, None)
    chosen = range(1, count + 1) if FULL else random.Random(2).sample(range(1, count + 1), 3)
    for n in times("a sync fails", len(chosen), len(chosen)):
        place = tmp_path / str(n)
        small(place)  # makes its data
        with inputs_kept(place):
            assert syncs_of_a_run(place, monkeypatch, chosen[n]) == chosen[n]
            for path in (place / "run").glob("*.pt"):
                checkpoint.load(path)  # none is half written
            train(small(place))
        assert weights(place / "run") == whole


# ---- full disks ----


class Quota:
    """A disk that takes so many more bytes."""

    def __init__(self, left: int, monkeypatch):
        self.left = left
        for module in (files, log):
            monkeypatch.setattr(module, "open", self.open, raising=False)

    def open(self, path, mode: str = "r", *rest, **options):
        if "b" not in mode or "r" in mode:
            return builtins.open(path, mode, *rest, **options)
        quota = self

        class File(io.FileIO):
            def write(self, data) -> int:
                taken = super().write(bytes(data)[: quota.left])
                quota.left -= taken
                if taken == 0 and len(data):
                    raise OSError(errno.ENOSPC, "No space left on device")
                return taken

        return (
            io.BufferedWriter(File(path, mode.replace("b", "")))
            if options.get("buffering", -1)
            else File(path, mode.replace("b", ""))
        )


def test_a_disk_that_fills_up_is_named_and_the_run_goes_on_later(tmp_path, monkeypatch, whole):
    with monkeypatch.context() as patch:
        quota = Quota(1 << 40, patch)
        train(small(tmp_path))
        total = (1 << 40) - quota.left
    for n in times("disk full at any byte", 3, 45):
        place, chosen = tmp_path / str(n), random.Random(n)
        cfg = small(place)
        with inputs_kept(place), monkeypatch.context() as patch:
            Quota(chosen.randrange(total), patch)
            with pytest.raises(
                OSError, match=r"could not be written \([\d,]+ bytes\): No space left"
            ) as caught:
                train(cfg)
            assert caught.value.errno == errno.ENOSPC
        for path in (place / "run").glob("*.pt"):
            checkpoint.load(path)
        assert not list((place / "run").glob(".*.tmp"))
        train(small(place))
        assert weights(place / "run") == whole


def test_a_limit_on_the_size_of_files_is_met_by_the_whole_command(tmp_path):
    for n in times("disk full at any byte", 0, 5):
        place, chosen = furnish(make(tmp_path / f"full{n}")), random.Random(n)
        limit = chosen.randrange(1_000, 1_500_000)
        with inputs_kept(place):
            process = start(
                place,
                preexec_fn=lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
            )
            code, said = finish(process)
            assert code == 1 and "could not be written" in said and "Traceback" not in said, said
            assert run(place)[0] == 0
        if n == 0:
            expected = results(place)
        assert results(place) == expected


def make(folder):
    folder.mkdir()
    return folder


def test_a_full_disk_is_told_before_the_first_step(tmp_path, monkeypatch):
    import shutil

    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=1_000_000))
    with pytest.raises(ValueError, match=r"would grow by [\d,]+ MB, but its disk has 1 MB left"):
        train(small(tmp_path))
    assert not (tmp_path / "run").exists()


def test_too_little_memory_is_told_before_the_first_step(tmp_path, monkeypatch):
    from arianna.system import resources

    monkeypatch.setattr(resources, "memory_left", lambda: 100_000_000)
    with pytest.raises(ValueError, match=r"would take about [\d,]+ MB of memory, but 100 MB can be had"):
        train(small(tmp_path))
    assert not (tmp_path / "run").exists()


def test_what_killed_writers_left_behind_is_removed(tmp_path):
    cfg = small(tmp_path)
    train(dataclasses.replace(cfg, max_iters=4))
    left = tmp_path / "run/.ckpt.pt.4321.tmp"
    left.write_bytes(b"half")
    train(cfg)
    assert not left.exists()
