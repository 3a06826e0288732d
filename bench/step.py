"""One training step of ours against Hugging Face's LlamaForCausalLM: same shapes, float32, AdamW, rows in turn.

    pip install transformers
    python -m bench.step

Ours runs as train_arianna.py starts it (its environment included), the peer as its users start it.
"""

from __future__ import annotations

if __name__ == "__main__":
    import supervise

    supervise.restart_with_environment()

import json
import statistics
import sys
import time
from collections.abc import Callable

import torch

from arianna_data import Batch
from compute import Team, pick_precision
from model import ModelArgs, Transformer
from train_arianna import State, make_optimizer, train_step
from train_config import TrainConfig

ROWS, PAIRS = 8, 7


def ours(args: ModelArgs) -> Callable[[torch.Tensor, torch.Tensor], None]:
    model, cfg = Transformer(args), TrainConfig()
    model.init_weights(1)
    state, precision, alone = State(model, make_optimizer(model, cfg)), pick_precision("cpu", "float32"), Team.alone()

    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        state.step = 0
        train_step(state, Batch([(x, y)], y.numel(), y[:, 0].numpy()), cfg, model, precision, alone)

    return step


def peer(args: ModelArgs) -> Callable[[torch.Tensor, torch.Tensor], None]:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": args.dim, "intermediate_size": args.hidden, "num_hidden_layers": args.n_layers}
    heads = {"num_attention_heads": args.n_heads, "vocab_size": args.vocab_size, "max_position_embeddings": args.max_seq_len}
    model = LlamaForCausalLM(LlamaConfig(**shape, **heads, tie_word_embeddings=True))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.1)

    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        model(input_ids=x, labels=x, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def main() -> int:
    args = ModelArgs()
    steps = {"ours": ours(args), "LlamaForCausalLM": peer(args)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    generator = torch.Generator().manual_seed(1)
    for pair in range(PAIRS + 2):
        x = torch.randint(3, args.vocab_size, (ROWS, args.max_seq_len), generator=generator)
        for name, step in steps.items():
            started = time.monotonic()
            step(x, x.roll(-1, 1))
            if pair > 1:
                seconds[name].append(time.monotonic() - started)
    ratio = statistics.median(b / a for a, b in zip(*seconds.values(), strict=True))
    speeds = {f"{name}, tokens/s": round(ROWS * args.max_seq_len / statistics.median(s)) for name, s in seconds.items()}
    print(json.dumps({"bench": "step", **speeds, "ratio": round(ratio, 3), "pairs": PAIRS, "threads": torch.get_num_threads()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
