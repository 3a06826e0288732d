"""Tokens a second when one row or 32 are sampled (temperature 0.8, the 300 likeliest, of these 90%).

    pip install -e .[bench]
    python -m bench.generate                         # against Hugging Face's generate
    python -m bench.generate --llama2c=../llama2.c   # one row of the shipped base against llama2.c's run.c

llama2.c is no part of this project: name a checkout of it. A C compiler must be there; run.c is built with
-Ofast for this machine.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from arianna import ROOT, formats
from arianna.formats.write import write_model
from arianna.generate import stream
from arianna.training.devices import steady_threads
from bench import pairs
from bench.step import hf_config
from model import ModelArgs, Transformer
from tokenizer import BOS

NEW = 200  # tokens a row
SAMPLING = {"temperature": 0.8, "top_k": 300, "top_p": 0.9}
BASE = ROOT / "out/ckpt_v1_base.pt"  # trained: over untrained weights' flat choices run.c sorts all tokens
BUILD = ["cc", "-Ofast", "-march=native", "-fopenmp", "run.c", "-lm", "-o"]


def prompts(rows: int, args: ModelArgs) -> list[list[int]]:
    """One prompt of nine tokens for each row."""
    tokens = torch.randint(259, args.vocab_size, (rows, 8), generator=torch.Generator().manual_seed(1))
    return [[BOS, *row] for row in tokens.tolist()]


def ours() -> Callable[[int], None]:
    steady_threads()
    model = Transformer(ModelArgs())
    model.init_weights(1)

    def write(rows: int) -> None:
        for _ in stream(model, prompts(rows, model.args), NEW, **SAMPLING):
            pass

    return write


def base() -> Callable[[int], None]:
    steady_threads()
    model = formats.open_model(BASE)

    def write(rows: int) -> None:
        for _ in stream(model, [[BOS]] * rows, NEW, **SAMPLING):
            pass

    return write


def peer() -> Callable[[int], None]:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(hf_config(ModelArgs())).eval()

    def write(rows: int) -> None:
        ids = torch.tensor(prompts(rows, ModelArgs()))
        length = {"min_new_tokens": NEW, "max_new_tokens": NEW, "pad_token_id": 0}
        with torch.inference_mode():
            model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, **SAMPLING, **length)

    return write


def against_transformers() -> None:
    with pairs.workers("bench.generate", {"ours": True, "peer": False}) as workers:
        for rows in (1, 32):
            asked = {name: lambda w=w, rows=rows: w.ask(str(rows)) for name, w in workers.items()}
            seconds = pairs.in_turn(asked)
            speed = {name: round(rows * NEW / statistics.median(s)) for name, s in seconds.items()}
            pairs.tell(
                f"generate, {rows} row{'s' * (rows > 1)}",
                tokens_per_second=speed["ours"],
                peer="LlamaForCausalLM.generate",
                peer_tokens_per_second=speed["peer"],
                ratio=pairs.ratio(seconds["peer"], seconds["ours"]),
                pairs=pairs.PAIRS,
            )


def against_llama2c(checkout: Path) -> None:
    """One row of the shipped base by one and by two threads, ours and llama2.c's run in turn."""
    with tempfile.TemporaryDirectory() as folder:
        binary, model = Path(folder, "run"), Path(folder, "base.bin")
        subprocess.run([*BUILD, str(binary)], cwd=checkout, check=True)
        write_model(formats.open_model(BASE), model)
        for threads in ("1", "2"):
            os.environ["OMP_NUM_THREADS"] = threads  # of both: read when a process starts
            with pairs.workers("bench.generate", {"base": True}) as workers:
                by_worker = workers["base"].ask
                asked = {
                    "ours": lambda ask=by_worker: ask("1") / NEW,
                    "run": lambda: seconds_of_run(binary, model),
                }
                seconds = pairs.in_turn(asked)
            pairs.tell(
                f"generate, 1 row, {threads} thread{'s' * (threads != '1')}",
                tokens_per_second=round(1 / statistics.median(seconds["ours"])),
                peer="llama2.c's run -Ofast",
                peer_tokens_per_second=round(1 / statistics.median(seconds["run"])),
                ratio=pairs.ratio(seconds["run"], seconds["ours"]),
                pairs=pairs.PAIRS,
            )


def seconds_of_run(binary: Path, model: Path) -> float:
    """Seconds a token, as llama2.c's run tells them itself (without its start)."""
    sampling = ["-t", str(SAMPLING["temperature"]), "-p", str(SAMPLING["top_p"]), "-s", "1", "-n", str(NEW)]
    command = [str(binary), str(model), "-z", str(ROOT / "data/tok4096.bin"), *sampling]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)
    return 1 / float(re.search(r"achieved tok/s: ([\d.]+)", done.stderr)[1])


def seconds_of(write: Callable[[int], None], rows: int) -> float:
    started = time.monotonic()
    write(rows)
    return time.monotonic() - started


def main() -> int:
    argument = sys.argv[1] if len(sys.argv) > 1 else ""
    if argument.startswith("--llama2c="):
        against_llama2c(Path(argument.removeprefix("--llama2c=")))
    elif argument:
        write = {"ours": ours, "base": base, "peer": peer}[argument]()
        return pairs.serve(lambda rows: seconds_of(write, int(rows)))
    else:
        against_transformers()
    return 0


if __name__ == "__main__":
    sys.exit(main())
