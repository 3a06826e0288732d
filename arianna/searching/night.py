"""A whole search, from its folds to the final model: the command's side of it."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arianna.corpus.conversations import Conversation
from arianna.formats import open_model
from arianna.searching import beginning, folds, results
from arianna.searching import study as studies
from arianna.searching.budget import END, Clock, Cost
from arianna.searching.ending import Ending
from arianna.searching.exploring import AtWork, Exploration
from arianna.searching.job import Chosen, Job, Unit, Wanted
from arianna.searching.space import BATCHES, EPOCHS, USUAL, Space
from arianna.searching.workers import Pool
from arianna.system import environment, resources
from arianna.system.config import UsageError
from arianna.system.files import remove_leftovers, write_atomic
from arianna.training import presets
from arianna.training.devices import pick_device
from arianna.training.run_folder import Log
from arianna.training.settings import TrainConfig
from model import Transformer
from tokenizer import Tokenizer

if TYPE_CHECKING:
    import optuna

FASTER = 1.2  # times as fast as in float32: then the search computes in bfloat16, where the user has not said
LARGEST = 3  # a preset is tried that takes at most one third of the workers' time
RANDOM = 8  # and settings drawn at random take at most one eighth of it


def search(
    wanted: Wanted,
    trainer: TrainConfig,
    conversations: Iterable[Conversation],
    tokenizer: Tokenizer,
    given: set[str],
) -> int:
    """Search, train what was found, and leave the run's folder as the trainer would; returns the exit code.

    Raises UsageError for what the user must mend, OSError where the machine fails. What is done is kept.
    """
    run = Path(trainer.out_dir)
    folder = run / "search"
    if results.is_finished(run):
        print(f"{run} is searched and trained; nothing to do", flush=True)
        return 0
    if trainer.nproc > 1:
        raise UsageError(f"nproc is {trainer.nproc}, but a search has workers of one process each; give --workers.")
    folder.mkdir(parents=True, exist_ok=True)
    for place in (folder, folder / "final"):
        remove_leftovers(place)
    clock = Clock(wanted.hours, folder / "clock.json")
    base = open_model(trainer.base, trainer.max_seq_len)
    beginning.prepare_folds(conversations, tokenizer, trainer, base, folder)
    cost = beginning.cost_of(trainer, base, folder)
    fixed = beginning.fixed_settings(trainer, given)
    study = studies.open_study(wanted.storage, folder, beginning.facts(wanted, trainer, fixed, folder))
    log = Log(run)
    try:
        workers = workers_for(wanted.workers, trainer, base)
        job = Job(
            str(trainer.base),
            beginning.job_settings(trainer, Path(trainer.base_text_dir)),
            wanted.max_forgetting,
            str(folder),
        )
        write_atomic(folder / "job.json", json.dumps(asdict(job)).encode())
        with environment.awake(log.say), Pool(worker_command(folder), workers) as pool:
            night = Night(wanted, trainer, folder, study, pool, clock, cost, job, log, fixed)
            night.run()
            clock.keep(now=True)
        return 0
    finally:
        log.close()


@dataclass
class Night:
    """All that the parts of a search share."""

    wanted: Wanted
    trainer: TrainConfig
    folder: Path
    study: optuna.Study
    pool: Pool
    clock: Clock
    cost: Cost
    job: Job
    log: Log
    fixed: dict[str, Any]
    space: Space = dataclasses.field(default_factory=Space)
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)
    told: tuple[int, float] = (-1, float("inf"))  # number and value of the best trial that was told

    def run(self) -> None:
        chosen = recall(self.folder)
        if chosen is None:
            time_steps(self)
            with studies.reachable(self.wanted.storage):
                self.explore()
                chosen = self.choose()
        self.space = Space(fixed=chosen.fixed)
        parts = (self.space, self.pool, self.clock, self.cost, self.job, self.folder, self.trainer, self.log)
        ending = Ending(chosen, *parts)
        self.log.say(f"training with the settings of trial {chosen.number}: {results.spelled(chosen.params)}")
        choice = ending.run()
        self.write(chosen, len(ending.winners))
        for weights in (self.folder / "final").glob("*.pt"):
            weights.unlink()  # the model is in the run's folder now
        base, used = choice.base.answer_loss, choice.used.answer_loss
        self.log.say(
            f"nats a token gained: {chosen.base - chosen.value:.4f} on the folds, "
            f"{base - used:.4f} on the held-out conversations"
        )

    # ---- before the trials ----

    def explore(self) -> None:
        """Plan, say what fits, and try settings until it is time for the end."""
        best, rows = presets.PRESETS["best"], self.cost.rows
        usual = {**USUAL, **best, **self.fixed}
        usual["max_iters"] = max(1, round(usual["max_iters"] * self.cost.fold_rows / rows))
        self.cost.first_fold = self.cost.fold_seconds(usual)
        place = beginning.place_of(self.folder)
        studies.bury(self.study, place)
        self.plan(usual)
        parts = (
            self.study,
            self.space,
            self.pool,
            self.clock,
            self.cost,
            place,
            self.wanted.storage,
            self.trainer.seed,
        )
        best = studies.best_trial(self.study)
        self.told = (best.number, best.value) if best else self.told
        Exploration(*parts, lambda: self.end_seconds(usual), self.ended, self.show).run()
        self.clock.keep(now=True)

    def plan(self, usual: dict[str, Any]) -> None:
        """Settle what is searched, line up the presets, say how many trials fit. Raises UsageError if none does."""
        workers, trial = len(self.pool.workers), self.cost.trial_seconds(usual)
        end = self.end_seconds(usual)
        seconds = max(0.0, self.clock.left - end)
        done = len(studies.trials_of(self.study, *studies.DONE))
        if seconds * workers < trial and not done:
            least = (trial / workers + self.cost.end_seconds(usual, 1, 0, workers)) * 1.1 + self.clock.spent
            raise UsageError(
                f"--hours={self.wanted.hours:g} is too short: a trial takes {results.lasting(trial)} of one worker, "
                f"and the training, export and report at the end {results.lasting(end)}; "
                f"give at least --hours={up(least / 3600)}."
            )
        most = self.study.user_attrs.get("most_epochs")  # of an earlier start, or of another machine
        self.space = Space(most or self.most_epochs(usual, seconds * workers / RANDOM), self.fixed)
        for name in sorted(presets.PRESETS, key=lambda name: name != "best"):
            self.line_up(name, seconds * workers / LARGEST, bounded=most is not None)
        self.study.set_user_attr("most_epochs", self.space.most_epochs)
        known = f", {done} are done" if done else ""
        self.log.say(
            f"searching {results.lasting(seconds)} of {results.lasting(self.clock.total)} with {workers} "
            f"worker{'s' if workers > 1 else ''} of one thread{known}: "
            f"about {max(1, int(seconds * workers / trial))} trials of {folds.FOLDS} folds fit, "
            f"{results.lasting(trial)} of a worker each; the rest is for training, export and report"
        )

    def line_up(self, name: str, most_seconds: float, bounded: bool) -> None:
        """Make a preset one of the first trials, or say why it is left out. `bounded`: the space is settled."""
        settings = {**USUAL, **presets.PRESETS[name], **self.fixed}
        settings["max_iters"] = max(1, round(settings["max_iters"] * self.cost.fold_rows / self.cost.rows))
        takes, params = self.cost.trial_seconds(settings), self.space.preset(name, self.cost.rows)
        epochs = params.get("epochs", 0.0)
        if name != "best" and (takes > most_seconds or (bounded and epochs > self.space.most_epochs)):
            self.left_out[name] = (
                f"--preset={name} was not tried: it takes {results.lasting(takes)} of one worker, "
                "more than a third of the time"
            )
            self.log.say(self.left_out[name])
            return
        self.space = replace(self.space, most_epochs=max(self.space.most_epochs, epochs))
        studies.line_up(self.study, name, params)

    def most_epochs(self, usual: dict[str, Any], seconds: float) -> float:
        """The most epochs that a trial may take; more is not drawn, for want of time."""
        own = usual["max_iters"] * usual["batch_size"] * (1 - usual["replay"]) / self.cost.fold_rows
        fits = own * seconds / self.cost.trial_seconds(usual)
        return min(max(fits, own, 2 * EPOCHS[0]), EPOCHS[1])

    def end_seconds(self, usual: dict[str, Any]) -> float:
        """Seconds that the end needs, with the best settings so far."""
        best = studies.best_trial(self.study)
        settings = studies.told(best)["settings"] if best else usual
        workers = len(self.pool.workers)
        return self.cost.end_seconds(
            settings, *self.cost.end_that_fits(settings, workers, END * self.clock.total), workers
        )

    # ---- while they run ----

    def ended(self, at: AtWork, state: str) -> None:
        """Say and log how a trial ended; each better one in full."""
        best = studies.best_trial(self.study)
        base = at.mean("base") or 0.0
        now = f"best {base + best.value:.4f}" if best else "no best yet"
        result = {
            "complete": f"answers {at.mean('answers') or 0:.4f}",
            "pruned": f"given up after {len(at.answers)} folds",
        }[state]
        self.log.say(
            f"trial {at.trial.number} | {result} | {now} | base {base:.4f} | "
            f"{results.lasting(self.clock.left)} left"
        )
        if best and best.value < self.told[1]:
            self.told = (best.number, best.value)
            self.log.say(f"    better by {-best.value:.4f} than the base: {results.spelled(best.params)}")
            self.log.record(
                trial=best.number,
                value=base + best.value,
                base=base,
                settings=best.params,
                seconds=self.clock.spent,
            )
        self.write()

    def write(self, chosen: Chosen | None = None, seeds: int = 0) -> None:
        """Write search.json. `busy`: the share of the workers' time in which they computed."""
        time, workers = self.clock.spent - self.clock.before, len(self.pool.workers)
        facts = {
            "hours": self.wanted.hours,
            "seconds": self.clock.spent,
            "workers": workers,
            "left_out": self.left_out,
        }
        busy = min(1.0, self.pool.busy_seconds / (time * workers)) if time > 0 else None
        results.write(self.folder.parent, self.study, {**facts, "busy": busy}, chosen, seeds)

    def show(self) -> None:
        """The bar of a terminal, and the time that is kept."""
        self.clock.keep()
        if sys.stdout.isatty():
            done = len(studies.trials_of(self.study, *studies.DONE))
            best = f", best {self.told[1]:+.4f} nats a token beside the base" if self.told[0] >= 0 else ""
            share = min(1.0, self.clock.spent / self.clock.total)
            bar = "#" * round(20 * share) + "." * (20 - round(20 * share))
            print(
                f"\r[{bar}] {done} trials{best}, {results.lasting(self.clock.left)} left  ",
                end="\r",
                flush=True,
            )

    # ---- after them ----

    def choose(self) -> Chosen:
        """The best trial, with as many seeds as the time left allows. Raises UsageError if no trial ended."""
        best = studies.best_trial(self.study)
        if best is None:
            raise UsageError(
                f"no trial ended within --hours={self.wanted.hours:g}; "
                "the same command with more hours goes on from here."
            )
        told = studies.told(best)
        settings, workers = told["settings"], len(self.pool.workers)
        seeds, tried = self.cost.end_that_fits(
            settings, workers, min(self.clock.left, END * self.clock.total)
        )
        losses = (told["base"] + best.value, told["base"])
        chosen = Chosen(best.number, best.params, self.fixed, *losses, told["stop"], seeds, tried)
        write_atomic(self.folder / "chosen.json", json.dumps(asdict(chosen)).encode())
        return chosen


