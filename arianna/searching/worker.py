"""A process of a search: it does trials until its time is over, or the units of the end."""

from __future__ import annotations

import math
import statistics
import time
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import TrialState

from arianna.formats import open_model
from arianna.searching import job as jobs
from arianna.searching import study as studies
from arianna.searching.budget import Cost
from arianna.searching.folds import FOLDS
from arianna.searching.job import Job, Unit
from arianna.searching.space import Space
from arianna.searching.unit import Bench
from arianna.system.files import json_object
from arianna.training.devices import pick_device

DIVERGED = 1.0  # the value of a run whose numbers are no longer finite, nats a token above the base
ASKED = 50  # settings that are asked for until some fit into the time left
JOB, UNITS = "job.json", "units.json"

Answers = dict[int, dict[str, Any]]  # the results of a trial's runs by fold


def work(folder: Path, number: int, of: int) -> None:
    """Do what a search's folder says, as one worker among several. Raises OSError where the machine fails."""
    torch.set_num_threads(1)
    job = Job(**(json_object(folder / JOB) or {}))
    bench = bench_of(job, folder)
    if units := json_object(folder / UNITS):
        for name in sorted(units)[number::of]:
            jobs.put(folder / "end" / f"{name}.json", bench.do(Unit(**units[name])))
    else:
        with studies.reachable(job.storage):
            study = studies.open_study(job.storage, folder, job.facts)
            Explorer(job, bench, study, f"{job.place} {number}").run()


def bench_of(job: Job, folder: Path) -> Bench:
    base = open_model(job.base, job.trainer["max_seq_len"])
    return Bench(job, base.to(pick_device(job.trainer["device"])), folder)


class Explorer:
    """A worker that asks the study for settings, tries them on the folds, and tells it the result."""

    def __init__(self, job: Job, bench: Bench, study: optuna.Study, place: str):
        self.job, self.bench, self.study, self.place = job, bench, study, place
        self.cost = Cost(**job.cost)
        self.space = Space(self.cost.rows, job.fixed)

    def run(self) -> None:
        while begun := self.begin():
            self.try_out(*begun)

    def begin(self) -> tuple[optuna.Trial, dict[str, Any]] | None:
        """A trial that will end in time, and its settings; None if there is none."""
        for _ in range(ASKED):
            trial = self.study.ask()
            trial.set_user_attr("place", self.place)
            settings = self.space.settings(self.space.suggest(trial), self.cost.fold_rows)
            longest = math.inf if "preset" in trial.user_attrs else self.job.longest
            if self.cost.trial_seconds(settings) < min(longest, self.job.until - time.time()):
                return trial, settings
            studies.end(self.study, trial.number, TrialState.FAIL)
        return None

    def try_out(self, trial: optuna.Trial, settings: dict[str, Any]) -> None:
        """Run a trial's folds until all are done, or it is given up."""
        answers: Answers = {}
        value = None  # of a trial that is given up
        for fold in range(FOLDS):
            answers[fold] = self.bench.do(Unit(str(fold), settings, self.job.trainer["seed"]))
            trial.report(change(answers[fold]), fold)
            if "diverged" in answers[fold]:
                break
            self.cost.learn(self.cost.fold_work(settings), answers[fold]["seconds"])
            if fold < FOLDS - 1 and trial.should_prune():
                break
        else:
            value = statistics.fmean(map(change, answers.values()))
        trial.set_user_attr("told", {**summary(settings, answers), "time": time.time()})
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        studies.end(self.study, trial.number, state, value)


def change(answer: dict[str, Any]) -> float:
    """The change of the loss on a fold's held-out answers, as the guard leaves it, in nats a token."""
    return DIVERGED if "diverged" in answer else answer["answers"] - answer["base"]


def summary(settings: dict[str, Any], answers: Answers) -> dict[str, Any]:
    """The summary of a trial: means over its folds (None where one diverged), and the best iteration."""
    whole = [a for a in answers.values() if "diverged" not in a]
    means: dict[str, Any] = dict.fromkeys(("answers", "base", "forgetting"))
    if len(whole) == len(answers):
        means = {name: statistics.fmean(a[name] for a in whole) for name in means}
    seconds, stop = sum(a["seconds"] for a in answers.values()), stop_of(whole, settings)
    return {**means, "seen": len(answers), "settings": settings, "stop": stop, "seconds": seconds}


def stop_of(answers: list[dict[str, Any]], settings: dict[str, Any]) -> float:
    """The iteration with the lowest mean of the folds' answer losses, as a share of all iterations."""
    stops = zip(*(a["points"] for a in answers), strict=False)
    means = [(statistics.fmean(loss for _, loss in points), points[0][0]) for points in stops]
    return min(means, default=(math.inf, settings["max_iters"]))[1] / settings["max_iters"]
