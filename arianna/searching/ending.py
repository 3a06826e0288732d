"""The end of a search: seeds of the chosen settings, averaged where that scores better on the folds."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import train_arianna
from arianna.formats import checkpoint
from arianna.scoring import choose
from arianna.scoring.choose import BLENDS, Choice, Point
from arianna.scoring.losses import answer_loss, evaluate_model
from arianna.searching.budget import Clock, Cost
from arianna.searching.folds import ALL
from arianna.searching.job import Chosen, Unit
from arianna.searching.space import Space
from arianna.searching.unit import Bench, averaged
from arianna.system.files import json_object
from arianna.training.devices import pick_device
from arianna.training.log import Log, finite_or_none
from arianna.training.optimizer import make_optimizer
from arianna.training.run_folder import hash_inputs, note_tokenizer, save_state
from arianna.training.settings import TrainConfig, learning_rate
from arianna.training.state import State
from arianna.training.task import base_text_rows, held_out_rows
from model import Transformer


@dataclass(frozen=True)
class Ending:
    """The way from the chosen settings to the files of a finished run. No unit is done twice."""

    chosen: Chosen
    clock: Clock
    cost: Cost
    bench: Bench
    folder: Path  # the search's, in the run's folder
    cfg: TrainConfig  # the trainer's settings and the run's own folders
    log: Log
    start_workers: Callable[[dict[str, dict]], None]  # does units, by name

    def run(self) -> tuple[Choice, int]:
        """Leave the run's folder as a run of the trainer would; returns the choice, and the seeds in it."""
        seeds = [self.cfg.seed + i for i in range(self.chosen.seeds)]
        folds = [str(fold) for fold in range(self.chosen.folds)]
        units = {f"{data}_{seed}": self.unit(data, seed) for data in (*folds, ALL) for seed in seeds}
        (self.folder / "end").mkdir(exist_ok=True)
        waiting = {name: vars(unit) for name, unit in units.items() if not self.is_done(name, unit)}
        if waiting:
            self.start_workers(waiting)
        answers = {name: json_object(self.folder / "end" / f"{name}.json") or {} for name in units}
        for name, answer in answers.items():
            if "step" not in answer:
                fault = f"{name}: {answer.get('diverged', 'no answer')}"
                raise OSError(f"the search's last runs failed ({fault}); the same command tries them again.")
        wins = folds and len(seeds) > 1 and self.average_wins(seeds, folds, answers)
        winners = seeds if wins else seeds[:1]
        model, step = averaged([self.weights(ALL, seed) for seed in winners])
        return self.publish(model, step, answers[f"{ALL}_{seeds[0]}"]["losses"]), len(winners)

    def settings(self, data: str) -> dict:
        rows = self.cost.rows if data == ALL else self.cost.fold_rows
        return Space(self.cost.rows, self.chosen.fixed).settings(self.chosen.params, rows)

    def weights(self, data: str, seed: int) -> Path:
        return self.folder / "end" / f"{data}_{seed}.pt"

    def unit(self, data: str, seed: int) -> Unit:
        settings = self.settings(data)
        stop = max(1, round(self.chosen.stop * settings["max_iters"]))
        return Unit(data, settings, seed, stop, str(self.weights(data, seed)))

    def is_done(self, name: str, unit: Unit) -> bool:
        answer = json_object(self.folder / "end" / f"{name}.json") or {}
        return Path(unit.keep or "").is_file() and "step" in answer

    def average_wins(self, seeds: list[int], folds: list[str], answers: dict[str, dict]) -> bool:
        """Whether the average of the seeds' weights scores better on the folds than they do one by one."""
        alone = statistics.fmean(answers[f"{fold}_{seed}"]["answers"] for fold in folds for seed in seeds)
        files = {fold: [self.weights(fold, seed) for seed in seeds] for fold in folds}
        soup = statistics.fmean(self.bench.soup(self.unit(f, seeds[0]), files[f])["answers"] for f in folds)
        tried = f"{len(seeds)} seeds on {len(folds)} folds"
        self.log.say(f"{tried}: answers {alone:.4f} one by one, {soup:.4f} with their weights averaged")
        self.log.record(search="soup", seeds=len(seeds), folds=len(folds), averaged=soup, alone=alone)
        return soup < alone

    def publish(self, tuned: Transformer, step: int, losses: list[list[float]]) -> Choice:
        """Score the final model, once, on the conversations held out; write state, weights, log, choice."""
        cfg, budget = self.final_config(step), self.bench.job.max_forgetting
        run, base, tuned = Path(cfg.out_dir), self.bench.base, tuned.to(pick_device(cfg.device))
        for number, loss in losses:
            self.log.record(step=number, loss=loss, lr=learning_rate(cfg, number - 1))
        first, last = (evaluated(self.log, cfg, model, at) for model, at in ((base, 0), (tuned, step)))
        share = share_within(base, tuned, cfg, budget)
        whole, blend = share == 1, choose.blended(base, tuned, share)
        used = last if whole else train_arianna.score_point(cfg, blend, step, share)
        choice = Choice(first, last, used, () if whole else (used,))
        inputs = hash_inputs(cfg.base, {"data": cfg.data_dir, "base_text": cfg.base_text_dir})
        state = State(tuned, make_optimizer(tuned, cfg), step, last.answer_loss, step, self.clock.spent)
        state.dtype, state.tokenizer = cfg.dtype, note_tokenizer(cfg.tokenizer) if cfg.tokenizer else None
        checkpoint.save(run / f"ckpt_{step:06d}.pt", state.pack_weights())
        choose.remember(choice, {"max_forgetting": budget, "blend": None}, run)
        save_state(run, state.pack(cfg, inputs))
        return choice

    def final_config(self, step: int) -> TrainConfig:
        """The settings of the final run, as the report names them."""
        return dataclasses.replace(self.cfg, **self.settings(ALL), eval_interval=step)


def evaluated(log: Log, cfg: TrainConfig, model: Transformer, step: int) -> Point:
    """Score a model on the held-out conversations and the base text, and log it as the trainer does."""
    texts, args = base_text_rows(cfg, model.args), model.args
    score = evaluate_model(model, held_out_rows(cfg, args), texts, cfg.eval_rows)
    terminator = finite_or_none(score.answers.terminator_loss)
    log.record(step=step, val_loss=score.answers.loss, terminator_loss=terminator, base_text=score.base_text)
    return Point(step, float(step > 0), score.answers.loss, score.base_text)


def share_within(base: Transformer, tuned: Transformer, cfg: TrainConfig, budget: float) -> float:
    """The largest share of the tuned weights that forgets no more than the budget; the smallest if none does.

    The guard's rule without a look at held-out answers: for them, more is taken to be better.
    """
    texts = base_text_rows(cfg, base.args)

    def at(share: float) -> Point:
        model = choose.blended(base, tuned, share) if share else base
        losses = {name: answer_loss(model, rows, cfg.eval_rows).loss for name, rows in texts.items()}
        return Point(0, share, 0.0, losses)

    before = at(0.0)
    shares = (share for share in (1.0, *reversed(BLENDS)) if at(share).forgetting(before) <= budget)
    return next(shares, BLENDS[0])
