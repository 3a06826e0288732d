"""The runs of a search, in a worker: on a fold, scored as the guard leaves them, or on all conversations."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import train_arianna
from arianna.formats import checkpoint
from arianna.scoring import choose
from arianna.scoring.choose import Point
from arianna.searching.job import Job, Unit
from arianna.searching.space import stop_steps
from arianna.training.devices import ProcessGroup, pick_precision
from arianna.training.optimizer import make_optimizer
from arianna.training.settings import TrainConfig
from arianna.training.state import State
from arianna.training.task import make_task
from model import Transformer

LINE = 10  # iterations between two training losses that are stored


class Bench:
    """A worker's base, opened once, and the base's scores on each fold."""

    def __init__(self, job: Job, base: Transformer, folder: Path):
        self.job, self.base, self.folder = job, base, folder
        self.bases: dict[str, Point] = {}

    def do(self, unit: Unit) -> dict[str, Any]:
        """The result of a run as plain values; if its numbers are no longer finite, it is "diverged"."""
        started = time.monotonic()
        try:
            answer = self.run(unit)
        except FloatingPointError as error:
            answer = {"diverged": str(error)}
        return {**answer, "seconds": time.monotonic() - started}

    def config(self, unit: Unit) -> TrainConfig:
        folders = {"base": self.job.base, "data_dir": str(self.folder / unit.data)}
        return TrainConfig(**{**self.job.trainer, **unit.settings, **folders, "seed": unit.seed})

    def run(self, unit: Unit) -> dict[str, Any]:
        """Train; on a fold, score at the stops and let the guard choose among them."""
        cfg = self.config(unit)
        stops = [unit.stop] if unit.stop else stop_steps(cfg.max_iters)
        is_fold = unit.data.isdigit()
        points, losses, best = [self.base_point(cfg, unit.data)] if is_fold else [], [], self.base
        for state, loss in self.steps(cfg, stops[-1]):
            if state.step % LINE == 0 or state.step == stops[-1]:
                losses.append([state.step, loss])
            if is_fold and state.step in stops:
                points.append(self.score(cfg, state.model, state.step, 1.0))
                if choose.best_checkpoint(points) is points[-1]:
                    best = copy.deepcopy(state.model)
        if unit.keep:
            checkpoint.save(unit.keep, checkpoint.pack(state.model, iter_num=state.step))
        return (self.guarded(cfg, points, best) if is_fold else {}) | {"step": state.step, "losses": losses}

    def steps(self, cfg: TrainConfig, last: int) -> Iterator[tuple[State, float]]:
        """The state after each step up to the last, and its loss."""
        model = copy.deepcopy(self.base)
        state = State(model, make_optimizer(model, cfg), teacher=self.base if cfg.replay else None)
        task = make_task(cfg, model.args, state.teacher)
        precision, alone = pick_precision(cfg.device, cfg.dtype), ProcessGroup.alone()
        for batch in task.iter_batches(0):
            yield state, train_arianna.train_step(state, batch, cfg, model, precision, alone)
            if state.step == last:
                return

    # ---- scores ----

    def score(self, cfg: TrainConfig, model: Transformer, step: int, share: float) -> Point:
        """Losses of a model on a fold's held-out answers and on the base text."""
        point = train_arianna.score_point(cfg, model, step, share)
        if not math.isfinite(point.answer_loss):
            raise FloatingPointError(f"the held-out loss is {point.answer_loss} at iteration {step}")
        return point

    def base_point(self, cfg: TrainConfig, data: str) -> Point:
        if data not in self.bases:
            self.bases[data] = self.score(cfg, self.base, 0, 0.0)
        return self.bases[data]

    def guarded(self, cfg: TrainConfig, points: list[Point], best: Transformer) -> dict[str, Any]:
        """The scores of a run as the guard leaves it: no gain where no blend keeps within the budget."""

        def blend(point: Point, share: float) -> Point:
            return self.score(cfg, choose.blended(self.base, best, share), point.step, share)

        choice = choose.choose(points, self.job.max_forgetting, None, blend)
        used, forgot = choice.used, choice.used.forgetting(choice.base)
        least = -math.inf if forgot <= self.job.max_forgetting else choice.base.answer_loss
        losses = {"answers": max(used.answer_loss, least), "base": choice.base.answer_loss}
        return losses | {"forgetting": forgot, "points": [[p.step, p.answer_loss] for p in points[1:]]}

    def soup(self, unit: Unit, files: Sequence[Path]) -> dict[str, Any]:
        """The scores, as the guard leaves them, of the mean of several weights on a fold."""
        cfg, (model, step) = self.config(unit), averaged(files)
        points = [self.base_point(cfg, unit.data), self.score(cfg, model, step, 1.0)]
        return self.guarded(cfg, points, model)


def averaged(files: Sequence[Path]) -> tuple[Transformer, int]:
    """The mean of files' weights as a model, and their step (model soups, Wortsman et al. 2022)."""
    states = [checkpoint.load(f) for f in files]
    model = checkpoint.build_model(states[0], files[0])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.stack([s["model"][name].float() for s in states]).mean(0))
    return model, states[0]["iter_num"]
