"""A process among others: the lock on a folder, signals, parent and child.

with lock(folder), stop_signals() as stop: ...
launch(2, "train_arianna.py", flags)     # torchrun, which ends with the process that started it
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from arianna.system.files import is_alive

PARENT = "ARIANNA_PARENT"  # set in a child: the process that started it and with which it ends


def end_quietly() -> None:
    """Let Ctrl-C end this process without a traceback, as SIGTERM does, until a handler is set."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class LockedError(ValueError):
    """Another process is at work in the folder."""


@contextlib.contextmanager
def lock(folder: Path, name: str = "run") -> Iterator[None]:
    """Hold a folder for this process; the system releases it at any death. Raises LockedError if it is held.

    A child waits some seconds, since the child of a wrapper that was just killed may be about to end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held, note = FileLock(folder / f".{name}.lock"), folder / f".{name}.pid"
    try:
        held.acquire(timeout=10 if PARENT in os.environ else 0)
    except Timeout:
        raise LockedError(
            f"{folder} is in use by {holder(note)}; wait for it or stop it, or give another --out_dir."
        ) from None
    try:
        with contextlib.suppress(OSError):  # the disk may be full
            note.write_text(f"process {os.getpid()} (since {time.strftime('%Y-%m-%d %H:%M:%S')})")
        yield
    finally:
        note.unlink(missing_ok=True)
        held.release()


@contextlib.contextmanager
def answering(*numbers: int, by: Any) -> Iterator[None]:
    """A context in which a handler answers these signals, and nothing a closed terminal (SIGHUP)."""
    answers = dict.fromkeys(numbers, by)
    if hasattr(signal, "SIGHUP"):
        answers[signal.SIGHUP] = signal.SIG_IGN
    before = {number: signal.signal(number, handler) for number, handler in answers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def holder(note: Path) -> str:
    """The note of a lock's holder on itself; for a second the note of one that was killed may stand there."""
    who = ""
    for _ in range(20):
        with contextlib.suppress(OSError):  # gone, with its writer
            who = note.read_text()
        if (match := re.match(r"process (\d+) ", who)) and is_alive(int(match[1])) is not False:
            break
        time.sleep(0.05)
    return who or "another process"


class Stop:
    """The number of the signal that asked the loop to end, if one did."""

    signal: int | None = None

    @property
    def asked(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        return 128 + (self.signal or signal.SIGTERM)  # none: another process of the run was asked


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """A context that notes the first Ctrl-C or SIGTERM, so that a step can end; the second kills at once."""
    stop = Stop()

    def note(number: int, frame: object) -> None:
        if stop.asked:
            end_at_once(number)
        stop.signal = number

    with answering(signal.SIGINT, signal.SIGTERM, by=note):
        yield stop


def end_at_once(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


class StoppedError(BaseException):
    """A signal asked this process to end. It is no Exception, so that no handler of errors goes on."""

    def __init__(self, number: int):
        self.exit_code = 128 + number


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """A context in which the first Ctrl-C or SIGTERM raises StoppedError; the second kills at once."""
    asked = []

    def stop(number: int, frame: object) -> None:
        if asked:
            end_at_once(number)
        asked.append(number)
        raise StoppedError(number)

    with answering(signal.SIGINT, signal.SIGTERM, by=stop):
        yield


def ended(code: int) -> int:
    """The exit code of a job that has ended; no signal changes it while the interpreter shuts down."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    return code


def run_child(command: list[str]) -> int:
    """Run a command to its end and return its exit code, 128 + n if signal n killed it.

    It gets a process group of its own, so that a Ctrl-C reaches it only through us, as SIGTERM; it ends when
    this process does if it looks after its parent (`watch_parent`). Raises StoppedError if a signal came, to
    either, before the command could answer it, or when it was as good as done.
    """
    group = {"process_group": 0} if os.name == "posix" else {}
    child, passed = subprocess.Popen(command, env={**os.environ, PARENT: str(os.getpid())}, **group), []

    def pass_on(number: int, frame: object) -> None:
        passed.append(number)
        child.terminate()  # not SIGINT, to which a Python that is just starting answers with a traceback

    with answering(signal.SIGINT, signal.SIGTERM, by=pass_on):
        code = child.wait()
    if (passed and code <= 0) or -code in (signal.SIGINT, signal.SIGTERM):
        raise StoppedError(passed[0] if passed else -code)
    if passed and code == 128 + signal.SIGTERM:
        return 128 + passed[0]
    return code if code >= 0 else 128 - code


def watch_parent() -> None:
    """End this process at once when the one that started it is gone: two must never write into one folder.

    All that is written is written whole, so that nothing is lost but the steps since the last save.
    """
    parent = int(os.environ.get(PARENT, 0)) or (os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else 0)
    if not parent or os.name != "posix":
        return

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def launch(nproc: int, script: str, flags: list[str]) -> int:
    """Act as torchrun, but end with the parent, and with exit code 128 + n after signal n."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    watch_parent()
    os.environ[PARENT] = str(os.getpid())  # for its workers
    options = ["--standalone", "--signals-to-handle=SIGTERM,SIGINT", f"--nproc_per_node={nproc}"]
    try:
        main([*options, "--", script, *flags])  # else --nproc is taken for an abbreviation of torchrun's
    except SignalException as stopped:
        return 128 + stopped.sigval
    except ChildFailedError as failed:  # a worker has said why; a table of torch's would hide it
        code = failed.get_first_failure()[1].exitcode
        return code if code > 0 else 128 - code
    return 0
