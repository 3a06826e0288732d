"""A unit of a search's work, done by a worker: a run on a fold, scored as the guard leaves it; or weights, averaged.

All that a worker knows comes from its job, whose folders hold nothing of the conversations held out for the verdict.
"""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path
from typing import Any

import torch

import train_arianna
from arianna.formats import checkpoint
from arianna.scoring import choose
from arianna.scoring.choose import Point
from arianna.searching.job import Job, Unit
from arianna.searching.space import stop_steps
from arianna.training.devices import Team, pick_precision
from arianna.training.optimizer import make_optimizer
from arianna.training.settings import TrainConfig
from arianna.training.state import State
from model import Transformer

TIMED = 3  # steps that are timed; the first is not counted, in which memory is taken
LINE = 10  # iterations between two training losses that are told


class Bench:
    """A worker's place: the base, once opened, and its scores on each fold."""

    def __init__(self, job: Job, base: Transformer):
        self.job, self.base = job, base
        self.bases: dict[str, Point] = {}

    def do(self, unit: Unit) -> dict[str, Any]:
        """The unit's answer, as plain values. A run whose numbers are no longer finite is told as diverged."""
        started = time.monotonic()
        try:
            if unit.timed:
                return self.time(unit)
            answer = self.average(unit) if unit.files else self.run(unit)
        except FloatingPointError as error:
            answer = {"diverged": str(error)}
        return {**answer, "seconds": time.monotonic() - started}

    def config(self, unit: Unit) -> TrainConfig:
        folders = {"base": self.job.base, "data_dir": str(Path(self.job.folds) / unit.data)}
        return TrainConfig(**{**self.job.trainer, **unit.settings, **folders, "seed": unit.seed})

    def state(self, cfg: TrainConfig) -> State:
        model = copy.deepcopy(self.base)
        return State(model, make_optimizer(model, cfg), teacher=self.base if cfg.replay else None)

    # ---- training ----

    def run(self, unit: Unit) -> dict[str, Any]:
        """Train, score at the stops and let the guard choose among them; or train to one stop and score that."""
        cfg = self.config(unit)
        stops = [unit.stop] if unit.stop else stop_steps(cfg.max_iters)
        scored = (
            unit.data.isdigit()
        )  # not where all conversations are trained: there is nothing honest to score
        points = [self.base_point(cfg, unit.data)] if scored else []
        best: Transformer | None = None
        state, losses = self.state(cfg), []
        for loss in self.steps(state, cfg, stops[-1]):
            if state.step % LINE == 0 or state.step == stops[-1]:
                losses.append([state.step, loss])
            if scored and state.step in stops:
                points.append(self.score(cfg, state.model, state.step, 1.0))
                if choose.best_checkpoint(points) is points[-1]:
                    best = state.model if state.step == stops[-1] else copy.deepcopy(state.model)
        if unit.keep:
            checkpoint.save(Path(unit.keep), checkpoint.pack(state.model, iter_num=state.step))
        return (self.guarded(cfg, points, best) if scored else {}) | {"step": state.step, "losses": losses}

    def steps(self, state: State, cfg: TrainConfig, last: int):
        """Yield the loss of each step up to the last."""
        task = train_arianna.make_task(cfg, state.model.args, state.teacher)
        precision, alone = pick_precision(cfg.device, cfg.dtype), Team.alone()
        for batch in task.iter_batches(0):
            yield train_arianna.train_step(state, batch, cfg, state.model, precision, alone)
            if state.step == last:
                return

    def time(self, unit: Unit) -> dict[str, Any]:
        """Seconds of a step with these settings."""
        cfg, ends = self.config(unit), [time.monotonic()]
        for _ in self.steps(self.state(cfg), cfg, TIMED):
            ends.append(time.monotonic())
        return {"step_seconds": (ends[-1] - ends[1]) / (TIMED - 1)}

    # ---- scoring ----

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

    def guarded(self, cfg: TrainConfig, points: list[Point], best: Transformer | None) -> dict[str, Any]:
        """What the guard makes of a run. Where no blend keeps within the budget, the base is what is left."""
        assert best is not None
        budget = self.job.max_forgetting

        def blend(point: Point, share: float) -> Point:
            return self.score(cfg, choose.blended(self.base, best, share), point.step, share)

        choice = choose.choose(points, budget, None, blend)
        used, within = choice.used, choice.used.forgetting(choice.base) <= budget
        answers = used.answer_loss if within else max(used.answer_loss, choice.base.answer_loss)
        told = {
            "answers": answers,
            "base": choice.base.answer_loss,
            "forgetting": used.forgetting(choice.base),
            "blend": used.blend,
        }
        return {**told, "points": [[p.step, p.answer_loss] for p in points[1:]]}

    def average(self, unit: Unit) -> dict[str, Any]:
        """The mean of several weights, kept where asked, and what the guard makes of it on a fold."""
        cfg = self.config(unit)
        model, step = averaged([Path(f) for f in unit.files])
        if unit.keep:
            checkpoint.save(Path(unit.keep), checkpoint.pack(model, iter_num=step))
        if not unit.data.isdigit():
            return {"step": step}
        model.to(self.base.tok_embeddings.weight.device)
        points = [self.base_point(cfg, unit.data), self.score(cfg, model, step, 1.0)]
        return self.guarded(cfg, points, model) | {"step": step}


def averaged(files: list[Path]) -> tuple[Transformer, int]:
    """The mean of several files' weights as a model (model soups, Wortsman et al. 2022, arXiv 2203.05482); their step."""
    states = [checkpoint.load(f) for f in files]
    model = checkpoint.build_model(states[0], files[0])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.stack([s["model"][name].float() for s in states]).mean(0))
    return model, states[0]["iter_num"]
