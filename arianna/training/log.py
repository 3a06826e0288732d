"""A run's log: log.jsonl for programs, train.log for people. Standard library only: reports need no torch."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from arianna.system.files import append, sync

NAME = "log.jsonl"


class Log:
    """Both logs, written line by line. Ranks other than 0 print and write nothing."""

    def __init__(self, folder: Path, is_main: bool = True):
        self.is_main = is_main
        self.boards: Any = None  # Dashboards, where some are to follow
        self.lines = open(folder / NAME, "ab", buffering=0)
        self.text = open(folder / "train.log", "ab", buffering=0)
        if self.lines.tell() and not (folder / NAME).read_bytes().endswith(b"\n"):
            append(self.lines, "")  # a crash cut the last line off

    def say(self, line: str) -> None:
        if self.is_main:
            print(line, flush=True)
            append(self.text, line)

    def record(self, **entry: Any) -> None:
        if self.is_main:
            append(self.lines, json.dumps(entry))
            if self.boards and "step" in entry:
                self.boards.follow(entry["step"], entry)

    def sync(self) -> None:
        """Bring log.jsonl to the disk, before a state is saved whose steps would not be done again."""
        sync(self.lines)

    def close(self) -> None:
        if self.boards:
            self.boards.close()
        self.lines.close()
        self.text.close()


def read_log(folder: Path) -> dict[int, dict[str, Any]]:
    """The entries of a run's log by step, evaluations and logged steps merged.

    After a resume steps are logged again: the last line of a step counts. A line cut off by a crash is left
    out. Raises FileNotFoundError without a log.
    """
    if not (folder / NAME).is_file():
        raise FileNotFoundError(what_it_was_for(folder))
    entries: dict[int, dict[str, Any]] = {}
    for line in (folder / NAME).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int):
            entries.setdefault(entry["step"], {}).update(entry)
    return entries


def what_it_was_for(folder: Path) -> str:
    """A sentence on a log that is missing."""
    return (
        f"{folder / NAME} is missing; it holds the losses of the run in {folder}, "
        "by which the best checkpoint is found. Put it back, or train again with --fresh."
    )


class Window:
    """The steps since the last line: their mean loss and their speed."""

    def __init__(self):
        self.total, self.steps, self.tokens, self.started = 0.0, 0, 0, time.monotonic()

    def add(self, loss: float, tokens: int) -> None:
        self.total, self.steps, self.tokens = self.total + loss, self.steps + 1, self.tokens + tokens

    @property
    def loss(self) -> float:
        return self.total / self.steps

    def summary(self, step: int, max_iters: int, rate: float) -> tuple[str, dict[str, float]]:
        """The steps as a line of llama2.c's shape, which people's scripts read, and as a log's entry."""
        seconds = time.monotonic() - self.started
        milliseconds, speed = 1000 * seconds / self.steps, self.tokens / seconds
        left = f"{(max_iters - step) * milliseconds / 60_000:.0f}m left"
        pace = f"{milliseconds:.2f}ms | {speed:,.0f} tok/s | {left}"
        line = f"{step} | loss {self.loss:.4f} | lr {rate:.2e} | {pace}"
        entry = {"step": step, "loss": self.loss, "lr": rate, "step_ms": milliseconds}
        return line, entry | {"tokens_per_second": speed}


def finite_or_none(value: float) -> float | None:
    """A number, or None where it is not finite: JSON has no NaN."""
    return value if math.isfinite(value) else None
