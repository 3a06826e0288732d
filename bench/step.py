"""Time a training step of ours against Hugging Face's LlamaForCausalLM: same shapes, same number format,
AdamW, in turn.

    pip install -e .[bench]
    python -m bench.step              # float32 and bfloat16, full windows and rows as conversations have them
    python -m bench.step bfloat16     # one format

Each runs in a process of its own: ours as train_arianna.py starts it, the peer as its users start it,
bfloat16 by autocast in both. The limit is what the matrix products of a step alone would allow, by the faster
of torch's two libraries.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

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
FORMATS = ("float32", "bfloat16")
LENGTHS = {  # tokens of the rows of the steps that are timed together
    "windows": (256,),
    "conversations": (48, 96, 144, 208, 256),  # a fine-tune's batches are grouped by length
}
Step = Callable[[Tensor, Tensor, str], None]  # one update by inputs, targets and number format


def ours(args: ModelArgs, compiled: bool = False) -> Step:
    steady_threads()
    model, cfg = Transformer(args), TrainConfig()
    model.init_weights(1)
    forward = torch.compile(model) if compiled else model
    state, alone = State(model, make_optimizer(model, cfg)), ProcessGroup.alone()

    def step(x: Tensor, y: Tensor, dtype: str) -> None:
        state.step = 0
        train_step(
            state,
            Batch([(x, y)], y.numel(), y[:, 0].numpy()),
            cfg,
            forward,
            pick_precision("cpu", dtype),
            alone,
        )

    return step


def peer(args: ModelArgs) -> Step:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(hf_config(args))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.1)

    def step(x: Tensor, y: Tensor, dtype: str) -> None:
        with pick_precision("cpu", dtype)():
            loss = model(input_ids=x, labels=x, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def hf_config(args: ModelArgs):
    from transformers import LlamaConfig

    shape = {"hidden_size": args.dim, "intermediate_size": args.hidden, "num_hidden_layers": args.n_layers}
    heads = {
        "num_attention_heads": args.n_heads,
        "vocab_size": args.vocab_size,
        "max_position_embeddings": args.max_seq_len,
    }
    return LlamaConfig(**shape, **heads, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True)


def seconds_of(step: Step, args: ModelArgs, dtype: str, rows: str) -> float:
    """Seconds of a step of each length."""
    generator = torch.Generator().manual_seed(1)
    batches = [
        torch.randint(3, args.vocab_size, (ROWS, length), generator=generator) for length in LENGTHS[rows]
    ]
    started = time.monotonic()
    for x in batches:
        step(x, x.roll(-1, 1), dtype)
    return time.monotonic() - started


def product_seconds(args: ModelArgs, dtype: str, rows: str) -> float:
    """Seconds of all matrix products of these steps but attention's: forward, for the inputs' gradients, for
    the weights'.
    """
    shapes = [
        shape
        for name, shape in weight_shapes(args).items()
        if len(shape) == 2 and name != "tok_embeddings.weight"
    ]
    total, numbers = 0.0, getattr(torch, dtype)
    for n in (ROWS * length for length in LENGTHS[rows]):
        for shape in set(shapes):
            sizes = (shape, (n, shape[1]), (n, shape[0]))
            weight, x, grad = (torch.randn(size).to(numbers) for size in sizes)
            products = [(x, weight), (grad, weight.t()), (grad.t(), x.t())]
            total += shapes.count(shape) * sum(fastest(a, b) for a, b in products)
    return total


def fastest(a: Tensor, b: Tensor) -> float:
    """Seconds of a @ b.T by the faster library."""
    both = ops.X86 and a.dtype == torch.float32  # torch takes oneDNN for bfloat16 itself
    libraries = [lambda: a @ b.t(), *([lambda: ops.onednn(a, b)] if both else [])]
    return min(least(library) for library in libraries)


def least(function: Callable[[], object], times: int = 5) -> float:
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def worker(which: str, args: ModelArgs) -> Callable[[str], float]:
    """The function that answers "FORMAT ROWS" with seconds."""
    if which == "limit":
        return lambda asked: product_seconds(args, *asked.split())
    step = peer(args) if which == "peer" else ours(args, which == "compiled")
    return lambda asked: seconds_of(step, args, *asked.split())


def main(argv: list[str]) -> int:
    args, programs = ModelArgs(), {"ours": True, "compiled": True, "peer": False, "limit": True}
    if argv and argv[0] in programs:
        return pairs.serve(worker(argv[0], args))
    for dtype in argv or FORMATS:
        for rows in LENGTHS:
            # compiled windows alone: for rows of any length a run compiles its layers, which takes 18 s for
            # 0.95 to 1.24 times
            tuned = {name: flag for name, flag in programs.items() if rows == "windows" or name != "compiled"}
            with pairs.workers("bench.step", tuned) as workers:
                asked = {name: partial(w.ask, f"{dtype} {rows}") for name, w in workers.items()}
                tell(dtype, rows, pairs.in_turn(asked))
    return 0


def tell(dtype: str, rows: str, seconds: dict[str, list[float]]) -> None:
    tokens = ROWS * sum(LENGTHS[rows])
    speed = {name: round(tokens / statistics.median(taken)) for name, taken in seconds.items()}
    for name in (name for name in ("ours", "compiled") if name in seconds):
        pairs.tell(
            f"step, {name}, {dtype}, {rows}",
            tokens_per_second=speed[name],
            peer="LlamaForCausalLM, eager",
            peer_tokens_per_second=speed["peer"],
            ratio=pairs.ratio(seconds["peer"], seconds[name]),
            limit=speed["limit"],
            share_of_limit=round(speed[name] / speed["limit"], 3),
            pairs=pairs.PAIRS,
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
