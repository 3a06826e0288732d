"""GGUF, for llama.cpp and what is built on it (Ollama, LM Studio): out in F32, F16 or Q8_0, and back in.

The tensors are llama2.c's as they are: llama.cpp's llama turns neighbours (2i, 2i+1) of a head, as llama2.c does. What llama.cpp
reorders when it converts a Hugging Face model is that model's own order. Needs the package gguf, imported when it is used.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import struct
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch

from conversations import ASSISTANT, USER
from formats.llama2c import by_rule
from formats.names import GGUF, check_names, names
from formats.text import CHAT_TEMPLATE, MADE_BY, Piece, listed, pieces
from model import NORM_EPS, ROPE_THETA, ModelArgs, Transformer, weight_shapes
from tokenizer import BOS, EOS, UNK, Tokenizer

Kind = Literal["F32", "F16", "Q8_0"]
FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7}  # general.file_type
TOKEN_TYPES = {"normal": 1, "unknown": 2, "control": 3, "byte": 6}
Q8_GROUP = 32  # numbers of a row that share a scale in Q8_0

MAGIC, HEADER = b"GGUF", struct.Struct("<4sIQQ")  # magic, version, how many tensors, how many values
SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a value by its type
STRING, ARRAY = 8, 9
LONGEST_ARRAY = 1 << 20  # values; a vocabulary has fewer


def package() -> ModuleType:
    """The package gguf. Raises ValueError with what to type where it is not installed."""
    try:
        import gguf
    except ImportError:
        raise ValueError("GGUF needs the package gguf, which is not installed: pip install gguf") from None
    return gguf


# ---- out ----


def to_bytes(model: Transformer, tokenizer: Tokenizer, kind: Kind = "F32") -> bytes:
    """A file of the model. Raises ValueError for what it cannot hold, or a tokenizer that llama.cpp would read differently."""
    gguf = package()
    tokenizer.check_fits(model.args.vocab_size, "the model")
    with tempfile.TemporaryDirectory() as folder:  # the package writes files only
        path = Path(folder) / "model.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        for key, value in metadata(model.args, pieces(tokenizer), kind).items():
            add(writer, key, value)
        state = model.state_dict()
        for ours, theirs in names(model.args, model.tied, GGUF).items():
            array = state[ours].cpu().numpy().astype("<f4")
            stored = kind_of(array, kind)
            writer.add_tensor(theirs, packed(array, stored), raw_dtype=gguf.GGMLQuantizationType[stored])
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


def rounded(model: Transformer, kind: Kind) -> Transformer:
    """A copy with the weights that a file of this kind gives back."""
    gguf, model = package(), copy.deepcopy(model)
    for parameter in model.parameters():
        array = parameter.detach().cpu().numpy()
        stored = kind_of(array, kind)
        numbers = gguf.quants.dequantize(packed(array, stored), gguf.GGMLQuantizationType[stored])
        parameter.data = torch.from_numpy(numbers.astype(np.float32)).to(parameter.device)
    return model


def modelfile(name: str, a: ModelArgs, tokenizer: Tokenizer) -> bytes:
    """What `ollama create` needs beside the file `name`: the template of a conversation, where an answer stops, the context."""
    bos, eos = tokenizer.sp.id_to_piece(BOS), tokenizer.sp.id_to_piece(EOS)
    values = {"made_by": MADE_BY, "name": name, "user": USER, "assistant": ASSISTANT, "bos": bos, "eos": eos, "context": str(a.max_seq_len)}
    return re.sub("<<(.*?)>>", lambda found: values[found[1]], MODELFILE).encode()


MODELFILE = """# Made by <<made_by>>: ollama create arianna -f Modelfile && ollama run arianna
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


def is_ours(path: Path) -> bool:
    """Whether a file is an export of ours."""
    mark = b"general.quantized_by" + struct.pack("<IQ", STRING, len(MADE_BY)) + MADE_BY.encode()
    with open(path, "rb") as f:
        head = f.read(4096)
    return head.startswith(MAGIC) and mark in head


# ---- in ----


