"""GGUF, for llama.cpp and what is built on it (Ollama, LM Studio): out in F32, F16 or Q8_0, and back in.

The tensors are llama2.c's as they are: llama.cpp's llama turns neighbours (2i, 2i+1) of a head, as llama2.c does. What llama.cpp
reorders when it converts a Hugging Face model is that model's own order. Writing needs the package gguf, imported when it is used.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import re
import struct
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from arianna.corpus.template import ASSISTANT, USER
from arianna.formats.llama2c import by_rule
from arianna.formats.llama2c_int8 import compute_in_int8
from arianna.formats.names import GGUF, check_names, names
from arianna.formats.options import Options
from arianna.formats.shapes import plausible, weight_shapes
from arianna.formats.vocabulary import CHAT_TEMPLATE, MADE_BY, Piece, listed, pieces
from model import NORM_EPS, ROPE_THETA, ModelArgs, Transformer
from tokenizer import BOS, EOS, UNK, Tokenizer

__all__ = ["beside", "check_tokenizer", "computed", "read", "stored", "to_bytes"]  # what every format has

Kind = Literal["F32", "F16", "Q8_0"]
FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7}  # general.file_type
TOKEN_TYPES = {"normal": 1, "unknown": 2, "control": 3, "byte": 6}
Q8_GROUP = 32  # numbers of a row that share a scale in Q8_0

MAGIC, ALIGNMENT = b"GGUF", 32
SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))  # struct's letter of a value by its type
STRING, ARRAY = 8, 9
TENSOR_TYPES = {0: "F32", 1: "F16", 8: "Q8_0"}
BLOCKS = {"F32": (1, 4), "F16": (1, 2), "Q8_0": (Q8_GROUP, 2 + Q8_GROUP)}  # numbers that are stored together, and in how many bytes


def package() -> ModuleType:
    """The package gguf. Raises ValueError with what to type where it is not installed."""
    try:
        import gguf
    except ImportError:
        raise ValueError("GGUF needs the package gguf, which is not installed: pip install gguf") from None
    return gguf


# ---- out ----


def to_bytes(model: Transformer, options: Options) -> bytes:
    """A file of the model. Raises ValueError for what it cannot hold, or a tokenizer that llama.cpp would read differently."""
    gguf, tokenizer, kind = package(), options.tokenizer, options.gguf_type
    tokenizer.check_fits(model.args.vocab_size, "the model")
    with tempfile.TemporaryDirectory() as folder:  # the package writes files only
        path = Path(folder) / "model.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        for key, value in metadata(model.args, pieces(tokenizer), kind).items():
            add(writer, key, value)
        state = model.state_dict()
        for ours, theirs in names(model.args, model.tied, GGUF).items():
            array = state[ours].cpu().numpy().astype("<f4")
            of_tensor = kind_of(array, kind)
            writer.add_tensor(theirs, packed(array, of_tensor), raw_dtype=gguf.GGMLQuantizationType[of_tensor])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def metadata(a: ModelArgs, found: list[Piece], kind: Kind) -> dict[str, Any]:
    """What stands ahead of the tensors. Whole numbers are uint32, others float32."""
    return {
        "general.name": "llama2.c model",
        "general.quantized_by": MADE_BY,
        "general.file_type": FILE_TYPES[kind],
        "general.quantization_version": 2,
        "llama.vocab_size": a.vocab_size,
        "llama.context_length": a.max_seq_len,
        "llama.embedding_length": a.dim,
        "llama.block_count": a.n_layers,
        "llama.feed_forward_length": a.hidden,
        "llama.attention.head_count": a.n_heads,
        "llama.attention.head_count_kv": a.n_kv_heads,
        "llama.attention.layer_norm_rms_epsilon": a.norm_eps,
        "llama.rope.dimension_count": a.head_dim,
        "llama.rope.freq_base": ROPE_THETA,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        **vocabulary(found),
        "tokenizer.ggml.unknown_token_id": UNK,
        "tokenizer.ggml.bos_token_id": BOS,
        "tokenizer.ggml.eos_token_id": EOS,
        "tokenizer.ggml.eot_token_id": BOS,  # a generation ends at the end of a text and at the end of a turn: here at EOS and at BOS
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.remove_extra_whitespaces": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def vocabulary(found: list[Piece]) -> dict[str, list[Any]]:
    return {
        "tokenizer.ggml.tokens": [piece.text for piece in found],
        "tokenizer.ggml.scores": [piece.score for piece in found],
        "tokenizer.ggml.token_type": [TOKEN_TYPES[piece.kind] for piece in found],
    }


def add(writer: Any, key: str, value: Any) -> None:
    kinds = {bool: "bool", int: "uint32", float: "float32", str: "string", list: "array"}
    getattr(writer, f"add_{kinds[type(value)]}")(key, value)


def kind_of(array: np.ndarray, kind: Kind) -> Kind:
    """The type a tensor is stored in: norms stay F32, as llama.cpp has them."""
    return kind if array.ndim > 1 else "F32"


def packed(array: np.ndarray, kind: Kind) -> np.ndarray:
    """A float32 array as it is stored. Raises ValueError where it cannot be."""
    gguf = package()
    if kind == "Q8_0" and array.shape[-1] % Q8_GROUP:
        raise ValueError(f"the model has rows of {array.shape[-1]} numbers; Q8_0 needs multiples of {Q8_GROUP}. Use F16.")
    if kind == "F16" and np.abs(array).max() > np.finfo(np.float16).max:
        raise ValueError("the model has weights beyond 65,504, the largest number of float16, so it cannot be stored in F16.")
    return gguf.quants.quantize(array, gguf.GGMLQuantizationType[kind])


def stored(model: Transformer, options: Options) -> Transformer:
    """The model that a file gives back: in F32 the given one, else a copy with rounded weights."""
    kind = options.gguf_type
    if kind == "F32":
        return model
    gguf, model = package(), copy.deepcopy(model)
    for parameter in model.parameters():
        array = parameter.detach().cpu().numpy()
        of_tensor = kind_of(array, kind)
        numbers = gguf.quants.dequantize(packed(array, of_tensor), gguf.GGMLQuantizationType[of_tensor])
        parameter.data = torch.from_numpy(numbers.astype(np.float32)).to(parameter.device)
    return model


def computed(stored: Transformer, options: Options) -> Transformer:
    """The model as llama.cpp computes it: with Q8_0 it rounds to int8 what enters a matrix, too."""
    return stored if options.gguf_type != "Q8_0" else compute_in_int8(stored, Q8_GROUP, half_scales=True)


def beside(name: str, model: Transformer, options: Options) -> dict[str, bytes]:
    """The Modelfile that Ollama needs: a.Modelfile for a.gguf, so that each .gguf of a folder has its own."""
    return {Path(name).with_suffix(".Modelfile").name: modelfile(name, model.args, options.tokenizer)}


def modelfile(name: str, a: ModelArgs, tokenizer: Tokenizer) -> bytes:
    """What `ollama create` needs beside the file `name`: the template of a conversation, where an answer stops, the context."""
    bos, eos = tokenizer.sp.id_to_piece(BOS), tokenizer.sp.id_to_piece(EOS)
    values = {"made_by": MADE_BY, "name": name, "file": Path(name).with_suffix(".Modelfile").name}
    values |= {"user": USER, "assistant": ASSISTANT, "bos": bos, "eos": eos, "context": str(a.max_seq_len)}
    return re.sub("<<(.*?)>>", lambda found: values[found[1]], MODELFILE).encode()


MODELFILE = """# Made by <<made_by>>: ollama create arianna -f <<file>> && ollama run arianna
FROM ./<<name>>
TEMPLATE \"\"\"{{ range .Messages }}{{ if eq .Role "user" }}<<user>> {{ .Content }}
{{ else if eq .Role "assistant" }}<<assistant>> {{ .Content }}
<<bos>>{{ else }}{{ .Content }}
{{ end }}{{ end }}<<assistant>>\"\"\"
PARAMETER stop "<<bos>>"
PARAMETER stop "<<eos>>"
PARAMETER num_ctx <<context>>
PARAMETER num_predict <<context>>
PARAMETER temperature 0.8
PARAMETER repeat_penalty 1
"""


# ---- in ----


class Contents(NamedTuple):
    """What a file holds: values by key, and each tensor's shape, type and first byte by name."""

    values: dict[str, Any]
    tensors: dict[str, tuple[tuple[int, ...], str, int]]