def recall(folder: Path) -> Chosen | None:
    """What was chosen by an earlier start."""
    try:
        return Chosen(**json.loads((folder / "chosen.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def up(hours: float) -> str:
    """Hours, rounded up so that they are enough."""
    return f"{-(-hours * 100 // 1) / 100 + 0.01:.2f}"


# ---- workers ----


def workers_for(asked: int | None, trainer: TrainConfig, base: Transformer) -> int:
    """How many processes: one where a GPU computes; else one for each core, as far as memory lasts, or as asked.

    Raises ValueError if there is no memory for one, or for those that are asked for.
    """
    if asked is None and pick_device(trainer.device).type != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    args, parameters = base.args, sum(p.numel() for p in base.parameters())
    numbers = max(BATCHES) * args.max_seq_len * args.n_layers * (16 * args.dim + 4 * args.hidden)
    each, left = resources.bytes_in_memory(parameters, numbers), resources.memory_left()
    resources.check_memory(each * (asked or 1))
    return asked or (cores if left is None else max(1, min(cores, int(left) // each)))


def worker_command(folder: Path) -> list[str]:
    return [
        sys.executable,
        "-P",
        "-m",
        "arianna.search",
        f"--folder={folder}",
    ]  # -P: a folder's own files hide no module


def time_steps(night: Night) -> None:
    """Time a few steps in every worker at once, and settle whether the search computes in bfloat16."""
    settings = {**USUAL, **presets.PRESETS["best"], **night.fixed}
    dtypes = (
        ["float32", "bfloat16"]
        if night.trainer.dtype == "auto" and pick_device(night.trainer.device).type == "cpu"
        else ["auto"]
    )
    seconds = {}
    for dtype in dtypes:
        for worker in night.pool.idle():
            night.pool.give(worker, "timing", Unit(folds.ALL, {**settings, "dtype": dtype}, timed=True))
        answers = []
        while night.pool.at_work():
            if found := night.pool.wait(1.0):
                answers.append(found[1]["step_seconds"])
        seconds[dtype] = max(answers)
    best = dtypes[0] if len(dtypes) < 2 or seconds["float32"] < FASTER * seconds["bfloat16"] else "bfloat16"
    night.fixed["dtype"] = best
    night.cost.learn(night.cost.step_work(settings), seconds[best])
