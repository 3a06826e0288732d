"""A model's weights as a page holds them: bytes, tensor by tensor, and the shape that they need.

The norms come first, in float32; then the matrices in float32, float16, or int8 with a float32 scale per
group behind each, in the order of llama2c_int8's files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch

from arianna.formats import llama2c_int8
from arianna.formats.shapes import by_rule, model_of
from model import ROPE_THETA, ModelArgs, Transformer

Kind = Literal["int8", "F16", "F32"]


def packed(model: Transformer, kind: Kind) -> Iterator[bytes]:
    """The weights' bytes, tensor by tensor."""
    group, state = group_of(model, kind), model.state_dict()
    norms, matrices = llama2c_int8.layout(model.args, model.tied)
    for name in norms:
        yield state[name].cpu().numpy().astype("<f4").tobytes()
    for name in matrices:
        array = state[name].cpu().numpy().astype("<f4")
        if kind == "int8":
            whole, scales = llama2c_int8.quantize(array, group)
            yield whole.tobytes() + scales.astype("<f4").tobytes()
        else:
            yield (halves(array) if kind == "F16" else array).tobytes()


def length(args: ModelArgs, tied: bool, kind: Kind, group: int) -> int:
    """The number of bytes that all weights take."""
    norms, matrices = (sum(map(math.prod, dims.values())) for dims in llama2c_int8.layout(args, tied))
    of_matrices = {"F32": 4 * matrices, "F16": 2 * matrices, "int8": matrices + 4 * matrices // max(group, 1)}
    return 4 * norms + of_matrices[kind]


def group_of(model: Transformer, kind: Kind) -> int:
    """The number of weights that share a scale; 0 where there are no scales."""
    try:
        return llama2c_int8.group_size(model.args) if kind == "int8" else 0
    except ValueError as error:
        raise ValueError(f"{str(error).removesuffix('.')}; --html_type=F16 does.") from None


def halves(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = array.astype("<f2")
    if not np.isfinite(half).all():
        raise ValueError(
            "the model has weights beyond 65,504, the largest number of float16; use --html_type=F32."
        )
    return half


def shape_of(model: Transformer, kind: Kind) -> dict[str, Any]:
    names = ("dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "hidden", "max_seq_len", "norm_eps")
    shape = {name: getattr(model.args, name) for name in names} | {"rope_theta": ROPE_THETA}
    return shape | {"tied": model.tied, "type": kind, "group": group_of(model, kind)}


def build(shape: dict[str, Any], data: bytes, max_seq_len: int | None) -> Transformer:
    """A model from its shape and its weights' bytes."""
    names = ("dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "max_seq_len", "norm_eps")
    args = by_rule(ModelArgs(hidden_dim=shape["hidden"], **{name: shape[name] for name in names}))
    kind, group, tied = shape["type"], shape["group"], shape["tied"] is True
    norms, matrices = llama2c_int8.layout(args, tied)
    expected = length(args, tied, kind, group)
    if len(data) != expected:  # before memory is taken for what a shape claims
        raise ValueError(f"its weights have {len(data):,} bytes, its shape asks for {expected:,}")
    state, at = {}, 0
    for name, dims in (norms | matrices).items():
        array, at = unpacked(data, at, math.prod(dims), "F32" if name in norms else kind, group)
        state[name] = torch.from_numpy(array).view(dims)
    if not all(tensor.isfinite().all() for tensor in state.values()):
        raise ValueError("it holds NaN or infinity")
    return model_of(args, tied, state, max_seq_len)


def unpacked(data: bytes, at: int, number: int, kind: str, group: int) -> tuple[np.ndarray, int]:
    """The numbers at a place in the data as float32, and the place behind them."""
    if kind == "int8":
        whole = np.frombuffer(data, np.int8, number, at)
        scales = np.frombuffer(data, "<f4", number // group, at + number)
        return llama2c_int8.dequantize(whole, scales), at + number + 4 * (number // group)
    dtype = np.dtype({"F32": "<f4", "F16": "<f2"}[kind])
    return np.frombuffer(data, dtype, number, at).astype("<f4"), at + number * dtype.itemsize
