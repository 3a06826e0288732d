"""The trials of a search: settings asked of the study, their folds handed to workers, the answers told to it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import TrialState

from arianna.searching import study as studies
from arianna.searching.budget import Clock, Cost
from arianna.searching.folds import FOLDS
from arianna.searching.job import Unit
from arianna.searching.space import Space
from arianna.searching.workers import Pool

PROVEN = 2  # folds after which a trial that was not given up may have more than one worker
DIVERGED = 1.0  # nats a token above the base: what a run counts whose numbers are no longer finite
ASKED = 20  # settings that are asked for until one fits into the time left


@dataclass
class AtWork:
    """A trial whose folds are not all done."""

    trial: optuna.Trial
    params: dict[str, Any]
    settings: dict[str, Any]
    preset: str | None
    pending: list[int] = field(default_factory=lambda: list(range(FOLDS)))
    running: int = 0
    answers: dict[int, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    over: bool = False  # given up, while folds of it are still at work

    def change(self, fold: int) -> float:
        """By how much a fold's held-out answers changed, as the guard leaves them, in nats a token."""
        answer = self.answers[fold]
        return DIVERGED if "diverged" in answer else answer["answers"] - answer["base"]

    def mean(self, name: str) -> float | None:
        """The mean over the folds so far; None if a run diverged."""
        values = [a.get(name) for a in self.answers.values()]
        return None if None in values or not values else statistics.fmean(values)


@dataclass
class Exploration:
    """Trials until the time of the search is over but for its end."""

    study: optuna.Study
    space: Space
    pool: Pool
    clock: Clock
    cost: Cost
    place: str  # who we are among those at the study
    storage: str | None
    seed: int
    reserve: Callable[[], float]  # seconds that the end needs
    ended: Callable[[AtWork, str], None]  # what is done with a trial that is over: complete, pruned
    show: Callable[[], None]  # called every second or so
    trials: dict[int, AtWork] = field(default_factory=dict)

    def run(self) -> None:
        while True:
            self.hand_out()
            if not self.pool.at_work():
                return
            if answer := self.pool.wait(1.0):
                self.take(*answer)
            self.show()
            if self.clock.left < self.reserve():
                self.abandon()
                return

    def hand_out(self) -> None:
        """Give every idle worker a fold, if there is one worth beginning."""
        for worker in self.pool.idle():
            at = self.next_trial()
            if at is None:
                return
            fold, number = at.pending.pop(0), at.trial.number
            at.running += 1
            self.pool.give(worker, (number, fold), Unit(str(fold), at.settings, self.seed))

    def next_trial(self) -> AtWork | None:
        """The trial whose next fold is done: one that has proved itself, one nobody is at, a new one, any."""
        waiting = [at for at in self.trials.values() if at.pending and not at.over]
        first = [at for at in waiting if len(at.answers) >= PROVEN] or [
            at for at in waiting if not at.running
        ]
        return first[0] if first else self.begin() or (waiting[0] if waiting else None)

    def begin(self) -> AtWork | None:
        """A new trial that can be done in the time left; None if there is none."""
        for _ in range(ASKED):
            if not self.fits(self.cost.seconds_a_fold):
                return None
            with studies.reachable(self.storage):
                trial = self.study.ask()
                params = self.space.suggest(trial)
                settings = self.space.settings(params, self.cost.fold_rows)
                seconds = self.cost.fold_seconds(settings)
                trial.set_user_attr("place", self.place)
                trial.set_user_attr("expected", FOLDS * seconds)
                if self.fits(seconds):
                    at = AtWork(trial, params, settings, trial.user_attrs.get("preset"))
                    self.trials[trial.number] = at
                    return at
                studies.fail(self.study, trial.number)
        return None

    def fits(self, fold_seconds: float) -> bool:
        """Whether a trial whose folds take so long would end in time, with all that is at work."""
        folds = FOLDS + sum(len(at.pending) + at.running / 2 for at in self.trials.values() if not at.over)
        return folds * fold_seconds / len(self.pool.workers) <= self.clock.left - self.reserve()

    def take(self, name: tuple[int, int], answer: dict[str, Any]) -> None:
        """Tell the study of a fold, and of its trial if that is over by it."""
        number, fold = name
        at = self.trials[number]
        at.running -= 1
        at.seconds += answer["seconds"]
        if "diverged" not in answer:
            self.cost.learn_fold(self.cost.fold_work(at.settings), answer["seconds"])
        if at.over:
            return self.forget(at)
        at.answers[fold] = answer
        with studies.reachable(self.storage):
            at.trial.report(at.change(fold), fold)
            if "diverged" in answer or (len(at.answers) < FOLDS and at.trial.should_prune()):
                self.close(at, TrialState.PRUNED)
            elif len(at.answers) == FOLDS:
                self.close(at, TrialState.COMPLETE)

    def close(self, at: AtWork, state: TrialState) -> None:
        """Tell the study that a trial is over, with all that is to be known of it."""
        at.over = True
        value = statistics.fmean(at.change(fold) for fold in at.answers)
        at.trial.set_user_attr("told", told(at, self.clock.spent))
        try:
            self.study.tell(at.trial, value if state == TrialState.COMPLETE else None, state)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):  # another machine took us for dead
            return self.forget(at)
        self.forget(at)
        self.ended(at, state.name.lower())

    def forget(self, at: AtWork) -> None:
        if not at.running:
            self.trials.pop(at.trial.number, None)

    def abandon(self) -> None:
        """Let go of what is at work: the time is over."""
        for at in self.trials.values():
            if not at.over:
                with studies.reachable(self.storage):
                    studies.fail(self.study, at.trial.number)
        self.trials.clear()
        self.pool.let_go()


def told(at: AtWork, seconds: float) -> dict[str, Any]:
    """What is kept of a trial that is over. `stop`: the share of its iterations at which the folds were best."""
    kept = {
        "answers": at.mean("answers"),
        "base": at.mean("base"),
        "forgetting": at.mean("forgetting"),
        "blend": at.mean("blend"),
    }
    return {
        **kept,
        "stop": stop_of(at),
        "seen": len(at.answers),
        "settings": at.settings,
        "at": seconds,
        "worker_seconds": at.seconds,
    }


def stop_of(at: AtWork) -> float:
    """The share of the iterations after which the mean of the folds' answer losses was lowest."""
    curves = [a["points"] for a in at.answers.values() if "points" in a]
    if not curves:
        return 1.0
    means = [
        (statistics.fmean(loss for _, loss in points), points[0][0]) for points in zip(*curves, strict=False)
    ]
    best = min((loss, step) for loss, step in means if math.isfinite(loss))
    return best[1] / at.settings["max_iters"]
