"""The end of a search: seeds of what it chose, averaged where that scores better on the folds; the final model.

Each unit's answer and each set of weights is kept in the search's folder: a start that goes on does what is left.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import train_arianna
from arianna.formats import checkpoint, open_model
from arianna.scoring import choose
from arianna.scoring.choose import BLENDS, Choice, Point
from arianna.scoring.losses import answer_loss, evaluate_model
from arianna.searching.budget import Clock, Cost
from arianna.searching.folds import ALL
from arianna.searching.job import Chosen, Job, Unit
from arianna.searching.space import Space
from arianna.searching.workers import Pool
from arianna.system.files import write_atomic
from arianna.training.devices import pick_device
from arianna.training.optimizer import make_optimizer
from arianna.training.run_folder import Log, hash_inputs, save_state
from arianna.training.settings import TrainConfig, learning_rate
from arianna.training.state import State
from model import Transformer


@dataclass
class Ending:
    """From the chosen settings to the files of a finished run."""

    chosen: Chosen
    space: Space
    pool: Pool
    clock: Clock
    cost: Cost
    job: Job
    folder: Path  # the search's, in the run's folder
    cfg: TrainConfig  # the trainer's settings and the run's own folders
    log: Log
    winners: list[int] = field(
        default_factory=list
    )  # the seeds whose weights are averaged, or the one that is used

    def run(self) -> Choice:
        """Try the average, train the final model, and leave the run's folder as a run of the trainer would."""
        self.winners = seeds = self.seeds_that_win()
        answers = self.all(self.finals(seeds))
        if faults := [answer["diverged"] for answer in answers.values() if "diverged" in answer]:
            raise OSError(f"the final training diverged: {faults[0]}")
        file = self.folder / "final" / "model.pt"
        files = tuple(str(self.weights("all", seed)) for seed in seeds)
        step = answers[f"all_{seeds[0]}"]["step"]
        average = {"average": Unit(ALL, self.settings(False), files=files, keep=str(file))}
        self.all(average)
        return publish(self, answers[f"all_{seeds[0]}"]["losses"], file, step)

    def settings(self, fold: bool) -> dict[str, Any]:
        return self.space.settings(self.chosen.params, self.cost.fold_rows if fold else self.cost.rows)

    def stop_step(self, settings: Mapping[str, Any]) -> int:
        return max(1, round(self.chosen.stop * settings["max_iters"]))

    def weights(self, data: str, seed: int) -> Path:
        return self.folder / "final" / f"{data}_{seed}.pt"

    def unit(self, data: str, seed: int) -> Unit:
        """Training to the stop with a seed, whose weights are kept."""
        settings = self.settings(fold=data != ALL)
        return Unit(data, settings, seed, self.stop_step(settings), str(self.weights(data, seed)))

    def finals(self, seeds: list[int]) -> dict[str, Unit]:
        return {f"all_{seed}": self.unit(ALL, seed) for seed in seeds}

    def seeds_that_win(self) -> list[int]:
        """All seeds, if the average of their weights scores better on the folds than they do alone, or the first."""
        seeds = [self.cfg.seed + i for i in range(self.chosen.seeds)]
        folds = [str(fold) for fold in range(self.chosen.folds)]
        if len(seeds) < 2 or not folds:
            return seeds[:1]
        self.log.say(f"averaging the weights of {len(seeds)} seeds, tried on {len(folds)} folds")
        alone = self.all({f"{fold}_{seed}": self.unit(fold, seed) for fold in folds for seed in seeds})
        if any("diverged" in answer for answer in alone.values()):
            return seeds[:1]
        files = {fold: tuple(str(self.weights(fold, seed)) for seed in seeds) for fold in folds}
        together = self.all(
            {f"soup_{fold}": Unit(fold, self.settings(True), files=files[fold]) for fold in folds}
        )
        apart, soup = (
            statistics.fmean(a["answers"] for a in answers.values()) for answers in (alone, together)
        )
        wins = soup < apart
        used = "they are averaged" if wins else "one of them is used"
        self.log.say(f"answers on the folds {soup:.4f}, one by one {apart:.4f}: {used}")
        self.log.record(search="soup", seeds=len(seeds), folds=len(folds), averaged=soup, alone=apart)
        return seeds if wins else seeds[:1]

    def all(self, units: Mapping[str, Unit]) -> dict[str, dict[str, Any]]:
        """The answers to all units, in whatever order they come; those that are kept are not done again."""
        (self.folder / "final").mkdir(exist_ok=True)
        answers = {name: kept for name, unit in units.items() if (kept := self.kept(name, unit))}
        waiting = [name for name in units if name not in answers]
        while len(answers) < len(units):
            for worker in self.pool.idle()[: len(waiting)]:
                self.pool.give(worker, waiting[0], units[waiting[0]])
                waiting.pop(0)
            if found := self.pool.wait(1.0):
                name, answers[name] = found
                write_atomic(self.note(name), json.dumps(answers[name]).encode())
            self.clock.keep()
        return answers

    def note(self, name: str) -> Path:
        return self.folder / "final" / f"{name}.json"

    def kept(self, name: str, unit: Unit) -> dict[str, Any] | None:
        if unit.keep and not Path(unit.keep).is_file():
            return None
        try:
            return json.loads(self.note(name).read_bytes())
        except (OSError, ValueError):
            return None


