"""llama2.c's .bin files that begin with "ak42": version 2 (int8, for runq) out, 1 (float32) and 2 in.

The header of 256 bytes holds uint32 magic, int32 version, seven int32 as in version 0 (vocab_size always
positive), uint8 whether the output is tied, in version 2 int32 group size, zeros. Then come float32 attention
norms, ffn norms and the final norm; then the token embeddings, per kind over all layers wq, wk, wv, wo, w1,
w2, w3, and the output if it is not tied: in version 1 as float32, in version 2 each matrix as int8 with a
float32 scale per group of numbers behind it.
"""

from __future__ import annotations

import copy
import math
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from arianna.formats.options import Options, beside, check_tokenizer
from arianna.formats.shapes import by_rule, check_eps, model_of, plausible, weight_shapes
from model import ModelArgs, Transformer

__all__ = ["beside", "check_tokenizer", "computed", "read", "stored", "to_bytes"]  # what every format has

MAGIC = 0x616B3432  # "ak42"
HEADER = struct.Struct("<Ii7iBi")
HEADER_BYTES = 256
LARGEST_GROUP, SMALLEST_GROUP = 64, 4
MATRICES = ["attention.wq", "attention.wk", "attention.wv", "attention.wo"]
MATRICES += ["feed_forward.w1", "feed_forward.w2", "feed_forward.w3"]


def group_size(a: ModelArgs) -> int:
    """The number of weights that share a scale: 64, halved until it divides both widths, as runq needs.

    llama2.c's own export looks at dim alone; where that does not divide hidden_dim, runq would leave out the
    rest of a row. Raises ValueError below 4, where int8 with its scales would be no smaller than float16.
    """
    group = LARGEST_GROUP
    while a.dim % group or a.hidden % group:
        group //= 2
    if group < SMALLEST_GROUP:
        raise ValueError(
            f"the model's widths {a.dim} and {a.hidden} are not multiples of {SMALLEST_GROUP}, "
            "so int8 in groups does not fit it. --format=llama2c takes it in float32, "
            "--format=gguf with --gguf_type=F16 at half the size."
        )
    return group


