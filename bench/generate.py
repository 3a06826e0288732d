"""Tokens a second when one row or 32 are sampled (temperature 0.8, the 300 likeliest, of these 90%), against Hugging Face's generate.

pip install -e .[bench]
python -m bench.generate
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch

from arianna.generate import stream
from arianna.training.devices import steady_threads
from bench import pairs
from bench.step import hf_config
from model import ModelArgs, Transformer

NEW = 200  # tokens a row
SAMPLING = {"temperature": 0.8, "top_k": 300, "top_p": 0.9}


def prompts(rows: int, args: ModelArgs) -> list[list[int]]:
    """One prompt of nine tokens for each row."""
    tokens = torch.randint(259, args.vocab_size, (rows, 8), generator=torch.Generator().manual_seed(1))
    return [[1, *row] for row in tokens.tolist()]


def ours(args: ModelArgs) -> Callable[[int], None]:
    steady_threads()
    model = Transformer(args)
    model.init_weights(1)

    def write(rows: int) -> None:
        for _ in stream(model, prompts(rows, args), NEW, **SAMPLING):
            pass

    return write


def peer(args: ModelArgs) -> Callable[[int], None]:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(hf_config(args)).eval()

    def write(rows: int) -> None:
        ids = torch.tensor(prompts(rows, args))
        length = {"min_new_tokens": NEW, "max_new_tokens": NEW, "pad_token_id": 0}
        with torch.inference_mode():
            model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, **SAMPLING, **length)

    return write


def main() -> int:
    args = ModelArgs()
    if len(sys.argv) > 1:
        write = {"ours": ours, "peer": peer}[sys.argv[1]](args)
        return pairs.serve(lambda rows: seconds_of(write, int(rows)))
    with pairs.workers("bench.generate", {"ours": True, "peer": False}) as found:
        for rows in (1, 32):
            seconds = pairs.in_turn({name: lambda w=w, rows=rows: w.ask(str(rows)) for name, w in found.items()})
            speed = {name: round(rows * NEW / statistics.median(s)) for name, s in seconds.items()}
            pairs.tell(
                f"generate, {rows} row{'s' * (rows > 1)}",
                tokens_per_second=speed["ours"],
                peer="LlamaForCausalLM.generate",
                peer_tokens_per_second=speed["peer"],
                ratio=pairs.ratio(seconds["peer"], seconds["ours"]),
                pairs=pairs.PAIRS,
            )
    return 0


def seconds_of(write: Callable[[int], None], rows: int) -> float:
    started = time.monotonic()
    write(rows)
    return time.monotonic() - started


if __name__ == "__main__":
    sys.exit(main())
