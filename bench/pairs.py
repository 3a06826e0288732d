"""What the measurements share: programs in processes of their own that are asked in turn, medians of pairs, a
line of JSON."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from arianna.reporting.scored_run import this_machine
from arianna.system.environment import LINUX, STARTED

PAIRS = 7


class Worker:
    """A program to measure: `python -m MODULE WHICH` answers each line on its stdin with a number (see
    `serve`)."""

    def __init__(self, module: str, which: str, tuned: bool):
        command = [sys.executable, "-m", module, which]
        self.process = subprocess.Popen(
            command, env=environment(tuned), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, what: str = "") -> float:
        print(what, file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


def environment(tuned: bool) -> dict[str, str]:
    """The environment of a program that trains as ours does, or as its user starts it."""
    plain = {name: value for name, value in os.environ.items() if name not in {*LINUX, STARTED}}
    return plain | {name: value for name, (value, _) in LINUX.items()} | {STARTED: ""} if tuned else plain


@contextlib.contextmanager
def workers(module: str, tuned: dict[str, bool]) -> Iterator[dict[str, Worker]]:
    """One worker a name, started one after the other; ended when done."""
    started: dict[str, Worker] = {}
    try:
        for name, is_tuned in tuned.items():
            started[name] = Worker(module, name, is_tuned)
        yield started
    finally:
        for worker in started.values():
            worker.process.kill()
            worker.process.communicate()


def serve(measure: Callable[[str], float]) -> int:
    """Answer each line of stdin with what `measure` makes of it."""
    for line in sys.stdin:
        print(json.dumps(measure(line.strip())), flush=True)
    return 0


def in_turn(
    asked: dict[str, Callable[[], float]], pairs: int = PAIRS, warm: int = 2
) -> dict[str, list[float]]:
    """The answers of each by name, asked in turn `pairs` times, every other time backwards; `warm` answers
    before these are left out."""
    answers: dict[str, list[float]] = {name: [] for name in asked}
    for number in range(-warm, pairs):
        for name in list(asked)[:: 1 if number % 2 else -1]:
            answer = asked[name]()
            if number >= 0:
                answers[name].append(answer)
    return answers


def ratio(slow: list[float], fast: list[float]) -> float:
    """How many times as fast: the median over pairs of seconds."""
    return round(statistics.median(a / b for a, b in zip(slow, fast, strict=True)), 3)


def tell(bench: str, **figures: Any) -> None:
    """Print a result as a line of JSON."""
    import torch

    machine = f"{this_machine()['processor']}, {torch.get_num_threads()} threads"
    print(
        json.dumps(
            {
                "bench": bench,
                **figures,
                "date": datetime.date.today().isoformat(),
                "machine": machine,
                "torch": torch.__version__,
            }
        )
    )
