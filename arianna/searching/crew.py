"""The workers of a search: processes of one thread each, watched, and started again if they are killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from arianna import ROOT
from arianna.system import processes

DEATHS = 3  # after so many killed workers the search ends
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def started(folder: Path, number: int, of: int) -> subprocess.Popen[bytes]:
    """A worker in a group of its own: a Ctrl-C reaches it through us alone, and it ends when we do."""
    words = ["-P", "-m", "arianna.search"]  # -P: no file where we stand hides a module
    command = [sys.executable, *words, f"--folder={folder}", f"--number={number}", f"--of={of}"]
    group = {"process_group": 0} if os.name == "posix" else {}
    variables = {**os.environ, **ONE_THREAD, processes.PARENT: str(os.getpid())}
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, env=variables, **group)


def run(folder: Path, workers: int, go_on: Callable[[], bool], died: Callable[[int, int], None]) -> None:
    """Let workers work until all have ended, or until `go_on` says no: then those still at work are ended.

    It is asked twice a second. `died(number, signal)` is called when one was killed, before another takes its
    place. Raises OSError if one fails, or if they are killed again and again.
    """
    working = {number: started(folder, number, workers) for number in range(workers)}
    deaths = 0
    try:
        while working and go_on():
            time.sleep(0.5)
            for number, process in [*working.items()]:
                if (code := process.poll()) is None:
                    continue
                del working[number]
                if code:
                    deaths += 1
                    if code > 0 or deaths >= DEATHS:
                        raise failure(code)
                    died(number, -code)
                    working[number] = started(folder, number, workers)
    finally:
        for process in working.values():
            process.kill()
            process.wait()


def failure(code: int) -> OSError:
    killed = f"signal {-code} killed several, perhaps for lack of memory"
    why = "what it said stands above" if code > 0 else killed
    return OSError(f"a process of the search failed ({why}); the same command goes on from here.")
