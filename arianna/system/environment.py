"""The surroundings of a process: its variables, Python, packages and streams, and a machine that may sleep.

    if __name__ == "__main__":  # at the top of a script, before torch is imported
        from arianna.system import environment

        environment.prepare()

Standard library only, and nothing newer than Python 3.10: it must run where the rest cannot.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TextIO

PYTHON = (3, 11)  # the oldest with tomllib and hashlib.file_digest
PACKAGES = "torch numpy sentencepiece filelock jinja2 matplotlib safetensors".split()  # of requirements.txt
STARTED = "ARIANNA_ENVIRONMENT"  # set in a process that has been started anew
LINUX = {  # glibc and OpenMP read these when a process starts, so they cannot be set later
    "GOMP_SPINCOUNT": (
        "10000",
        "threads that wait soon sleep: on a busy machine spinning costs 4/5 of the speed",
    ),
    "MALLOC_MMAP_MAX_": (
        "0",
        "big blocks stay with the process instead of being returned and zeroed at every step",
    ),
    "MALLOC_TRIM_THRESHOLD_": ("8589934592", "the same at the heap's end"),
    "MALLOC_TOP_PAD_": ("268435456", "the heap grows by 256 MB at a time"),
    "GLIBC_TUNABLES": ("glibc.malloc.hugetlb=1", "large pages for them"),
}


def prepare(lasting: bool = False) -> None:
    """Make a script's process ready before anything large is imported: streams, Python, packages, variables.

    A `lasting` one goes on whatever becomes of the terminal that it prints to.
    """
    open_streams()
    if sentence := what_is_missing():
        print(sentence, file=sys.stderr)
        sys.exit(1)
    restart_with_environment()
    if lasting:
        speak_on()


def what_is_missing() -> str | None:
    """A sentence if this Python is too old or lacks a package that we need."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    remedy = "activate .venv, or pip install -r requirements.txt."
    if sys.version_info < PYTHON:
        needed = ".".join(map(str, PYTHON))
        version = platform.python_version()
        return f"{sys.executable} is Python {version}, but {needed} or newer is needed; {remedy}"
    if missing:
        return f"{sys.executable} lacks {', '.join(missing)}; {remedy}"
    return None


def restart_with_environment() -> None:
    """On Linux, start this very command once more with those settings above that the user has not set."""
    if platform.system() != "Linux" or STARTED in os.environ:
        return
    added = {name: value for name, (value, _) in LINUX.items() if name not in os.environ}
    os.environ.update(added, **{STARTED: " ".join(added)})
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


# ---- streams ----


def open_streams() -> None:
    """Open closed standard streams on /dev/null: else the next file to be opened would take their number."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, number)  # the copy stays open when the process is started anew
            if null == number:
                os.set_inheritable(number, True)
            else:
                os.close(null)
            setattr(sys, name, open(number, mode, closefd=False))


class Stream:
    """A stream of text whose failed writes never become a traceback.

    A `lasting` one goes on in silence once its other end is gone or full: no closed terminal ends a night's
    run. Any other ends the process (exit code 1), with a sentence unless its reader has gone, as `head` does.
    """

    def __init__(self, stream: TextIO, lasting: bool):
        self.stream, self.lasting = stream, lasting

    def write(self, text: str) -> int:
        self.attempt(self.stream.write, text)
        return len(text)

    def flush(self) -> None:
        self.attempt(self.stream.flush)

    def attempt(self, function: Callable, *values: str) -> None:
        try:
            function(*values)
        except OSError as error:  # what is still in the buffer goes nowhere too
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            if error.errno == errno.ENOSPC:
                print(f"the output cannot be written: {error.strerror}", file=sys.stderr)
            if not self.lasting:
                raise SystemExit(1) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def speak_on(lasting: bool = True) -> None:
    """Let this process print without a traceback, whatever becomes of its terminal; `lasting`: and go on."""
    sys.stdout, sys.stderr = Stream(sys.stdout, lasting), Stream(sys.stderr, lasting=True)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a stream of a test or a notebook has no such method
            stream.reconfigure(errors="replace")  # what a terminal cannot spell is no reason to stop


# ---- sleep ----

KEEP_AWAKE = {  # each holds on while the command behind it runs, which says when it does
    "systemd-inhibit": ["--what=sleep:idle", "--who=InnerArianna", "--why=a model is in training"],
    "caffeinate": ["-i", "-s"],
}


@contextlib.contextmanager
def awake(say: Callable[[str], None]) -> Iterator[None]:
    """A context in which the system is asked not to sleep; `say` gets a sentence once that is granted.

    The child that asks reads a pipe whose other end only this process holds, so that it ends with us at any
    death.
    """
    program = next((p for p in KEEP_AWAKE if shutil.which(p)), None)
    if program is None or os.name != "posix":
        yield
        return
    command, pipe = [program, *KEEP_AWAKE[program], "sh", "-c", "echo granted; exec cat"], subprocess.PIPE
    streams = {"stdin": pipe, "stdout": pipe, "stderr": subprocess.DEVNULL}
    child = subprocess.Popen(command, **streams, start_new_session=True)

    def hear() -> None:
        if child.stdout.readline():
            say(f"kept awake by {program} while this runs")

    hearing = threading.Thread(target=hear)
    hearing.start()
    try:
        yield
    finally:
        child.stdin.close()
        child.terminate()
        hearing.join()
        child.stdout.close()
        child.wait()
