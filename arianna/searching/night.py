"""A whole search, from its folds to the final model: the command's side of it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from arianna.corpus.conversations import Conversation
from arianna.formats import open_model
from arianna.ops import one_thread
from arianna.searching import beginning, crew, results
from arianna.searching import job as jobs
from arianna.searching import study as studies
from arianna.searching.budget import END, REPORT, Clock, Cost
from arianna.searching.ending import Ending
from arianna.searching.folds import ALL, FOLDS
from arianna.searching.job import Chosen, Job, Unit, Wanted
from arianna.searching.results import lasting, spelled
from arianna.searching.space import Space
from arianna.searching.worker import JOB, UNITS, bench_of
from arianna.system import environment
from arianna.system.config import UsageError
from arianna.system.files import json_object, remove_leftovers
from arianna.training.log import Log
from arianna.training.settings import PRESETS, TrainConfig
from arianna.training.task import make_task
from arianna.training.timing import CLEARLY, time_formats
from tokenizer import Tokenizer
from train_arianna import train_step

MANY = 100_000  # about as many iterations as a whole search does
LARGEST = 4  # a trial takes at most a fourth of the time of the search, a preset its first folds


def search(
    wanted: Wanted,
    trainer: TrainConfig,
    conversations: Iterable[Conversation],
    tokenizer: Tokenizer,
    typed: set[str],
) -> int:
    """Search, train with the best, and leave the run's folder as the trainer would; returns the exit code.

    Raises UsageError for what the user must mend, OSError where the machine fails. Finished work stays.
    """
    run = Path(trainer.out_dir)
    folder = run / "search"
    if results.is_finished(run):
        print(f"{run} is searched and trained; nothing to do", flush=True)
        return 0
    if trainer.nproc > 1:
        raise UsageError(f"nproc is {trainer.nproc}; give --workers instead: a search has one process a run.")
    folder.mkdir(parents=True, exist_ok=True)
    for place in (run, folder, folder / "end"):
        remove_leftovers(place)
    clock, base = Clock(wanted.hours, folder / "clock.json"), open_model(trainer.base, trainer.max_seq_len)
    beginning.prepare_folds(conversations, tokenizer, trainer, base, folder)
    fixed, cost = beginning.fixed_settings(trainer, typed), beginning.cost_of(trainer, base, folder)
    facts = beginning.facts(wanted, trainer, fixed, folder)
    study = studies.open_study(wanted.storage, folder, facts)
    workers = beginning.workers_for(wanted.workers, trainer, base)
    with contextlib.closing(Log(run)) as log, environment.awake(log.say):
        Night(wanted, trainer, folder, study, workers, clock, cost, facts, fixed, log).run()
    return 0


@dataclass
class Night:
    """A search at work: its plan, its workers, its log, and the choice at the end."""

    wanted: Wanted
    trainer: TrainConfig
    folder: Path
    study: optuna.Study
    workers: int
    clock: Clock
    cost: Cost
    facts: dict[str, Any]
    fixed: dict[str, Any]
    log: Log
    known: set[int] = field(default_factory=set)  # trials that were printed
    best: float = math.inf  # value of the best of them
    late: float = math.inf  # the time after which trials that still run are given up

    @property
    def place(self) -> str:
        return beginning.place_of(self.folder)

    @property
    def space(self) -> Space:
        return Space(self.cost.rows, self.fixed)

    def run(self) -> None:
        stored = json_object(self.folder / "chosen.json")
        if stored is None:
            with studies.reachable(self.wanted.storage):
                self.explore()
                stored = dataclasses.asdict(self.choose())
        chosen = Chosen(**stored)
        self.log.say(f"training with the settings of trial {chosen.number}: {spelled(chosen.params)}")
        bench = bench_of(self.job(chosen.fixed), self.folder)
        shared = (self.clock, self.cost, bench, self.folder, self.trainer, self.log, self.do_units)
        choice, seeds = Ending(chosen, *shared).run()
        self.write(chosen, seeds)
        for weights in (self.folder / "end").glob("*.pt"):
            weights.unlink()  # the model is in the run's folder now
        gained = choice.base.answer_loss - choice.used.answer_loss
        on_folds = f"nats a token gained: {chosen.base - chosen.value:.4f} on the folds"
        self.log.say(f"{on_folds}, {gained:.4f} on the held-out conversations")

    # ---- before the trials ----

    def explore(self) -> None:
        """Plan, say what fits, and let the workers try settings until it is time for the end."""
        (self.folder / UNITS).unlink(missing_ok=True)
        usual = self.recipe("best")
        self.time_steps(usual)
        studies.bury(self.study, self.place)
        for trial in studies.trials_of(self.study, *studies.DONE):
            self.known.add(trial.number)
            self.learn(trial)
        best = studies.best_trial(self.study)
        self.best = best.value if best else math.inf
        planned = self.cost.end_that_fits(usual, self.workers, END * self.clock.total)
        end = self.cost.end_seconds(usual, *planned, self.workers)
        seconds = max(0.0, self.clock.left - end)
        longest, until = self.plan(usual, seconds, end), time.time() + seconds
        jobs.put(self.folder / JOB, self.job(self.fixed, until, longest))
        self.late, before = until + end / 2, self.clock.spent
        crew.run(self.folder, self.workers, self.look, self.mourn)
        self.look()
        self.log.record(search="trials", workers=self.workers, seconds=self.clock.spent - before)
        studies.bury(self.study, self.place)  # those that were late

    def recipe(self, name: str) -> dict[str, Any]:
        """A preset's settings on a fold."""
        return self.space.settings(self.space.preset(name), self.cost.fold_rows)

    def time_steps(self, usual: dict[str, Any]) -> None:
        """Time a few steps on one thread, and settle which number format the search computes in."""
        bench = bench_of(self.job({}), self.folder)
        cfg = bench.config(Unit(ALL, usual, self.trainer.seed))
        task = make_task(cfg, bench.base.args, bench.base if cfg.replay else None)
        many = dataclasses.replace(cfg, max_iters=MANY)  # so that both formats are timed
        with one_thread():
            seconds = time_formats(train_step, many, bench.base, task, bench.base)
        wins = seconds.get("bfloat16", math.inf) < CLEARLY * seconds.get("float32", math.inf)
        dtype = "bfloat16" if wins else next(iter(seconds))
        self.fixed = {**self.fixed, "dtype": dtype}
        self.cost.learn(self.cost.step_work(usual), seconds[dtype])

    def plan(self, usual: dict[str, Any], seconds: float, end: float) -> float:
        """Line up the presets and say how many trials fit; returns the seconds that one may take.

        Raises UsageError if none fits.
        """
        trial, done = self.cost.trial_seconds(usual), len(self.known)
        if seconds < trial and not done:
            least = max(trial + self.cost.end_seconds(usual, 1, 0, self.workers), trial / (1 - END))
            hours = (1.1 * least + self.clock.spent) / 3600 + 0.005
            raise UsageError(
                f"--hours={self.wanted.hours:g} is too short: a trial takes {lasting(trial)}, and training, "
                f"export and report at the end {lasting(end)}; give at least --hours={hours:.2f}."
            )
        # a trial takes as long as so many final runs
        final = (END * self.clock.total - self.cost.of(REPORT)) * (FOLDS - 1)
        longest = max(1.1 * trial, min(seconds / LARGEST, final))
        fit = f"{int(seconds / trial) * self.workers} trials of {FOLDS} folds fit, {lasting(trial)} each"
        self.log.say(
            f"searching {lasting(seconds)} of {lasting(self.clock.total)} with {self.workers} processes: "
            f"{fit}{f' ({done} are done)' if done else ''}; the rest is for training, export and report"
        )
        for name in sorted(PRESETS, key=lambda name: name != "best"):
            takes = self.cost.trial_seconds(self.recipe(name))
            # it goes on behind its first folds only where it is no worse than the best so far
            may_go_on = takes * studies.FIRST / FOLDS < longest and trial + takes < min(seconds, final)
            if takes < longest or may_go_on:
                studies.line_up(self.study, name, self.space.preset(name))
            else:
                self.log.say(f"--preset={name} is not tried: {lasting(takes)} would be too much of the time")
        return longest

    # ---- the workers ----

    def job(self, fixed: dict[str, Any], until: float = 0.0, longest: float = 0.0) -> Job:
        shared, cost = beginning.shared_settings(self.trainer), dataclasses.asdict(self.cost)
        known = (str(self.trainer.base), shared, self.wanted.max_forgetting, self.wanted.storage, self.facts)
        return Job(*known, fixed, cost, self.place, until, longest)

    def do_units(self, units: dict[str, dict[str, Any]]) -> None:
        """Have units of the end done, by as many workers as there are."""
        jobs.put(self.folder / UNITS, units)
        number = min(self.workers, len(units))
        crew.run(self.folder, number, self.keep_time, lambda number, signal: None)

    def keep_time(self) -> bool:
        self.clock.keep()
        return True

    def learn(self, trial: optuna.trial.FrozenTrial) -> None:
        """Take into account how long a trial of this machine took: at work together, processes are slower."""
        summary = studies.summary_of(trial)
        is_ours = str(trial.user_attrs.get("place")).startswith(f"{self.place} ")
        if is_ours and summary.get("answers") is not None:
            self.cost.learn(summary["seen"] * self.cost.fold_work(summary["settings"]), summary["seconds"])

    def mourn(self, number: int, signal: int) -> None:
        """Bury the trial of a worker that was killed."""
        studies.bury(self.study, f"{self.place} {number}")
        self.log.say(f"a process of the search was killed by signal {signal}; another goes on in its place")

    def look(self) -> bool:
        """Print and log trials that have ended, other machines' too; returns whether time is left."""
        self.clock.keep()
        ended = [t for t in studies.trials_of(self.study, *studies.DONE) if studies.summary_of(t)]
        fresh = [t for t in ended if t.number not in self.known]
        left = f"{lasting(self.clock.left)} left"
        for trial in fresh:
            self.learn(trial)
            summary, complete = studies.summary_of(trial), trial.state == studies.TrialState.COMPLETE
            better = complete and trial.value < self.best
            self.known, self.best = self.known | {trial.number}, trial.value if better else self.best
            gave_up = f"given up after {summary['seen']} folds"
            result = f"answers {summary['answers']:.4f}" if complete else gave_up
            best = f"best {self.best:+.4f}" if self.best < math.inf else "no best yet"
            self.log.say(f"trial {trial.number} | {result} | {best} | {left}")
            if better:
                self.log.say(f"    the best so far: {spelled(trial.params)}")
                gain = {"value": summary["answers"], "base": summary["base"], "settings": trial.params}
                self.log.record(trial=trial.number, **gain, seconds=self.clock.spent)
        if fresh:
            self.write()
        if sys.stdout.isatty():
            bar = "#" * round(20 * min(1.0, self.clock.spent / self.clock.total))
            best = f"best {self.best:+.4f} nats a token, " if self.best < math.inf else ""
            print(f"\r[{bar:.<20}] {len(ended)} trials, {best}{left} ", end="\r", flush=True)
        return not self.is_late()

    def is_late(self) -> bool:
        return time.time() > self.late

    def write(self, chosen: Chosen | None = None, seeds: int = 0) -> None:
        """Write search.json."""
        facts = {"hours": self.wanted.hours, "workers": self.workers}
        facts |= {"seconds": self.clock.spent, "began": time.time() - self.clock.spent}
        results.write(self.folder.parent, self.study, facts, chosen, seeds)

    # ---- after them ----

    def choose(self) -> Chosen:
        """The best trial, with as many seeds as the time left allows. Raises UsageError if no trial ended."""
        best, hours = studies.best_trial(self.study), f"--hours={self.wanted.hours:g}"
        if best is None:
            raise UsageError(
                f"no trial ended within {hours}; the same command with more hours goes on from here."
            )
        summary, seconds = studies.summary_of(best), min(self.clock.left, END * self.clock.total)
        seeds, folds = self.cost.end_that_fits(summary["settings"], self.workers, seconds)
        losses = (summary["base"] + best.value, summary["base"])
        chosen = Chosen(best.number, best.params, self.fixed, *losses, summary["stop"], seeds, folds)
        jobs.put(self.folder / "chosen.json", chosen)
        return chosen
