"""llama2.c checkpoints in and out, checked: nothing in a file is trusted before it has been looked at.

A checkpoint is llama2.c's dict: `model` (its state dict), `optimizer`, `model_args`, `iter_num`,
`best_val_loss`, `config`; ours may add `run`, what an exact resume needs. Errors are ValueError (or OSError)
with one sentence.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from arianna.formats import diagnosis
from arianna.formats.options import Options, beside, computed
from arianna.formats.shapes import check_shapes, model_of, plausible, weight_shapes
from arianna.ops import all_finite
from arianna.system.files import sha256, write_atomic
from arianna.system.resources import check_file
from model import NORM_EPS, ModelArgs, Transformer
from tokenizer import Tokenizer

__all__ = ["beside", "check_tokenizer", "computed", "read", "stored", "to_bytes"]  # what every format has

MODEL_ARGS = "dim n_layers n_heads n_kv_heads vocab_size multiple_of max_seq_len dropout".split()
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
COMPILED = "_orig_mod."  # torch.compile's prefix, which llama2.c's older files carry
MAX_ENTRIES = 100_000
MAX_LIST_BYTES = 16 << 20  # size of an archive's list of entries, which is read whole
MAX_TABLE = 1 << 22  # numbers in each of a model's two tables of angles


def load(path: str | Path) -> dict[str, Any]:
    """The contents of a checkpoint file, of which only tensors and plain values are unpickled.

    All CRCs are checked first, which torch does not do.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; a checkpoint file is needed there.")
    with open(path, "rb") as f:
        check_zip(f, path)
        f.seek(0)
        try:
            contents = torch.load(f, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # there is no list of what a crafted pickle makes the unpickler raise
            asked = re.search(r"GLOBAL (\S+)", str(error))
            if asked:  # torch's whole message would advise to open the file unchecked
                raise ValueError(f"{path} {diagnosis.of_refused(asked[1])}.") from None
            raise ValueError(
                f"{path} is not a checkpoint of tensors and plain values. Use another copy of it."
            ) from None
    entries = contents if isinstance(contents, dict) else {}
    if not all(isinstance(entries.get(name), dict) for name in ("model", "model_args")):
        raise ValueError(f"{path} {diagnosis.of_contents(contents)}.")
    return contents


def check_zip(file: BinaryIO, path: Path) -> None:
    """Raise ValueError unless the file is a whole zip archive of uncompressed entries with right CRC-32s."""
    damaged = f"{path} is damaged or not a checkpoint"
    size = path.stat().st_size
    if not zipfile.is_zipfile(file):
        if known := diagnosis.what_it_is(path):
            raise ValueError(f"{path} {known}.")
        raise ValueError(
            f"{damaged}: it has {size:,} bytes and is no zip archive, which torch.save writes. "
            "Use another copy of it."
        )
    check_file(path, size)
    try:
        # ZipFile reads the whole list of entries, and there is no public way to ask for its size before
        if zipfile._EndRecData(file)[zipfile._ECD_SIZE] > MAX_LIST_BYTES:
            raise ValueError(f"{path} has too many entries; torch.save writes fewer, so it is not opened.")
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_ENTRIES or any(e.compress_type != zipfile.ZIP_STORED for e in entries):
                raise ValueError(
                    f"{path} has compressed or too many entries; "
                    "torch.save writes neither, so it is not opened."
                )
            if sum(e.file_size for e in entries) > size:
                raise ValueError(f"{damaged}: its entries claim more bytes than its {size:,}.")
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, UnicodeDecodeError, struct.error) as error:
        raise ValueError(f"{damaged}: {error}. Use another copy of it.") from None
    if broken is not None:
        raise ValueError(f"{damaged}: the check sum of {broken} is wrong. Use another copy of it.")


def build_model(contents: dict[str, Any], path: str | Path, max_seq_len: int | None = None) -> Transformer:
    """The model of a loaded checkpoint, float32 on the CPU. `max_seq_len` gives it another context."""
    args = read_args(contents["model_args"], path)
    weights = {k.removeprefix(COMPILED): v for k, v in contents["model"].items() if isinstance(k, str)}
    weights = {k: v for k, v in weights.items() if not k.endswith(("freqs_cos", "freqs_sin"))}
    embedding, output = weights.get("tok_embeddings.weight"), weights.get("output.weight")
    tied = output is None or same(embedding, output)
    expected = weight_shapes(args)
    if output is None:
        expected.pop("output.weight")
    check_weights(path, weights, expected)
    return model_of(args, tied, {name: weight.float() for name, weight in weights.items()}, max_seq_len)