class Cursor:
    """Takes one thing after the other from a file's bytes. Raises ValueError where the file ends before."""

    def __init__(self, data: np.ndarray):
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        self.at += size
        if self.at > len(self.data):
            raise ValueError("it ends too early")
        return self.data[self.at - size : self.at].tobytes()

    def unpack(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0]

    def string(self) -> str:
        return self.take(self.unpack("Q")).decode()

    def value(self, kind: int) -> Any:
        """A value of a type; KeyError for an unknown one."""
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            return self.unpack(SCALARS[kind])
        inner, count = self.unpack("I"), self.unpack("Q")
        if inner == STRING:
            return [self.string() for _ in range(count)]  # each takes eight bytes at least
        form = np.dtype(f"<{SCALARS[inner]}")
        return np.frombuffer(self.take(count * form.itemsize), form).tolist()


def contents(path: Path) -> Contents:
    """All that stands in a file but the numbers. Raises ValueError for a file that is damaged, cut off or too long.

    The package's own reader trusts the lengths that it finds: a damaged one keeps it busy for years.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; a .gguf is needed there.")
    size = path.stat().st_size
    data = np.memmap(path, np.uint8, "r") if size else np.empty(0, np.uint8)
    try:
        return parse(Cursor(data))
    except (ValueError, KeyError, OverflowError, TypeError) as error:
        raise ValueError(f"{path} is no GGUF file of version 3 or damaged ({size:,} bytes): {one_line(error)}. Use another copy.") from None


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:100]


def parse(cursor: Cursor) -> Contents:
    magic, version, n_tensors, n_values = cursor.take(4), cursor.unpack("I"), cursor.unpack("Q"), cursor.unpack("Q")
    if (magic, version) != (MAGIC, 3):
        raise ValueError(f"it begins with {magic!r} and version {version}")
    values, entries = {}, {}
    for _ in range(n_values):
        key = cursor.string()
        values[key] = cursor.value(cursor.unpack("I"))
    for _ in range(n_tensors):
        name, n_dims = cursor.string(), cursor.unpack("I")
        shape = np.frombuffer(cursor.take(8 * n_dims), "<u8").tolist()[::-1]
        entries[name] = (tuple(shape), cursor.unpack("I"), cursor.unpack("Q"))
    alignment = values.get("general.alignment", ALIGNMENT)
    start = padded(cursor.at, alignment)
    tensors = {name: (shape, TENSOR_TYPES.get(kind, f"type {kind}"), start + offset) for name, (shape, kind, offset) in entries.items()}
    end = max((first + stored_bytes(shape, kind) for shape, kind, first in tensors.values()), default=start)
    if len(cursor.data) not in (end, padded(end, alignment)) or len(tensors) != n_tensors:
        raise ValueError(f"its {n_tensors} tensors end at byte {end:,}")
    return Contents(values, tensors)


def padded(at: int, alignment: int) -> int:
    if alignment < 1:
        raise ValueError(f"its alignment is {alignment}")
    return at + -at % alignment


def stored_bytes(shape: tuple[int, ...], kind: str) -> int:
    """How many bytes a tensor takes. Raises ValueError for a type that is not read."""
    if kind not in BLOCKS:
        raise ValueError(f"a tensor is stored as {kind}; {', '.join(BLOCKS)} can be read")
    numbers, size = BLOCKS[kind]
    return math.prod(shape) // numbers * size


def read(path: str | Path, max_seq_len: int | None = None) -> Transformer:
    """The model of a file in float32 on the CPU, with another context where `max_seq_len` gives one.

    Raises ValueError for another architecture than llama2.c computes, for a damaged file, and for types other than BLOCKS.
    """
    path = Path(path)
    values, tensors = contents(path)
    args = read_args(values, path)
    tied = "output.weight" not in tensors
    wanted, shapes = names(args, tied, GGUF), weight_shapes(args)
    check_names(set(tensors), set(wanted.values()), path)
    for ours, theirs in wanted.items():
        if tensors[theirs][0] != shapes[ours]:
            raise ValueError(f"{path}: {theirs} is {tensors[theirs][0]}, but its metadata ask for {shapes[ours]}.")
    weights = {ours: load_tensor(path, theirs, *tensors[theirs]) for ours, theirs in wanted.items()}
    context = args.max_seq_len if max_seq_len is None else max_seq_len
    model = Transformer(dataclasses.replace(by_rule(args), max_seq_len=context), tied)
    model.load_state_dict(weights, strict=not tied)
    return model


def read_args(values: dict[str, Any], path: Path) -> ModelArgs:
    """The shape that a file's metadata ask for. Raises ValueError for what llama2.c's programs would compute differently."""
    if values.get("general.architecture") != "llama":
        raise ValueError(f"{path} is of the architecture {values.get('general.architecture')!r}; only 'llama' can be read.")
    part = {key.removeprefix("llama."): value for key, value in values.items()}
    heads, tokens = part.get("attention.head_count"), part.get("tokenizer.ggml.tokens")
    try:
        args = ModelArgs(
            dim=part.get("embedding_length"),
            n_layers=part.get("block_count"),
            n_heads=heads,
            n_kv_heads=part.get("attention.head_count_kv", heads),
            vocab_size=part.get("vocab_size", len(tokens) if isinstance(tokens, list) else None),
            hidden_dim=part.get("feed_forward_length"),
            max_seq_len=part.get("context_length"),
        )
        plausible(args)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}.") from None
    for name, value, needed in (
        ("attention.layer_norm_rms_epsilon", part.get("attention.layer_norm_rms_epsilon"), float(np.float32(NORM_EPS))),
        ("rope.freq_base", part.get("rope.freq_base", ROPE_THETA), ROPE_THETA),
        ("rope.dimension_count", part.get("rope.dimension_count", args.head_dim), args.head_dim),
        ("rope.scaling.type", part.get("rope.scaling.type", "none"), "none"),
        ("expert_count", part.get("expert_count", 0), 0),
    ):
        if value != needed:
            raise ValueError(f"{path} has {name} {value!r}; llama2.c's programs compute with {needed!r}, so the model cannot be used.")
    return args


def load_tensor(path: Path, name: str, shape: tuple[int, ...], kind: str, first: int) -> torch.Tensor:
    """One tensor in float32. Raises ValueError if it is not finite."""
    raw = np.fromfile(path, np.uint8, stored_bytes(shape, kind), offset=first)
    with np.errstate(invalid="ignore"):
        if kind == "Q8_0":  # blocks of a float16 scale and 32 int8
            blocks = raw.reshape(-1, BLOCKS[kind][1])
            array = blocks[:, 2:].view(np.int8) * blocks[:, :2].copy().view("<f2").astype(np.float32)
        else:
            array = raw.view("<f4" if kind == "F32" else "<f2").astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{path}: {name} holds NaN or infinity, so the model cannot be used.")
    return torch.from_numpy(array.reshape(shape))


def check_tokenizer(path: Path, tokenizer: Tokenizer) -> None:
    """Raise ValueError unless the file carries this tokenizer."""
    values = contents(path).values
    for key, expected in vocabulary(listed(tokenizer)).items():
        found = values[key] if isinstance(values.get(key), list) else []
        other = sum(a != b for a, b in zip(found, expected, strict=False)) + abs(len(found) - len(expected))
        if other:
            raise ValueError(f"{tokenizer.path} does not belong to {path}: {other} of its {len(expected)} entries in {key} are others.")