def publish(ending: Ending, losses: list[list[float]], file: Path, step: int) -> Choice:
    """Score the final model, once, on the conversations held out, and write what a run of the trainer leaves."""
    cfg, run = final_config(ending, step), Path(ending.cfg.out_dir)
    device = pick_device(cfg.device)
    tuned = checkpoint.build_model(checkpoint.load(file), file, cfg.max_seq_len).to(device)
    base = open_model(cfg.base, cfg.max_seq_len).to(device)
    share = share_within(base, tuned, cfg, ending.job.max_forgetting)
    points, log = [], ending.log
    for number, loss in losses:
        log.record(step=number, loss=loss, lr=learning_rate(cfg, number - 1))
    for model, at, blend in ((base, 0, 0.0), (tuned, step, 1.0)):
        points.append(evaluate(log, cfg, model, at, blend))
    used = (
        points[1]
        if share == 1
        else train_arianna.score_point(cfg, choose.blended(base, tuned, share), step, share)
    )
    choice = Choice(points[0], points[1], used, () if share == 1 else (used,))
    checkpoint.save(run / f"ckpt_{step:06d}.pt", checkpoint.pack(tuned, iter_num=step))
    choose.remember(choice, {"max_forgetting": ending.job.max_forgetting, "blend": None}, run)
    inputs = hash_inputs(cfg.base, {"data": cfg.data_dir, "base_text": cfg.base_text_dir})
    state = State(tuned, make_optimizer(tuned, cfg), step, points[1].answer_loss, step, ending.clock.spent)
    save_state(run, state.pack(cfg, inputs))
    return choice


def final_config(ending: Ending, step: int) -> TrainConfig:
    """The settings of the final run, by which the report tells it."""
    return dataclasses.replace(ending.cfg, **ending.settings(fold=False), eval_interval=step)


def evaluate(log: Log, cfg: TrainConfig, model: Transformer, step: int, blend: float) -> Point:
    """Score a model on the held-out conversations and the base text, and log it as the trainer does."""
    started, args = time.monotonic(), model.args
    texts = train_arianna.base_text_rows(cfg, args)
    score = evaluate_model(model, train_arianna.held_out_rows(cfg, args), texts, cfg.eval_rows)
    terminator = train_arianna.number(score.answers.terminator_loss)
    entry = {"val_loss": score.answers.loss, "terminator_loss": terminator} | (
        {"base_text": score.base_text} if score.base_text else {}
    )
    log.record(step=step, **entry, eval_seconds=time.monotonic() - started)
    return Point(step, blend, score.answers.loss, score.base_text)


def text_losses(cfg: TrainConfig, model: Transformer) -> dict[str, float]:
    texts = train_arianna.base_text_rows(cfg, model.args)
    return {name: answer_loss(model, rows, cfg.eval_rows).loss for name, rows in texts.items()}


def share_within(base: Transformer, tuned: Transformer, cfg: TrainConfig, budget: float) -> float:
    """The largest share of the tuned weights that forgets no more than the budget; the smallest if none does.

    As the guard chooses, but without a look at held-out answers: more of the tuned weights is taken to be better.
    """
    before = Point(0, 0.0, 0.0, text_losses(cfg, base))
    for share in (1.0, *reversed(BLENDS)):
        text = text_losses(cfg, choose.blended(base, tuned, share))
        if Point(0, share, 0.0, text).forgetting(before) <= budget:
            return share
    return BLENDS[0]