def read_args(model_args: dict[str, Any], path: str | Path) -> ModelArgs:
    """ModelArgs of a checkpoint's model_args; another eps or unknown entries are refused."""
    known = {f.name for f in dataclasses.fields(ModelArgs)}
    unknown = sorted(set(map(str, model_args)) - known)
    if unknown:
        raise ValueError(f"{path} has model_args unknown to llama2.c: {', '.join(unknown)}.")
    missing = sorted({"dim", "n_layers", "n_heads", "vocab_size"} - set(model_args))
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)} in its model_args.")
    try:
        args = plausible(ModelArgs(**{**model_args, "dropout": 0.0}))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None
    if args.max_seq_len * args.head_dim // 2 > MAX_TABLE:
        raise ValueError(
            f"{path}: a context of {args.max_seq_len} with heads of {args.head_dim} "
            "is beyond what can be computed here."
        )
    if args.norm_eps != NORM_EPS:
        raise ValueError(f"{path} has norm_eps {args.norm_eps}; llama2.c's programs compute with {NORM_EPS}.")
    return args


def check_weights(path: str | Path, weights: dict[str, Any], wanted: dict[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless names, shapes and types are the wanted ones and every number is finite."""
    for name, tensor in weights.items():
        if not is_plain(tensor):
            kind = getattr(tensor, "dtype", type(tensor).__name__)
            raise ValueError(f"{path}: {name} is {kind}, not a plain tensor of floats.")
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    check_shapes(path, shapes, wanted, "its model_args ask")
    for name, tensor in weights.items():
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"{path}: {name} claims {tensor.numel():,} numbers, more than the file holds.")
        if not all_finite(tensor):
            raise ValueError(
                f"{path}: {name} holds NaN or infinity, so the model cannot be used. "
                "Use an earlier checkpoint."
            )


def is_plain(tensor: Any) -> bool:
    """Whether a value is a dense tensor of floats in memory."""
    return (
        isinstance(tensor, Tensor)
        and tensor.dtype in DTYPES
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
    )


def tokenizer_of(checkpoint: dict[str, Any]) -> dict[str, str] | None:
    """The tokenizer that a checkpoint was trained with, {"sha256", "path"}; None where it does not say.

    The state of a run says it in `run`, weights alone say it in `config`.
    """
    for entry in (checkpoint.get("run"), checkpoint.get("config")):
        noted = entry.get("tokenizer") if isinstance(entry, dict) else None
        if isinstance(noted, dict) and all(isinstance(noted.get(name), str) for name in ("sha256", "path")):
            return {name: noted[name] for name in ("sha256", "path")}
    return None


def check_tokenizer(path: Path, tokenizer: Tokenizer) -> None:
    """Raise ValueError if the checkpoint says which tokenizer it was trained with, and it is another one."""
    noted = tokenizer_of(load(path))
    if noted and noted["sha256"] != sha256(tokenizer.path):
        raise ValueError(
            f"{path} was trained with the tokenizer {noted['path']} (SHA-256 {noted['sha256'][:12]}...); "
            f"{tokenizer.path} is another one. Give that one with --tokenizer."
        )


def same(a: Any, b: Any) -> bool:
    """Whether two tensors are one, by storage or by value."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or a.shape != b.shape or a.dtype != b.dtype:
        return False
    return a.data_ptr() == b.data_ptr() or torch.equal(a, b)


def read(path: str | Path, max_seq_len: int | None = None) -> Transformer:
    """The model of a checkpoint file."""
    return build_model(load(path), path, max_seq_len)


def stored(model: Transformer, options: Options) -> Transformer:
    """The model that a file gives back: with `half` a float32 copy whose weights are rounded to float16."""
    if not options.half:
        return model
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    return model


def pack(model: Transformer, half: bool = False, **entries: Any) -> dict[str, Any]:
    """The dict of a checkpoint. `half` stores float16; tied weights stay one storage either way."""
    state = {k: v.detach().cpu() for k, v in model.state_dict().items()}
    if half:
        state = {k: v.half() for k, v in state.items()}
        if not all(map(all_finite, state.values())):
            raise ValueError(
                "the model has weights beyond 65,504, the largest number of float16, "
                "so it cannot be stored in half."
            )
    if model.tied:
        state["output.weight"] = state["tok_embeddings.weight"]
    model_args = {name: getattr(model.args, name) for name in MODEL_ARGS}
    if model.args.hidden_dim is not None:
        model_args["hidden_dim"] = model.args.hidden_dim
    return {"model": state, "model_args": model_args, "config": {"vocab_source": "custom"}, **entries}


def save(path: str | Path, checkpoint: dict[str, Any], check: Callable[[Path], None] | None = None) -> None:
    """Write a checkpoint whole or not at all; `check` as in write_atomic."""
    write_atomic(path, serialized(checkpoint), check)


def to_bytes(model: Transformer, options: Options) -> bytes:
    """A file of the model's weights alone, with a note of its tokenizer where that is given."""
    packed = pack(model, options.half)
    if options.tokenizer is not None:
        options.tokenizer.check_fits(model.args.vocab_size, "the model")
        path = options.tokenizer.path
        packed["config"]["tokenizer"] = {"sha256": sha256(path), "path": str(path)}
    return serialized(packed)


def serialized(checkpoint: dict[str, Any]) -> bytes:
    """A checkpoint's file in memory: torch.save to a full disk loses the error."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return buffer.getvalue()
