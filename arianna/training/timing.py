"""The time of a training step in each number format, by which `--dtype=auto` chooses on a CPU."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable

import torch

from arianna.training.devices import ProcessGroup, has_bfloat16, pick_precision
from arianna.training.optimizer import make_optimizer
from arianna.training.settings import TrainConfig
from arianna.training.state import State
from arianna.training.task import tokens_of
from arianna_data import POOL, Task
from model import Transformer

MEASURED = 50_000  # tokens of a run from which on both formats are timed: six steps, two or three seconds
CLEARLY = 0.9  # of float32's time: near a tie, the same command would choose now this, now that


def chooses(cfg: TrainConfig, task: Task, device: torch.device) -> bool:
    """Whether a new run measures and takes the faster number format; a short one would lose time by that."""
    two_formats = device.type == "cpu" and has_bfloat16(device)
    return cfg.dtype == "auto" and two_formats and tokens_of(cfg, task) >= MEASURED


def time_formats(
    step: Callable, cfg: TrainConfig, base: Transformer, task: Task, teacher: Transformer | None = None
) -> dict[str, float]:
    """Seconds of a usual step by number format: both formats where a run `chooses`, else the one it takes.

    `step` is train_step, done on a copy of the model and on the run's own rows. Each format's first step is
    not counted, since it also pays for what is set up once; of the next two the faster one counts.
    """
    usual = pick_precision(cfg.device, cfg.dtype)
    names = ["float32", "bfloat16"] if chooses(cfg, task, usual.device) else [usual.name]
    still = dataclasses.replace(cfg, learning_rate=1e-12)  # so that the copy stays the model it is
    model, batches = copy.deepcopy(base).to(usual.device), [task.batch(number) for number in range(POOL)]
    state = State(model, make_optimizer(model, still), teacher=teacher)
    seconds = dict.fromkeys(names, math.inf)
    for repetition in range(3):
        for name in names:
            state.step, started = 0, time.monotonic()
            step(state, batches[0], still, model, pick_precision(cfg.device, name), ProcessGroup.alone())
            seconds[name] = min(seconds[name], time.monotonic() - started) if repetition else math.inf
    mean_tokens = sum(batch.tokens for batch in batches) / len(batches)
    scale = mean_tokens / batches[0].tokens  # rows differ in length, and so do batches
    return {name: scale * least for name, least in seconds.items()}
