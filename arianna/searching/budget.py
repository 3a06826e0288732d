"""The time of a search: how much is left over all its starts, what a run costs, what the end needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arianna.searching import job
from arianna.searching.folds import FOLDS
from arianna.searching.space import STOPS
from arianna.system.files import json_object
from arianna.training.watchdog import clock

NOTE_EVERY = 10.0  # seconds between two notes of the time spent
REPORT = 180_000  # tokens that a thread trains while export and report are made: 90 s at 2,000 a second
END = 0.3  # share of the time that the end may take as planned
ENDS = ((4, FOLDS), (3, FOLDS), (3, 3), (2, 3), (1, 0))  # seeds, and folds to try their average on
TEACHER = 1.4  # work of a replayed row over that of another: the base's predictions are computed too
CONTRAST = 3.0  # work of a row with the question contrast: its answer is put under two questions, too
SCORING = 1 / 3  # work of scoring a token over that of training on it


class Clock:
    """The seconds of a search, its earlier starts included. Time that the machine sleeps is spent, too."""

    def __init__(self, hours: float, path: Path):
        seconds = (json_object(path) or {}).get("seconds")
        self.total, self.path, self.started = 3600 * hours, path, clock()
        self.before = seconds if isinstance(seconds, float) else 0.0
        self.noted = self.started

    @property
    def spent(self) -> float:
        return self.before + clock() - self.started

    @property
    def left(self) -> float:
        return self.total - self.spent

    def keep(self, now: bool = False) -> None:
        """Note the time spent, for a start that goes on."""
        if now or clock() - self.noted > NOTE_EVERY:
            job.put(self.path, {"seconds": self.spent})
            self.noted = clock()


@dataclass
class Cost:
    """The cost of runs in seconds of one worker, from the work that is counted and the speed so far."""

    rows: int  # all conversations to train on as rows
    row_tokens: float  # mean length of these
    context: int
    text_tokens: int  # tokens of the base text that is scored
    work_done: float = 0.0  # in tokens trained
    seconds: float = 0.0

    @property
    def fold_rows(self) -> int:
        """Rows that are trained where a fold is held out."""
        return round(self.rows * (FOLDS - 1) / FOLDS)

    def step_work(self, settings: Mapping[str, Any]) -> float:
        """The work of an iteration."""
        replay, contrast = settings["replay"], CONTRAST if settings["question_contrast"] else 1.0
        own, again = (1 - replay) * self.row_tokens * contrast, replay * self.context * TEACHER
        return settings["batch_size"] * (own + again)

    def fold_work(self, settings: Mapping[str, Any]) -> float:
        """Work of a run on a fold, its scores included."""
        score = SCORING * (self.rows * self.row_tokens / FOLDS + self.text_tokens)
        return settings["max_iters"] * self.step_work(settings) + (len(STOPS) + 1) * score

    def learn(self, work: float, seconds: float) -> None:
        """Take into account the seconds that some work took."""
        self.work_done, self.seconds = self.work_done + work, self.seconds + seconds

    def of(self, work: float) -> float:
        """The seconds that so much work takes."""
        return work * self.seconds / self.work_done

    def trial_seconds(self, settings: Mapping[str, Any]) -> float:
        """Seconds of a worker for a whole trial; the settings are those of a fold."""
        return FOLDS * self.of(self.fold_work(settings))

    def final_seconds(self, settings: Mapping[str, Any]) -> float:
        """Seconds of a run on all conversations; the settings are those of a fold."""
        return self.of(settings["max_iters"] * self.step_work(settings) * FOLDS / (FOLDS - 1))

    def end_seconds(self, settings: Mapping[str, Any], seeds: int, folds: int, workers: int) -> float:
        """Seconds from the last trial to the end: seeds on folds, final runs, export, report."""
        each = max(self.final_seconds(settings), self.trial_seconds(settings) / FOLDS)
        return math.ceil(seeds * (folds + 1) / workers) * each + self.of(REPORT)

    def end_that_fits(self, settings: Mapping[str, Any], workers: int, seconds: float) -> tuple[int, int]:
        """Seeds and folds of the longest end that fits into so many seconds; of the shortest if none does."""
        fits = (end for end in ENDS if self.end_seconds(settings, *end, workers) <= seconds)
        return next(fits, ENDS[-1])
