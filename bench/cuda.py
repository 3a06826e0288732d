"""On a CUDA GPU: training steps as they are and compiled, their share of its peak, what bounds them, and a
whole default fine-tune.

    python -m bench.cuda           # steps of InnerArianna and of stories110M's shape
    python -m bench.cuda whole     # arianna_ft.py on the files that are shipped, in a new folder

The peak is what a large bfloat16 matrix product reaches there. Of a step, 6 operations a weight and token are
counted and those of causal attention; what is computed twice is not.
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from arianna.formats.shapes import weight_shapes
from arianna.training.devices import Precision, ProcessGroup
from arianna.training.optimizer import make_optimizer
from arianna.training.settings import TrainConfig
from arianna.training.state import State
from arianna_data import Batch
from bench import pairs
from model import ModelArgs, Transformer
from train_arianna import train_step

HERE = Path(__file__).resolve().parent.parent
SHAPES = {
    "InnerArianna": (ModelArgs(), (8, 32, 256)),
    "stories110M": (ModelArgs(dim=768, n_layers=12, n_heads=12, vocab_size=32000, max_seq_len=1024), (8, 32)),
}
KINDS = {"as it is": None, "compiled": "default", "compiled, CUDA graphs": "reduce-overhead"}
STEPS, LARGE = 10, 8192  # of a measurement; rows and columns of the product that shows the peak


def flop(args: ModelArgs) -> int:
    """Of a token, forward and backward, with all positions of the context in use."""
    matrices = [
        shape
        for name, shape in weight_shapes(args).items()
        if len(shape) == 2 and name != "tok_embeddings.weight"
    ]
    return 6 * sum(a * b for a, b in matrices) + 6 * args.n_layers * args.dim * args.max_seq_len


def peak() -> float:
    """Floating-point operations a second of a large bfloat16 product."""
    a, b = torch.randn(2, LARGE, LARGE, device="cuda", dtype=torch.bfloat16)
    seconds = [timed(lambda: a @ b) for _ in range(10)]
    return 2 * LARGE**3 / statistics.median(seconds[3:])


def timed(function: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def stepper(args: ModelArgs, rows: int, mode: str | None) -> Callable[[], None]:
    """STEPS training steps as train_arianna.py takes them, with its forward pass compiled in a mode of
    torch.compile or not."""
    cfg, precision, alone = (
        TrainConfig(),
        Precision(torch.device("cuda"), torch.bfloat16),
        ProcessGroup.alone(),
    )
    model = Transformer(args)
    model.init_weights(1)
    state = State(model.cuda(), None)
    state.optimizer = make_optimizer(model, cfg)
    forward = torch.compile(model, mode=mode) if mode else model
    x = torch.randint(
        3, args.vocab_size, (rows, args.max_seq_len), generator=torch.Generator().manual_seed(1)
    )
    batch = Batch([(x, x.roll(-1, 1))], x.numel(), x[:, 0].numpy())

    def steps() -> None:
        for _ in range(STEPS):
            state.step = 0
            train_step(state, batch, cfg, forward, precision, alone)

    return steps


def profile(steps: Callable[[], None]) -> dict[str, Any]:
    """Share of the time in which the GPU computes, kernels a step, and the most expensive of them by their
    share of its time."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        seconds = timed(steps)
    kernels = [e for e in profiler.key_averages() if e.self_device_time_total > 0]
    busy = sum(e.self_device_time_total for e in kernels)
    kernels.sort(key=lambda e: -e.self_device_time_total)
    most = {re.sub(r"\s+", " ", e.key)[:60]: round(e.self_device_time_total / busy, 3) for e in kernels[:6]}
    return {
        "gpu_at_work": round(busy / 1e6 / seconds, 3),
        "kernels_a_step": sum(e.count for e in kernels) // STEPS,
        "most": most,
    }


def measure_steps() -> None:
    best = peak()
    card = torch.cuda.get_device_name()
    pairs.tell("cuda, peak", card=card, tflops=round(best / 1e12))
    for name, (args, sizes) in SHAPES.items():
        for rows in sizes:
            made, first = {kind: stepper(args, rows, mode) for kind, mode in KINDS.items()}, {}
            for kind, steps in made.items():
                first[kind] = timed(steps)
            seconds = pairs.in_turn({kind: partial(timed, steps) for kind, steps in made.items()}, warm=1)
            for kind, steps in made.items():
                speed = STEPS * rows * args.max_seq_len / statistics.median(seconds[kind])
                pairs.tell(
                    "cuda, step",
                    model=name,
                    rows=rows,
                    kind=kind,
                    tokens_per_second=round(speed),
                    step_ms=round(1000 * statistics.median(seconds[kind]) / STEPS, 2),
                    share_of_peak=round(speed * flop(args) / best, 4),
                    ratio=pairs.ratio(seconds["as it is"], seconds[kind]),
                    first_steps_seconds=round(first[kind], 1),
                    card=card,
                    **profile(steps),
                )
            del made
            torch._dynamo.reset()
            torch.cuda.empty_cache()


def measure_whole(flags: list[str]) -> None:
    """Seconds from the command to the first step, to the end of training and to the end."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        shutil.copytree(HERE / "data", place / "data")
        (place / "out").mkdir()
        shutil.copy(HERE / "out/ckpt_v1_base.pt", place / "out")
        started, at, speeds, last = time.monotonic(), {}, [], ""
        command = [sys.executable, str(HERE / "arianna_ft.py"), *flags]
        child = subprocess.Popen(
            command, cwd=place, env=pairs.environment(False), stdout=subprocess.PIPE, text=True
        )
        for line in child.stdout:
            now = time.monotonic() - started
            if step := re.match(r"(\d+) \| loss .* ([\d,]+) tok/s", line):
                at.setdefault("first_line", now)
                at["trained"] = now
                speeds.append(int(step[2].replace(",", "")))
            last = line.strip() if re.match(r"Better|Worse|No clear|Cannot tell", line) else last
            print(line, end="", file=sys.stderr)
        at["all"] = time.monotonic() - started
    seconds = {name: round(s, 1) for name, s in at.items()}
    speed = round(statistics.median(speeds))
    pairs.tell(
        "cuda, whole",
        flags=flags,
        seconds=seconds,
        tokens_per_second=speed,
        verdict=last,
        card=torch.cuda.get_device_name(),
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["whole"]:
        measure_whole(sys.argv[2:])
    else:
        measure_steps()
