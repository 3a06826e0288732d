"""One training step of ours, plain and compiled, against Hugging Face's LlamaForCausalLM: same shapes, float32, AdamW, in turn.

    pip install -e .[bench]
    python -m bench.step

Each runs in a process of its own: ours as train_arianna.py starts it, the peer as its users start it. The limit is what the
matrix products of a step alone would allow, by the faster of torch's two libraries for each.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from arianna import ops
from arianna.formats.shapes import weight_shapes
from arianna.training.devices import ProcessGroup, pick_precision, steady_threads
from arianna.training.optimizer import make_optimizer
from arianna.training.settings import TrainConfig
from arianna.training.state import State
from arianna_data import Batch
from bench import pairs
from model import ModelArgs, Transformer
from train_arianna import train_step

ROWS = 8
Step = Callable[[Tensor, Tensor], None]


def ours(args: ModelArgs, compiled: bool = False) -> Step:
    steady_threads()
    model, cfg = Transformer(args), TrainConfig()
    model.init_weights(1)
    forward = torch.compile(model) if compiled else model
    state, precision, alone = State(model, make_optimizer(model, cfg)), pick_precision("cpu", "float32"), ProcessGroup.alone()

    def step(x: Tensor, y: Tensor) -> None:
        state.step = 0
        train_step(state, Batch([(x, y)], y.numel(), y[:, 0].numpy()), cfg, forward, precision, alone)

    return step


def peer(args: ModelArgs) -> Step:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(hf_config(args))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.1)

    def step(x: Tensor, y: Tensor) -> None:
        model(input_ids=x, labels=x, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def hf_config(args: ModelArgs):
    from transformers import LlamaConfig

    shape = {"hidden_size": args.dim, "intermediate_size": args.hidden, "num_hidden_layers": args.n_layers}
    heads = {"num_attention_heads": args.n_heads, "vocab_size": args.vocab_size, "max_position_embeddings": args.max_seq_len}
    return LlamaConfig(**shape, **heads, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True)


def seconds_of(step: Step, args: ModelArgs) -> float:
    x = torch.randint(3, args.vocab_size, (ROWS, args.max_seq_len), generator=torch.Generator().manual_seed(1))
    started = time.monotonic()
    step(x, x.roll(-1, 1))
    return time.monotonic() - started


def product_seconds(args: ModelArgs) -> float:
    """Of all float32 matrix products of a step but attention's: forward, for the inputs' gradients, for the weights'."""
    total, n = 0.0, ROWS * args.max_seq_len
    shapes = [shape for name, shape in weight_shapes(args).items() if len(shape) == 2 and name != "tok_embeddings.weight"]
    for shape in set(shapes):
        weight, x, grad = torch.randn(shape), torch.randn(n, shape[1]), torch.randn(n, shape[0])
        products = [(x, weight), (grad, weight.t()), (grad.t(), x.t())]
        total += shapes.count(shape) * sum(fastest(a, b) for a, b in products)
    return total


def fastest(a: Tensor, b: Tensor) -> float:
    """Seconds of a @ b.T by the faster library."""
    libraries = [lambda: a @ b.t(), *([lambda: ops.onednn(a, b)] if ops.X86 else [])]
    return min(least(library) for library in libraries)


def least(function: Callable[[], object], times: int = 5) -> float:
    found = []
    for _ in range(times):
        started = time.perf_counter()
        function()
        found.append(time.perf_counter() - started)
    return min(found)


def worker(which: str, args: ModelArgs) -> Callable[[str], float]:
    if which == "limit":
        return lambda _: product_seconds(args)
    step = peer(args) if which == "peer" else ours(args, which == "compiled")
    return lambda _: seconds_of(step, args)


def main() -> int:
    args = ModelArgs()
    if len(sys.argv) > 1:
        return pairs.serve(worker(sys.argv[1], args))
    with pairs.workers("bench.step", {"ours": True, "compiled": True, "peer": False, "limit": True}) as found:
        seconds = pairs.in_turn({name: w.ask for name, w in found.items()})
    limit = statistics.median(seconds["limit"])
    for name in ("ours", "compiled"):
        pairs.tell(
            f"step, {name}",
            tokens_per_second=speed(seconds[name], args),
            peer="LlamaForCausalLM, eager",
            peer_tokens_per_second=speed(seconds["peer"], args),
            ratio=pairs.ratio(seconds["peer"], seconds[name]),
            limit=speed(seconds["limit"], args),
            share_of_limit=round(limit / statistics.median(seconds[name]), 3),
            pairs=pairs.PAIRS,
        )
    return 0


def speed(seconds: list[float], args: ModelArgs) -> int:
    return round(ROWS * args.max_seq_len / statistics.median(seconds))


if __name__ == "__main__":
    sys.exit(main())
