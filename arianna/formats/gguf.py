"""GGUF, for llama.cpp and what is built on it (Ollama, LM Studio): out in F32, F16 or Q8_0, and back in.

The tensors are llama2.c's as they are: llama.cpp's llama turns neighbours (2i, 2i+1) of a head, as llama2.c
does. (What llama.cpp reorders when it converts a Hugging Face model is that model's own order.) The package
gguf, which writes and reads, is optional; it is imported when it is used.
"""

from __future__ import annotations

import copy
import re
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch

from arianna.corpus.template import ASSISTANT, USER
from arianna.formats.llama2c_int8 import compute_in_int8
from arianna.formats.names import GGUF, names
from arianna.formats.options import Options
from arianna.formats.shapes import by_rule, check_same, check_shapes, claimed, model_of, weight_shapes
from arianna.formats.vocabulary import CHAT_TEMPLATE, MADE_BY, Piece, listed, pieces
from arianna.system.commands import TEMPERATURE
from model import NORM_EPS, ROPE_THETA, ModelArgs, Transformer
from tokenizer import BOS, EOS, UNK, Tokenizer

__all__ = ["beside", "check_tokenizer", "computed", "read", "stored", "to_bytes"]  # what every format has

Kind = Literal["F32", "F16", "Q8_0"]
FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7}  # general.file_type
TOKEN_TYPES = {"normal": 1, "unknown": 2, "control": 3, "byte": 6}
Q8_GROUP = 32  # numbers of a row that share a scale in Q8_0

READ = ("F32", "F16", "BF16", "Q8_0")  # types of weights that are read
VERSIONS = (2, 3)  # of the format, as the package reads them
ARRAY = 9  # GGUF's number for a list of values
MOST_PIECES = 1 << 20  # values that a reader looks at ahead of the weights: each token has about four


def package() -> ModuleType:
    """The package gguf. Raises ValueError with what to type where it is not installed."""
    try:
        import gguf
    except ImportError:
        raise ValueError("GGUF needs the package gguf, which is not installed: pip install gguf") from None
    return gguf


# ---- out ----


def to_bytes(model: Transformer, options: Options) -> bytes:
    """The bytes of a file of the model.

    Raises ValueError for weights that it cannot hold, or a tokenizer that llama.cpp would read differently.
    """
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
            raw_dtype = gguf.GGMLQuantizationType[of_tensor]
            writer.add_tensor(theirs, packed(array, of_tensor), raw_dtype=raw_dtype)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def metadata(a: ModelArgs, tokens: list[Piece], kind: Kind) -> dict[str, Any]:
    """The key-value pairs that stand ahead of the tensors. Whole numbers are uint32, others float32."""
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
        **vocabulary(tokens),
        "tokenizer.ggml.unknown_token_id": UNK,
        "tokenizer.ggml.bos_token_id": BOS,
        "tokenizer.ggml.eos_token_id": EOS,
        # a generation ends at the end of a text and at the end of a turn: here at EOS and at BOS
        "tokenizer.ggml.eot_token_id": BOS,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.remove_extra_whitespaces": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def vocabulary(tokens: list[Piece]) -> dict[str, list[Any]]:
    return {
        "tokenizer.ggml.tokens": [piece.text for piece in tokens],
        "tokenizer.ggml.scores": [piece.score for piece in tokens],
        "tokenizer.ggml.token_type": [TOKEN_TYPES[piece.kind] for piece in tokens],
    }


def add(writer: Any, key: str, value: Any) -> None:
    kinds = {bool: "bool", int: "uint32", float: "float32", str: "string", list: "array"}
    getattr(writer, f"add_{kinds[type(value)]}")(key, value)


def kind_of(array: np.ndarray, kind: Kind) -> Kind:
    """The type of a tensor, by llama.cpp's rule: norms are F32, rows that Q8_0 does not divide F16."""
    if array.ndim == 1:
        return "F32"
    return "F16" if kind == "Q8_0" and array.shape[-1] % Q8_GROUP else kind