def quantize(weight: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Flat int8 numbers in -127..127 and a float32 scale per group: number = int8 * scale, also for zeros."""
    groups = weight.astype("<f4").reshape(-1, group)
    scales = np.abs(groups).max(axis=1, keepdims=True) / np.float32(127)
    whole = np.divide(groups, scales, out=np.zeros_like(groups), where=scales > 0)
    return np.rint(whole).clip(-127, 127).astype(np.int8).ravel(), scales.ravel()


def dequantize(whole: np.ndarray, scales: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # infinity times zero; a reader looks for what is not finite
        return (whole.reshape(len(scales), -1) * scales[:, None]).ravel()


def to_bytes(model: Transformer, options: Options | None = None) -> bytes:
    """A version 2 file. Raises ValueError for a model that runq computes differently."""
    a = model.args
    check_eps(a, "runq")
    group, state = group_size(a), model.state_dict()
    shape = (a.dim, a.hidden, a.n_layers, a.n_heads, a.n_kv_heads, a.vocab_size, a.max_seq_len)
    norms, matrices = layout(a, model.tied)
    pieces = [HEADER.pack(MAGIC, 2, *shape, model.tied, group).ljust(HEADER_BYTES, b"\0")]
    pieces += [state[name].cpu().numpy().astype("<f4").tobytes() for name in norms]
    for name in matrices:
        pieces += [array.tobytes() for array in quantize(state[name].cpu().numpy(), group)]
    return b"".join(pieces)


def layout(a: ModelArgs, tied: bool) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Names and shapes of the norms, and of the matrices, in the file's order."""
    shapes, numbers = weight_shapes(a), range(a.n_layers)
    norms = [f"layers.{i}.{kind}.weight" for kind in ("attention_norm", "ffn_norm") for i in numbers]
    norms += ["norm.weight"]
    matrices = [f"layers.{i}.{kind}.weight" for kind in MATRICES for i in numbers]
    matrices = ["tok_embeddings.weight", *matrices, *([] if tied else ["output.weight"])]
    return {name: shapes[name] for name in norms}, {name: shapes[name] for name in matrices}


def stored(model: Transformer, options: Options | None = None) -> Transformer:
    """A copy with the weights that a version 2 file of the model gives back."""
    group, model = group_size(model.args), copy.deepcopy(model)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            numbers = dequantize(*quantize(parameter.detach().cpu().numpy(), group))
            parameter.data = torch.from_numpy(numbers).view(parameter.shape).to(parameter.device)
    return model


def computed(stored: Transformer, options: Options | None = None) -> Transformer:
    """A copy that computes as runq does."""
    return compute_in_int8(stored, group_size(stored.args))


def compute_in_int8(model: Transformer, group: int, half_scales: bool = False) -> Transformer:
    """A copy that also rounds each matrix's input to int8, as runq does (llama.cpp: with float16 scales)."""
    model = copy.deepcopy(model)

    def round_input(_: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        groups = inputs[0].unflatten(-1, (-1, group))
        scales = groups.abs().amax(-1, keepdim=True) / 127
        whole = (groups / scales.clamp(min=torch.finfo(scales.dtype).tiny)).round()
        return (whole * (scales.half().float() if half_scales else scales)).flatten(-2)

    for module in model.modules():
        if isinstance(module, nn.Linear) and module.in_features % group == 0:  # others are not in int8
            module.register_forward_pre_hook(round_input)
    return model


def read(path: str | Path, max_seq_len: int | None = None) -> Transformer:
    """Build the model of a version 1 or 2 file, with another context where `max_seq_len` gives one.

    Raises ValueError unless the header is sane, the file's size is what it asks for and every number is
    finite.
    """
    path = Path(path)
    with open(path, "rb") as f:
        args, tied, group = parse_header(f.read(HEADER_BYTES), path)
        norms, matrices = layout(args, tied)
        sizes = {name: math.prod(shape) for name, shape in (norms | matrices).items()}
        if group and any(sizes[name] % group for name in matrices):
            raise ValueError(f"{path} is damaged: its matrices do not divide into groups of {group}.")
        packed = sum(sizes[name] for name in matrices)
        expected = HEADER_BYTES + 4 * sum(sizes[name] for name in norms)
        expected += packed + 4 * packed // group if group else 4 * packed
        if path.stat().st_size != expected:  # before memory is taken for what a header claims
            raise ValueError(
                f"{path} has {path.stat().st_size:,} bytes; its header asks for {expected:,}. "
                "It is cut off or damaged."
            )
        arrays = {name: np.fromfile(f, "<f4", sizes[name]) for name in norms}
        for name in matrices:
            if group:
                whole = np.fromfile(f, np.int8, sizes[name])
                arrays[name] = dequantize(whole, np.fromfile(f, "<f4", sizes[name] // group))
            else:
                arrays[name] = np.fromfile(f, "<f4", sizes[name])
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError(f"{path} holds NaN or infinity, so the model cannot be used.")
    shapes = norms | matrices
    weights = {name: torch.from_numpy(array).view(shapes[name]) for name, array in arrays.items()}
    return model_of(by_rule(args), tied, weights, max_seq_len)


def parse_header(header: bytes, path: Path) -> tuple[ModelArgs, bool, int]:
    """The model's shape, whether it is tied, and the group size (0 in version 1), or a ValueError."""
    if len(header) < HEADER_BYTES:
        raise ValueError(
            f"{path} has {len(header)} bytes; "
            f"a llama2.c .bin of version 1 or 2 begins with a header of {HEADER_BYTES}."
        )
    _, version, *numbers, tied, group = HEADER.unpack_from(header)
    dim, hidden, n_layers, n_heads, n_kv_heads, vocab_size, seq_len = numbers
    if version not in (1, 2) or tied > 1 or (version == 2 and not 1 <= group <= dim):
        raise ValueError(
            f"{path} says version {version}, group size {group}; "
            "of llama2.c's .bin files versions 0, 1 and 2 can be read."
        )
    try:
        args = ModelArgs(dim, n_layers, n_heads, n_kv_heads, vocab_size, hidden, max_seq_len=seq_len)
        plausible(args)
    except ValueError as error:
        raise ValueError(f"{path} is damaged or no llama2.c .bin of version {version}: {error}.") from None
    return args, bool(tied), group if version == 2 else 0
