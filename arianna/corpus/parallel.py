"""Fill a folder with shards, part by part and by all cores, so that a killed preparation can go on.

A part gets a note when its files are written. The next start makes only the parts that have no note.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from arianna.system.files import write_atomic

NOTE = "shards.json"  # in the folder: what its shards are made of, and whether all are there
SHARD = re.compile(r"(train|val)(_\d{5})?\.(bin|mask)")
OURS = re.compile(rf"{SHARD.pattern}|part_\d{{5}}\.json|shards\.json")
SAY_SECONDS = 5.0

Say = Callable[[str], None]


def fill(
    folder: Path, of: dict[str, Any], make, jobs: list[tuple], sizes: list[int], say: Say, workers: int | None
) -> list[dict[str, Any]]:
    """Make the parts that are missing, and return the counts that `make` gave for each part.

    `of` says what the shards are made of. Shards that were made of anything else are deleted first.
    """
    note = read_note(folder)
    if is_filled(folder, of):
        return note["made"]
    if "made" in note or note.get("of") != of or note.get("parts") != len(jobs):
        clear(folder)
        note = {"of": of, "parts": len(jobs)}
        write_atomic(folder / NOTE, json.dumps(note).encode())
    missing = [n for n in range(len(jobs)) if not part_note(folder, n).exists()]
    progress = Progress(f"preparing {folder}", sum(sizes), say, sum(sizes) - sum(sizes[n] for n in missing))
    calls = [(folder, n, len(jobs), make, jobs[n]) for n in missing]
    for n, _ in zip(missing, each(make_part, calls, workers), strict=True):
        progress.add(sizes[n])
    made = [json.loads(part_note(folder, n).read_bytes()) for n in range(len(jobs))]
    files = sorted(path.name for path in folder.iterdir() if SHARD.fullmatch(path.name))
    write_atomic(folder / NOTE, json.dumps({**note, "made": made, "files": files}).encode())
    for n in range(len(jobs)):
        part_note(folder, n).unlink()
    return made


def make_part(folder: Path, number: int, parts: int, make, job: tuple) -> None:
    """Write a part's shards, then its note."""
    files, counts = make(*job)
    # masks first: tokens whose mask is missing would be taken for prose
    for name, data in sorted(files.items(), key=lambda file: file[0].endswith(".bin")):
        stem, _, suffix = name.partition(".")
        if data:
            write_atomic(folder / (f"{stem}_{number:05}.{suffix}" if parts > 1 else name), data)
    write_atomic(part_note(folder, number), json.dumps(counts).encode())


def part_note(folder: Path, number: int) -> Path:
    """Where the note of a finished part lies, until all are finished."""
    return folder / f"part_{number:05}.json"


def read_note(folder: Path) -> dict[str, Any]:
    """The folder's own note: what its shards are made of, under "of", and the counts under "made"."""
    try:
        return json.loads((folder / NOTE).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}


def is_filled(folder: Path, of: dict[str, Any]) -> bool:
    """Whether the shards of just this are in the folder, none of them deleted since."""
    note = read_note(folder)
    whole = "made" in note and all((folder / name).is_file() for name in note.get("files", ()))
    return whole and note["of"] == of


def clear(folder: Path) -> None:
    """Delete the shards and notes that a preparation has put into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if OURS.fullmatch(path.name):
            path.unlink()


def check_complete(folder: Path) -> None:
    """Raise ValueError for a folder whose preparation has not come to its end."""
    if (folder / NOTE).exists() and "made" not in read_note(folder):
        raise ValueError(
            f"{folder} is not complete: its preparation was stopped. Start it again; it goes on from there."
        )


# ---- processes ----


def cores() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(function: Callable, jobs: list[tuple], workers: int | None) -> Iterator[Any]:
    """Yield function(*job) of each job, in order, computed by so many processes (None: one for each core)."""
    workers = min(workers or cores(), len(jobs))
    if workers < 2:
        yield from (function(*job) for job in jobs)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), become_worker) as pool:
        try:
            yield from pool.map(function, *zip(*jobs, strict=True))
        except BrokenProcessPool:
            raise OSError(
                "a process was killed, perhaps for lack of memory; the same command goes on."
            ) from None


def become_worker() -> None:
    """A worker leaves Ctrl-C to the process that started it, and ends when that one does, however it did."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process().sentinel
    threading.Thread(target=lambda: (wait([parent]), os._exit(1)), daemon=True).start()


class Progress:
    """A report, every few seconds, of how far a job of so many bytes is."""

    def __init__(self, what: str, size: int, say: Say, done: int = 0):
        self.what, self.size, self.say, self.before, self.done = what, size, say, done, done
        self.started = self.reported = time.monotonic()

    def add(self, size: int) -> None:
        self.done += size
        now = time.monotonic()
        if now - self.reported < SAY_SECONDS:
            return
        self.reported, speed = now, (self.done - self.before) / (now - self.started)
        self.say(
            f"{self.what}: {self.done / self.size:.0%}, {speed / 1e6:.1f} MB/s, "
            f"{(self.size - self.done) / speed:.0f} s left"
        )
