"""The decision whether a run's steps are compiled, kept with its state: the last bits differ."""

from __future__ import annotations

import copy
import importlib.util
import math
import os
import shutil
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from arianna.ops import QUERY_ROWS
from arianna.system.config import UsageError
from arianna.training.devices import Precision, ProcessGroup
from arianna_data import Batch, Task
from model import Transformer, TransformerBlock

PAYS = {  # tokens that a run must have to win back the time that compiling and timing take
    ("cpu", torch.float32): 1_000_000,  # 28 s, then 2,886 tokens/s become 3,196 on two cores
    ("cpu", torch.bfloat16): 1_000_000,
    ("cuda", torch.float32): 4_000_000,  # 16 s, then 211,000 tokens/s become 1,117,000 on an H200 in bfloat16
    ("cuda", torch.bfloat16): 4_000_000,
}
VARIED = 4_000_000  # the same where rows have many lengths, on a CPU: the gain is smaller, and may be none
CLEARLY = 0.95  # of the plain time: near a tie, the same command would choose now this, now that


def choose(
    model: Transformer,
    asked: bool | None,
    before: bool | None,
    tokens: int,
    task: Task,
    precision: Precision,
    group: ProcessGroup,
    say: Callable[[str], None],
) -> tuple[Callable, bool]:
    """The forward pass of the steps, and whether it is compiled.

    asked: the user's --compile, None for "where it pays"; before: how the run began, None for a new one;
    tokens: how many it will compute. Raises UsageError where the steps must be compiled and cannot be.
    """
    if None not in (asked, before) and asked != before:
        began = "with compiled steps" if before else "without compiling"
        raise UsageError(
            f"the run began {began} and goes on so only: leave --compile out, or begin anew with --fresh."
        )
    settled = asked if before is None else before
    if not (worth_it(tokens, precision, task.rows.has_masks) if settled is None else settled):
        return model, False
    forward, failure = compiled(model, task, precision, group)
    if not failure:
        timed = settled is None and precision.device.type == "cpu"  # on CUDA it has won every time
        wins = not timed or faster(model, forward, task, precision, group, say)
        return (forward, True) if wins else (model, False)
    if settled:
        began = "the run began with compiled steps, but" if before else "--compile was given, but"
        raise UsageError(
            f"{began} torch.compile failed ({failure}). "
            "Install a compiler, or begin with --fresh --compile=no."
        )
    say(f"torch.compile failed ({failure}): continuing without it")
    return model, False


def worth_it(tokens: int, precision: Precision, varied: bool) -> bool:
    """Whether so many tokens may win the time back, and torch.compile finds its compiler.

    That is one for C++ on a CPU, Triton on CUDA. `varied`: rows have many lengths.
    """
    kind = precision.device.type
    least = PAYS.get((kind, precision.dtype), math.inf)
    if tokens < (max(least, VARIED) if varied and kind == "cpu" else least):
        return False
    if kind == "cuda":
        return importlib.util.find_spec("triton") is not None
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++"))


def faster(
    model: Transformer,
    forward: Callable,
    task: Task,
    precision: Precision,
    group: ProcessGroup,
    say: Callable[[str], None],
) -> bool:
    """Whether the compiled passes forward and back take clearly less time than the plain ones here."""
    batches = [task.batch(number) for number in range(4)]  # of several lengths, where rows have them
    plain, fast = time_passes([model, forward], batches, precision, group)
    model.zero_grad(set_to_none=True)
    wins = group.any(group.is_main and fast < CLEARLY * plain)  # the main process's choice is that of all
    chosen = "compiling" if wins else "continuing without it"
    say(f"forward and back take {1000 * plain:.0f} ms, compiled {1000 * fast:.0f} ms: {chosen}")
    return wins


def time_passes(
    forwards: list[Callable], batches: list[Batch], precision: Precision, group: ProcessGroup
) -> list[float]:
    """Seconds a batch that each forward takes on a CPU with its backward pass: the least of two, in turn."""
    seconds = [math.inf] * len(forwards)
    for repetition in range(3):  # the first sets up what the next ones use
        for i, forward in enumerate(forwards):
            started = time.monotonic()
            for batch in batches:
                for x, y in batch.micro_batches:
                    with precision():
                        loss = forward(group.shard(x), group.shard(y), batch.n_targets)
                    loss.backward()
            taken = (time.monotonic() - started) / len(batches)
            seconds[i] = min(seconds[i], taken) if repetition else math.inf
    return seconds


def compiled(
    model: Transformer, task: Task, precision: Precision, group: ProcessGroup
) -> tuple[Callable, str]:
    """The forward pass, compiled and tried, and why that failed in some process, if it did."""
    varied, failure = task.rows.has_masks, ""
    forward = with_compiled_layers(model) if varied else torch.compile(model, mode=mode_for(task, precision))
    longest = model.args.max_seq_len
    try:
        shorter = range(QUERY_ROWS, longest, QUERY_ROWS) if varied else ()
        for length in (*shorter, longest):  # each gets a graph
            x = group.shard(torch.zeros(task.batch_size, length, dtype=torch.long)).to(precision.device)
            with precision():
                forward(x, x, x.numel()).backward()
    except Exception as error:  # there is no list of what a compiler can raise
        failure = f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"
    model.zero_grad(set_to_none=True)
    anywhere = group.any(bool(failure))
    return forward, failure or ("in another process" if anywhere else "")


def mode_for(task: Task, precision: Precision) -> str | None:
    """The mode of torch.compile: on CUDA a graph of all launches, for which a small model mostly waits.

    The graph's gradients lie where the next backward pass writes, so that a step must have only one.
    """
    one_pass = task.accumulated == 1 and not task.share
    return "reduce-overhead" if precision.device.type == "cuda" and one_pass else None


def with_compiled_layers(model: Transformer) -> Transformer:
    """The same weights, with one compiled layer that computes all layers; rows may have any length.

    Compiling the whole model for any length takes many minutes. Lengths are marked as dynamic: by itself the
    compiler would take the first for a fixed one, and a step's result would depend on the steps before it.
    A graph that torch 2.13 takes from its cache has lost these marks and is refused, so each process
    makes its own; the C++ compiled for it does come from the cache.
    """
    compiled = torch.compile(TransformerBlock.forward, options={"fx_graph_cache": False})

    def layer(block: TransformerBlock, x: Tensor, cos: Tensor, sin: Tensor, cache: None) -> Tensor:
        for tensor, dimension in ((x, 1), (cos, 0), (sin, 0)):
            torch._dynamo.mark_dynamic(tensor, dimension)
        return compiled(block, x, cos, sin)

    twin = copy.copy(model)
    twin._modules = {name: module for name, module in model._modules.items() if name != "layers"}
    twin.layers = [partial(layer, block) for block in model.layers]
    return twin