def packed(array: np.ndarray, kind: Kind) -> np.ndarray:
    """A float32 array as it is stored. Raises ValueError where it cannot be."""
    gguf = package()
    if kind == "F16" and np.abs(array).max() > np.finfo(np.float16).max:
        raise ValueError(
            "the model has weights beyond 65,504, the largest number of float16, "
            "so it cannot be stored in F16."
        )
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
    """The file that `ollama create` takes: a conversation's template, where an answer stops, the context."""
    bos, eos = map(tokenizer.sp.id_to_piece, (BOS, EOS))
    values = {"made_by": MADE_BY, "name": name, "file": Path(name).with_suffix(".Modelfile").name}
    values |= {"user": USER, "assistant": ASSISTANT, "bos": bos, "eos": eos, "context": str(a.max_seq_len)}
    values["temperature"] = str(TEMPERATURE)
    return re.sub("<<(.*?)>>", lambda match: values[match[1]], MODELFILE).encode()


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
PARAMETER temperature <<temperature>>
PARAMETER repeat_penalty 1
"""


# ---- in ----


class DamagedError(ValueError):
    """What a file's reader finds wrong, in a sentence of ours; the package's own are for programmers."""


def reader(path: Path) -> Any:
    """The package's reader of a file. Raises ValueError for a file that is damaged or cut off.

    By itself the package trusts the lengths that stand in a file: a damaged one would keep it busy for years.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; a .gguf is needed there.")
    package_reader = package().GGUFReader

    class BoundedReader(package_reader):
        pieces_read = 0

        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            self.pieces_read += 1
            if offset + int(count) * np.dtype(dtype).itemsize > len(self.data):
                raise DamagedError("it ends too early")
            if self.pieces_read > MOST_PIECES:
                raise DamagedError(f"it has more than {MOST_PIECES:,} values")
            return super()._get(offset, dtype, count, override_order)

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if raw_type == ARRAY and int(self._get(orig_offs + 4, np.uint64)[0]) > len(self.data):
                raise DamagedError("it ends too early")  # each item takes a byte or more
            return super()._get_field_parts(orig_offs, raw_type)

    try:
        check_beginning(path)
        file = BoundedReader(path)
        check_end(file)
    except (ValueError, KeyError, IndexError, OverflowError, TypeError) as error:
        reason = f": {error}" if isinstance(error, DamagedError) else ""
        damaged = f"{path} is no GGUF file or damaged ({path.stat().st_size:,} bytes){reason}"
        raise ValueError(f"{damaged}. Use another copy of it.") from None
    return file


def check_beginning(path: Path) -> None:
    """Raise DamagedError unless a file begins as a GGUF file of a version that is read."""
    with open(path, "rb") as file:
        magic, number = file.read(4), file.read(4)
    if magic != b"GGUF":
        raise DamagedError(f"it begins with {magic!r}, not with b'GGUF'")
    version = min(int.from_bytes(number, order) for order in ("little", "big"))
    if version not in VERSIONS:
        raise DamagedError(f"it is of version {version}; {' and '.join(map(str, VERSIONS))} can be read")


def check_end(file: Any) -> None:
    """Raise DamagedError unless a file ends where its tensors do."""
    end = max((int(tensor.data_offset + tensor.n_bytes) for tensor in file.tensors), default=len(file.data))
    if len(file.data) not in (end, end + -end % int(file.alignment)):
        raise DamagedError(f"its {len(file.tensors)} tensors end at byte {end:,}")


def values_of(file: Any, path: Path) -> dict[str, Any]:
    """The values that stand ahead of the tensors, by key, without the lists."""
    try:
        return {key: field.contents() for key, field in file.fields.items() if field.types[0].name != "ARRAY"}
    except (ValueError, IndexError, TypeError):
        raise ValueError(f"{path} is damaged: its values cannot be read. Use another copy of it.") from None


