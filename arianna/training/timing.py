"""The time of a training step in each number format, by which `--dtype=auto` chooses on a CPU that computes
with bfloat16.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable

import torch

from arianna.training.devices import ProcessGroup, has_two_formats, pick_precision
from arianna.training.optimizer import make_optimizer
from arianna.training.settings import TrainConfig
from arianna.training.state import State
from arianna.training.task import tokens_of
from arianna_data import POOL, Task
from model import Transformer

MEASURED = 50_000  # tokens of a run from which on both formats are timed: six steps, two or three seconds
# bfloat16 must take less of float32's time: near a tie, the same command is to choose the same each time
CLEARLY = 0.9


def chooses(cfg: TrainConfig, task: Task, device: torch.device) -> bool:
    """Whether a new run takes the faster number format; a short one would lose more time by measuring than it
    won.
    """
    return cfg.dtype == "auto" and has_two_formats(device) and tokens_of(cfg, task) >= MEASURED


def time_formats(
    step: Callable, cfg: TrainConfig, base: Transformer, task: Task, teacher: Transformer | None = None
) -> dict[str, float]:
    """Seconds of a usual step from a model, by number format: both where a run `chooses`, else the one it
    takes.

    `step` is train_step; computed on a copy, on the run's own rows. Each format's first step is not counted,
    since it also pays for what is set up once; of the two that follow, taken in turn, the faster one counts.
    """
    usual = pick_precision(cfg.device, cfg.dtype)
    names = ["float32", "bfloat16"] if chooses(cfg, task, usual.device) else [usual.name]
    near = dataclasses.replace(
        cfg, learning_rate=1e-12
    )  # the copy stays where it is, whatever the run's rate
    model, batches = copy.deepcopy(base).to(usual.device), [task.batch(number) for number in range(POOL)]
    state, seconds = (
        State(model, make_optimizer(model, near), teacher=teacher),
        dict.fromkeys(names, math.inf),
    )
    for turn in range(3):
        for name in names:
            state.step, started = 0, time.monotonic()
            step(state, batches[0], near, model, pick_precision(cfg.device, name), ProcessGroup.alone())
            seconds[name] = min(seconds[name], time.monotonic() - started) if turn else math.inf
    scale = (
        sum(b.tokens for b in batches) / len(batches) / batches[0].tokens
    )  # rows differ in length, so do batches
    return {name: scale * least for name, least in seconds.items()}