def read(path: str | Path, max_seq_len: int | None = None) -> Transformer:
    """The model of a file in float32 on the CPU, with another context where `max_seq_len` gives one.

    Raises ValueError for another architecture than llama2.c computes, for a damaged file, and for types other than FILE_TYPES.
    """
    path = Path(path)
    reader = open_reader(path)
    args = read_args(reader, path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    tied = "output.weight" not in tensors
    wanted, shapes = names(args, tied, GGUF), weight_shapes(args)
    check_names(set(tensors), set(wanted.values()), path)
    weights = {ours: read_tensor(tensors[theirs], shapes[ours], path) for ours, theirs in wanted.items()}
    model = Transformer(dataclasses.replace(by_rule(args), max_seq_len=max_seq_len or args.max_seq_len), tied)
    model.load_state_dict(weights, strict=not tied)
    return model


def open_reader(path: Path) -> Any:
    """The package's reader of a file that has been found whole. Raises ValueError for others."""
    gguf = package()
    check_lengths(path)
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, KeyError, IndexError, OverflowError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {str(error)[:100]}. Use another copy of it.") from None
    end = max((t.data_offset + t.n_bytes for t in reader.tensors), default=reader.data_offset)
    whole = end + -end % int(reader.alignment)
    if path.stat().st_size not in (end, whole):
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; its tensors end at {whole:,}. It is cut off or damaged.")
    return reader


def check_lengths(path: Path) -> None:
    """Raise ValueError unless all that stands ahead of the tensors lies within the file.

    The package's reader trusts the lengths it finds: a wrong one would keep it busy for years.
    """
    damaged = f"{path} is cut off, damaged or no GGUF file of version 3"
    if path.stat().st_size < HEADER.size:
        raise ValueError(f"{damaged}: it has {path.stat().st_size} bytes.")
    data = np.memmap(path, dtype=np.uint8, mode="r")
    magic, version, n_tensors, n_values = HEADER.unpack_from(data)
    if magic != MAGIC or version != 3:
        raise ValueError(f"{damaged}: it begins with {magic!r} and version {version}.")
    at = HEADER.size
    try:
        for _ in range(n_values):
            at = after_string(data, at)
            (kind,) = struct.unpack_from("<I", data, at)
            at = after_value(data, at + 4, kind)
        for _ in range(n_tensors):
            at = after_string(data, at)
            (dims,) = struct.unpack_from("<I", data, at)
            at += 4 + 8 * dims + 4 + 8
        struct.unpack_from("", data, at)
    except (struct.error, ValueError, KeyError):
        raise ValueError(f"{damaged}: what stands ahead of its tensors does not end within it.") from None


def after_string(data: np.ndarray, at: int) -> int:
    return at + 8 + struct.unpack_from("<Q", data, at)[0]


def after_value(data: np.ndarray, at: int, kind: int) -> int:
    """Where the value that begins at `at` ends. Raises KeyError for an unknown type, struct.error beyond the file's end."""
    if kind == STRING:
        return after_string(data, at)
    if kind != ARRAY:
        return at + SCALARS[kind]
    inner, count = struct.unpack_from("<IQ", data, at)
    if count > LONGEST_ARRAY or inner == ARRAY:
        raise ValueError
    at += 12
    if inner != STRING:
        return at + count * SCALARS[inner]
    for _ in range(count):
        at = after_string(data, at)
    return at


def read_args(reader: Any, path: Path) -> ModelArgs:
    """The shape that a file's metadata asks for. Raises ValueError for what llama2.c's programs would compute differently."""
    found = {key: field.contents() for key, field in reader.fields.items() if key.startswith(("general.", "llama."))}
    if found.get("general.architecture") != "llama":
        raise ValueError(f"{path} is of the architecture {found.get('general.architecture')!r}; only 'llama' can be read.")
    part = {key.removeprefix("llama."): value for key, value in found.items()}
    heads, vocab = part.get("attention.head_count"), reader.fields.get("tokenizer.ggml.tokens")
    try:
        args = ModelArgs(
            dim=part.get("embedding_length"),
            n_layers=part.get("block_count"),
            n_heads=heads,
            n_kv_heads=part.get("attention.head_count_kv", heads),
            vocab_size=part.get("vocab_size", len(vocab.data) if vocab else None),
            hidden_dim=part.get("feed_forward_length"),
            max_seq_len=part.get("context_length"),
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}.") from None
    for name, value, needed in (
        ("attention.layer_norm_rms_epsilon", part.get("attention.layer_norm_rms_epsilon"), np.float32(NORM_EPS)),
        ("rope.freq_base", part.get("rope.freq_base", ROPE_THETA), ROPE_THETA),
        ("rope.dimension_count", part.get("rope.dimension_count", args.head_dim), args.head_dim),
        ("rope.scaling.type", part.get("rope.scaling.type", "none"), "none"),
        ("expert_count", part.get("expert_count", 0), 0),
    ):
        if value != needed:
            raise ValueError(f"{path} has {name} {value!r}; llama2.c's programs compute with {needed!s}, so the model cannot be used.")
    return args


def read_tensor(tensor: Any, shape: tuple[int, ...], path: Path) -> torch.Tensor:
    """One tensor in float32."""
    kind, found = tensor.tensor_type.name, tuple(int(n) for n in reversed(tensor.shape))
    if kind not in FILE_TYPES:
        raise ValueError(f"{path}: {tensor.name} is stored as {kind}; {', '.join(FILE_TYPES)} can be read.")
    if found != shape:
        raise ValueError(f"{path}: {tensor.name} is {found}, but its metadata ask for {shape}.")
    array = package().quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{path}: {tensor.name} holds NaN or infinity, so the model cannot be used.")
    return torch.from_numpy(array.reshape(shape))


def check_tokenizer(path: Path, tokenizer: Tokenizer) -> None:
    """Raise ValueError unless the file carries this tokenizer."""
    reader = open_reader(path)
    for key, expected in vocabulary(listed(tokenizer)).items():
        found = reader.fields[key].contents() if key in reader.fields else []
        other = sum(a != b for a, b in zip(found, expected, strict=False)) + abs(len(found) - len(expected))
        if other:
            raise ValueError(f"{tokenizer.path} does not belong to {path}: {other} of its {len(expected)} entries in {key} are others.")