def read(path: str | Path, max_seq_len: int | None = None) -> Transformer:
    """The model of a file in float32 on the CPU, with another context where `max_seq_len` gives one.

    Raises ValueError for another architecture than llama2.c computes, a damaged file, and weights in other
    types than READ.
    """
    path = Path(path)
    file = reader(path)
    if not file.tensors:
        raise ValueError(f"{path} holds a vocabulary and no weights; a .gguf of a whole model is needed.")
    tensors = {tensor.name: tensor for tensor in file.tensors}
    check_types(path, tensors)
    args = read_args(values_of(file, path), path)
    tied = "output.weight" not in tensors
    theirs, shapes = names(args, tied, GGUF), weight_shapes(args)
    there = {name: tuple(tensor.shape.tolist()[::-1]) for name, tensor in tensors.items()}
    check_shapes(path, there, {theirs[name]: shapes[name] for name in theirs}, "its metadata ask")
    weights = {name: load_tensor(path, tensors[theirs[name]], shapes[name]) for name in theirs}
    return model_of(by_rule(args), tied, weights, max_seq_len)


def check_types(path: Path, tensors: dict[str, Any]) -> None:
    """Raise ValueError for a file whose weights are quantised so that they cannot be had back well enough."""
    others = sorted({tensor.tensor_type.name for tensor in tensors.values()} - set(READ))
    if others:
        raise ValueError(
            f"{path} is a quantised model ({', '.join(others)}), whose exact weights are lost; "
            f"{', '.join(READ)} can be read. Use the model's F32, F16 or Q8_0 file."
        )


def read_args(values: dict[str, Any], path: Path) -> ModelArgs:
    """The shape that a file's metadata ask for. Raises ValueError for what llama2.c's run cannot compute."""
    if values.get("general.architecture") != "llama":
        raise ValueError(
            f"{path} is of the architecture {values.get('general.architecture')!r}; only 'llama' can be read."
        )
    llama = {key.removeprefix("llama."): value for key, value in values.items()}
    args = claimed(
        path,
        {"attention.head_count_kv": llama.get("attention.head_count")} | llama,
        dim="embedding_length",
        n_layers="block_count",
        n_heads="attention.head_count",
        n_kv_heads="attention.head_count_kv",
        vocab_size="vocab_size",
        hidden_dim="feed_forward_length",
        max_seq_len="context_length",
    )
    eps = "attention.layer_norm_rms_epsilon"
    check_same(
        path,
        (eps, llama.get(eps), float(np.float32(NORM_EPS))),
        ("rope.freq_base", llama.get("rope.freq_base", ROPE_THETA), ROPE_THETA),
        ("rope.dimension_count", llama.get("rope.dimension_count", args.head_dim), args.head_dim),
        ("rope.scaling.type", llama.get("rope.scaling.type", "none"), "none"),
        ("expert_count", llama.get("expert_count", 0), 0),
    )
    return args


def load_tensor(path: Path, tensor: Any, shape: tuple[int, ...]) -> torch.Tensor:
    """One tensor in float32. Raises ValueError if it is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        array = package().quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{path}: {tensor.name} holds NaN or infinity, so the model cannot be used.")
    return torch.from_numpy(array.reshape(shape))


def check_tokenizer(path: Path, tokenizer: Tokenizer) -> None:
    """Raise ValueError unless the file carries this tokenizer."""
    fields = reader(path).fields
    for key, expected in vocabulary(listed(tokenizer)).items():
        there = list_of(fields.get(key))
        other = sum(a != b for a, b in zip(there, expected, strict=False)) + abs(len(there) - len(expected))
        if other:
            raise ValueError(
                f"{tokenizer.path} does not belong to {path}: "
                f"{other} of its {len(expected)} entries in {key} are others."
            )


def list_of(field: Any) -> list[Any]:
    """The list of a metadata field; an empty one where there is no list that can be read."""
    try:
        values = field.contents() if field is not None else []
    except (ValueError, IndexError, TypeError):
        return []
    return values if isinstance(values, list) else []
