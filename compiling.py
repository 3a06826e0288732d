"""Whether a run's steps are compiled: settled before its first step and kept with its state, since it changes the last digits."""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
from collections.abc import Callable

import torch

from arianna_data import Task
from compute import Precision, Team
from config import UsageError
from model import Transformer

PAYS = {  # tokens that a run must have to win back the time that compiling takes
    ("cpu", torch.float32): 10_000_000,
    ("cpu", torch.bfloat16): 1_000_000,
    ("cuda", torch.float32): 2_000_000,
    ("cuda", torch.bfloat16): 2_000_000,
}


def choose(
    model: Transformer,
    asked: bool | None,
    before: bool | None,
    tokens: int,
    task: Task,
    precision: Precision,
    team: Team,
    say: Callable[[str], None],
) -> tuple[Callable, bool]:
    """The forward pass of the steps, and whether it is compiled.

    asked: what the user wants, None where it is left to us; before: how the run began; tokens: that it will see. Raises
    UsageError where what is asked, or how the run began, cannot be had.
    """
    if None not in (asked, before) and asked != before:
        began = "with compiled steps" if before else "without compiling"
        raise UsageError(f"the run began {began} and goes on so only: leave --compile out, or begin anew with --fresh.")
    settled = asked if before is None else before
    if not (worth_it(tokens, precision) if settled is None else settled):
        return model, False
    forward, failure = compiled(model, task, precision, team)
    if not failure:
        return forward, True
    if settled:
        began = "the run began with compiled steps, but here" if before else "--compile was given, but"
        raise UsageError(f"{began} compiling fails ({failure}). Install a compiler, or begin with --fresh --compile=no.")
    say(f"compiling fails ({failure}): the steps are as they are without")
    return model, False


def worth_it(tokens: int, precision: Precision) -> bool:
    """Whether so many tokens win the time back, and there is what torch.compile needs: a C++ compiler, for CUDA Triton."""
    kind = precision.device.type
    if tokens < PAYS.get((kind, precision.dtype), math.inf):
        return False
    if kind == "cuda":
        return importlib.util.find_spec("triton") is not None
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++"))


def compiled(model: Transformer, task: Task, precision: Precision, team: Team) -> tuple[Callable, str]:
    """The forward pass, compiled and tried on a batch, and why that failed in some process, if it did.

    Rows of texts have one length. For conversations it is left open, so that no step depends on those before it.
    """
    forward, failure = torch.compile(model, dynamic=task.rows.has_masks), ""
    try:
        x, y = (team.share(t).to(precision.device) for t in task.batch(0).parts[0])
        with precision():
            forward(x, y, max(1, y.numel())).backward()
    except Exception as error:  # there is no list of what a compiler can raise
        failure = f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"
    model.zero_grad(set_to_none=True)
    anywhere = team.any(bool(failure))
    return forward, failure or ("in another process" if anywhere else "")
