"""The process around a run: its environment, the lock on its folder, signals.

restart_with_environment()      # once, before torch is imported
with lock(folder), stop_signals() as stop: ...
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

STARTED = "ARIANNA_ENVIRONMENT"  # set in a process that has been started anew
PARENT = "ARIANNA_PARENT"  # the descriptor that a wrapper gives its child
LINUX = {  # glibc and OpenMP read these when a process starts, so they cannot be set later
    "GOMP_SPINCOUNT": ("10000", "threads that wait for each other soon sleep: on a busy machine spinning costs 4/5 of the speed"),
    "MALLOC_MMAP_MAX_": ("0", "big blocks stay with the process instead of being returned and zeroed again at every step"),
    "MALLOC_TRIM_THRESHOLD_": ("8589934592", "the same at the heap's end"),
    "MALLOC_TOP_PAD_": ("268435456", "the heap grows by 256 MB at a time"),
    "GLIBC_TUNABLES": ("glibc.malloc.hugetlb=1", "large pages for them"),
}


def restart_with_environment() -> None:
    """Start this very command once more with the settings above that the user has not set; does nothing elsewhere."""
    if platform.system() != "Linux" or STARTED in os.environ:
        return
    added = {name: value for name, (value, _) in LINUX.items() if name not in os.environ}
    os.environ.update(added, **{STARTED: " ".join(added)})
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


class Locked(ValueError):
    """Another process is at work in the folder."""


@contextlib.contextmanager
def lock(folder: Path, name: str = "run") -> Iterator[None]:
    """Hold a folder for this process; the system releases it at any death. Raises Locked, naming who holds it.

    A child waits some seconds, since the child of a wrapper that was just killed may be about to end.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    held, note = FileLock(folder / f".{name}.lock"), folder / f".{name}.pid"
    try:
        held.acquire(timeout=10 if PARENT in os.environ else 0)
    except Timeout:
        who = note.read_text() if note.is_file() else "another process"
        raise Locked(f"{folder} is in use by {who}; wait for it or stop it, or give another --out_dir.") from None
    try:
        note.write_text(f"process {os.getpid()} (since {time.strftime('%Y-%m-%d %H:%M:%S')})")
        yield
    finally:
        note.unlink(missing_ok=True)
        held.release()


class Stop:
    """What the loop is told: the number of the signal that asked it to end, or that its wrapper has died."""

    signal: int | None = None
    orphaned: bool = False

    @property
    def asked(self) -> bool:
        return self.signal is not None or self.orphaned

    @property
    def exit_code(self) -> int:
        return 128 + (self.signal or 0)


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """Within, the first Ctrl-C or SIGTERM is only noted, so that the step can be finished; the second ends at once.

    A closed terminal (SIGHUP) is survived.
    """
    stop = Stop()

    def note(number: int, frame: object) -> None:
        if stop.signal is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        stop.signal = number

    numbers = [signal.SIGINT, signal.SIGTERM]
    before = {n: signal.signal(n, note) for n in numbers}
    if hasattr(signal, "SIGHUP"):
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_child(command: list[str], watched: bool = True) -> int:
    """Run a command to its end and return its exit code, 128 + n if signal n killed it.

    It gets a process group of its own, so that a Ctrl-C reaches it once, passed on from here; and the reading end of
    a pipe whose other end only this process holds, so that it notices our death at once (`watch_parent`) - unless not
    `watched`: torchrun does not hand it on to its workers.
    """
    reading, writing = os.pipe()
    environment = {**os.environ, PARENT: str(reading)} if watched else None
    group = {"process_group": 0, "pass_fds": [reading]} if os.name == "posix" else {}
    child = subprocess.Popen(command, env=environment, **group)
    os.close(reading)
    numbers = [signal.SIGINT, signal.SIGTERM]
    before = {n: signal.signal(n, lambda number, frame: child.send_signal(number)) for n in numbers}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writing)
    return code if code >= 0 else 128 - code


def watch_parent(stop: Stop) -> None:
    """If a wrapper started this process, note its death in `stop`."""
    if PARENT not in os.environ or os.name != "posix":
        return
    descriptor = int(os.environ[PARENT])

    def wait() -> None:
        with contextlib.suppress(OSError):
            os.read(descriptor, 1)
        stop.orphaned = True

    threading.Thread(target=wait, daemon=True).start()
