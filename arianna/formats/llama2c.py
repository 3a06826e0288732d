"""llama2.c's version 0 .bin, out and back in.

It holds seven little-endian int32 (dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len;
vocab_size negative if the output is not tied), then float32: token embeddings; per kind over all layers
attention_norm, wq, wk, wv, wo, ffn_norm, w1, w2, w3; the final norm; RoPE cosines and sines; the output only
if it is not tied.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import torch

from arianna.formats.options import Options, beside, check_tokenizer, computed, stored
from arianna.formats.shapes import by_rule, check_eps, model_of, plausible, weight_shapes
from arianna.system.resources import check_file
from model import ModelArgs, Transformer

__all__ = ["beside", "check_tokenizer", "computed", "read", "stored", "to_bytes"]  # what every format has

HEADER = struct.Struct("<7i")
PER_LAYER = ["attention_norm", "attention.wq", "attention.wk", "attention.wv", "attention.wo", "ffn_norm"]
PER_LAYER += ["feed_forward.w1", "feed_forward.w2", "feed_forward.w3"]


def to_bytes(model: Transformer, options: Options | None = None) -> bytes:
    """The file's bytes. Raises ValueError for a model that the C program computes differently."""
    a = model.args
    check_eps(a, "run")
    vocab_size = a.vocab_size if model.tied else -a.vocab_size
    header = HEADER.pack(a.dim, a.hidden, a.n_layers, a.n_heads, a.n_kv_heads, vocab_size, a.max_seq_len)
    tensors = model.state_dict() | dict(model.named_buffers())
    arrays = [tensors[name].cpu().numpy().astype("<f4") for name in layout(a, model.tied)]
    return header + b"".join(array.tobytes() for array in arrays)


def layout(a: ModelArgs, tied: bool) -> dict[str, tuple[int, ...]]:
    """Names, as the model has them, and shapes of the tensors in the file's order."""
    table = (a.max_seq_len, a.head_dim // 2)
    shapes = weight_shapes(a) | {"freqs_cos": table, "freqs_sin": table}
    names = ["tok_embeddings.weight"]
    names += [f"layers.{i}.{kind}.weight" for kind in PER_LAYER for i in range(a.n_layers)]
    names += ["norm.weight", "freqs_cos", "freqs_sin"]
    names += [] if tied else ["output.weight"]
    return {name: shapes[name] for name in names}


def read(path: str | Path, max_seq_len: int | None = None) -> Transformer:
    """Build the model of a .bin, with another context where `max_seq_len` gives one.

    Raises ValueError unless the header is sane, the file's size is what it asks for and every number is
    finite. The RoPE tables are made anew: they follow from the shape.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; a llama2.c .bin is needed there.")
    with open(path, "rb") as f:
        args, tied = parse_header(f.read(HEADER.size), path)
        shapes, size = layout(args, tied), path.stat().st_size
        expected = HEADER.size + 4 * sum(math.prod(shape) for shape in shapes.values())
        if size != expected:  # before memory is taken for what a header claims
            raise ValueError(
                f"{path} has {size:,} bytes; its header asks for {expected:,}. "
                "It is cut off or not a llama2.c .bin."
            )
        check_file(path, size)
        numbers = np.fromfile(f, dtype="<f4")
    if not np.isfinite(numbers).all():
        raise ValueError(f"{path} holds NaN or infinity, so the model cannot be used.")
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])[:-1]
    arrays = dict(zip(shapes, np.split(numbers, ends), strict=True))
    weights = {name: torch.from_numpy(array.reshape(shapes[name])) for name, array in arrays.items()}
    weights = {name: weight for name, weight in weights.items() if not name.startswith("freqs_")}
    return model_of(by_rule(args), tied, weights, max_seq_len)


def parse_header(header: bytes, path: Path) -> tuple[ModelArgs, bool]:
    """The model's shape and whether it is tied. Raises ValueError for a header that makes no sense."""
    if len(header) < HEADER.size:
        raise ValueError(
            f"{path} has {len(header)} bytes; a llama2.c .bin begins with a header of {HEADER.size}."
        )
    dim, hidden, n_layers, n_heads, n_kv_heads, vocab_size, seq_len = numbers = HEADER.unpack(header)
    try:
        args = ModelArgs(dim, n_layers, n_heads, n_kv_heads, abs(vocab_size), hidden, max_seq_len=seq_len)
        return plausible(args), vocab_size > 0
    except ValueError as error:
        raise ValueError(
            f"{path} is not a llama2.c .bin (version 0): its header reads {numbers}, and {error}."
        ) from None
