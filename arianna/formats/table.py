"""The formats a model is written in, by name: how each is made, read back, and computed with. Loads nothing until it is used."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # torch takes seconds; a wrong argument is told before
    from model import Transformer
    from tokenizer import Tokenizer


@dataclass(frozen=True)
class Options:
    """What a format takes besides the model."""

    half: bool = False  # checkpoint: weights in float16
    gguf_type: str = "F32"  # gguf: F32, F16 or Q8_0
    tokenizer: Tokenizer | None = None  # needed by hf, gguf and html, which carry it
    report: dict[str, Any] | None = None  # hf and html: what they say of the run
    html_type: str = "int8"  # html: int8, F16 or F32
    compare: Transformer | None = None  # html: a second model, which answers beside the first
    names: tuple[str, ...] = ("model", "base")  # html: of the two
    any_size: bool = False  # html: also a page that a browser may not bear


class Format(NamedTuple):
    """A kind of file, or of folder where it has no suffix. What cannot be made or read is a ValueError with one sentence."""

    suffix: str
    make: Callable[[Transformer, Options], bytes | dict[str, bytes]]  # a file's bytes, or a folder's files by name
    read: Callable[[Path, int | None], Transformer]  # from a path, with another context where one is given
    is_ours: Callable[[Path, Transformer], bool]  # whether an export of the model may replace what lies there
    stored: Callable[[Transformer, Options], Transformer] = lambda model, _: model  # what the file gives back, bit for bit
    computed: Callable[[Transformer, Options], Transformer] = lambda stored, _: stored  # as the programs that read it compute it
    check_tokenizer: Callable[[Path, Tokenizer], None] = lambda path, tokenizer: None  # raises where it carries another one
    beside: Callable[[str, Transformer, Options], dict[str, bytes]] = lambda name, model, _: {}  # files that go with one of this name


def later(module: str, name: str) -> Callable[..., Any]:
    """A module's function; the module is imported when it is called."""
    return lambda *args: getattr(import_module(module), name)(*args)


def read_bin(path: Path, max_seq_len: int | None) -> Transformer:
    """A llama2.c .bin of any version."""
    from arianna.formats import llama2c, llama2c_int8

    headed = path.is_file() and llama2c_int8.is_headed(path)
    return (llama2c_int8 if headed else llama2c).read(path, max_seq_len)


def is_bin_of_its_shape(path: Path, model: Transformer) -> bool:
    """A .bin has no room for a mark: one of the model's own shape counts as an export of ours."""
    try:
        return read_bin(path, model.args.max_seq_len).args == model.args
    except (OSError, ValueError):
        return False


def int8_computed(stored: Transformer, _: Options) -> Transformer:
    from arianna.formats import llama2c_int8

    return llama2c_int8.compute_in_int8(stored, llama2c_int8.group_size(stored.args))


def gguf_stored(model: Transformer, options: Options) -> Transformer:
    from arianna.formats import gguf

    return model if options.gguf_type == "F32" else gguf.rounded(model, options.gguf_type)


def gguf_computed(stored: Transformer, options: Options) -> Transformer:
    from arianna.formats import gguf, llama2c_int8

    return stored if options.gguf_type != "Q8_0" else llama2c_int8.compute_in_int8(stored, gguf.Q8_GROUP, half_scales=True)


def page_bytes(model: Transformer, options: Options) -> bytes:
    from arianna.formats import html

    models = [model] if options.compare is None else [model, options.compare]
    voices = [html.Voice(name, voice) for name, voice in zip(options.names, models, strict=False)]
    return html.to_bytes(voices, options.tokenizer, options.html_type, options.report, options.any_size)


def checkpoint_bytes(model: Transformer, options: Options) -> bytes:
    from arianna.formats import checkpoint

    return checkpoint.to_bytes(checkpoint.pack(model, options.half))


def checkpoint_stored(model: Transformer, options: Options) -> Transformer:
    """With `half` a copy whose weights are float16's nearest, in float32."""
    if not options.half:
        return model
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    return model


def read_checkpoint(path: Path, max_seq_len: int | None) -> Transformer:
    from arianna.formats import checkpoint

    return checkpoint.build_model(checkpoint.load(path), path, max_seq_len)


def is_bare_checkpoint(path: Path, _: Transformer) -> bool:
    """Weights and no more: the state of a run is nothing that an export could give back."""
    from arianna.formats import checkpoint

    try:
        return checkpoint.load(path).keys() == {"model", "model_args", "config"}
    except (OSError, ValueError):
        return False


FORMATS = {
    "llama2c": Format(
        suffix=".bin",
        make=lambda model, _: later("arianna.formats.llama2c", "to_bytes")(model),
        read=read_bin,
        is_ours=is_bin_of_its_shape,
    ),
    "llama2c-int8": Format(
        suffix=".bin",
        make=lambda model, _: later("arianna.formats.llama2c_int8", "to_bytes")(model),
        read=read_bin,
        is_ours=is_bin_of_its_shape,
        stored=lambda model, _: later("arianna.formats.llama2c_int8", "rounded")(model),
        computed=int8_computed,
    ),
    "hf": Format(
        suffix="",
        make=lambda model, options: later("arianna.formats.hf", "to_files")(model, options.tokenizer, options.report),
        read=later("arianna.formats.hf", "read"),
        is_ours=lambda path, _: later("arianna.formats.hf", "is_ours")(path),
        check_tokenizer=later("arianna.formats.hf", "check_tokenizer"),
    ),
    "gguf": Format(
        suffix=".gguf",
        make=lambda model, options: later("arianna.formats.gguf", "to_bytes")(model, options.tokenizer, options.gguf_type),
        read=later("arianna.formats.gguf", "read"),
        is_ours=lambda path, _: later("arianna.formats.gguf", "is_ours")(path),
        stored=gguf_stored,
        computed=gguf_computed,
        check_tokenizer=later("arianna.formats.gguf", "check_tokenizer"),
        beside=lambda name, model, options: {"Modelfile": later("arianna.formats.gguf", "modelfile")(name, model.args, options.tokenizer)},
    ),
    "html": Format(
        suffix=".html",
        make=page_bytes,
        read=later("arianna.formats.html", "read"),
        is_ours=lambda path, _: later("arianna.formats.html", "is_ours")(path),
        stored=lambda model, options: later("arianna.formats.html", "rounded")(model, options.html_type),
        check_tokenizer=later("arianna.formats.html", "check_tokenizer"),
    ),
    "checkpoint": Format(
        suffix=".pt",
        make=checkpoint_bytes,
        read=read_checkpoint,
        is_ours=is_bare_checkpoint,
        stored=checkpoint_stored,
    ),
}


def format_of(path: Path) -> Format:
    """What format a model at a path is in, by its suffix; a folder is Hugging Face's, any other file a checkpoint."""
    if path.is_dir():
        return FORMATS["hf"]
    return next((kind for kind in FORMATS.values() if kind.suffix and kind.suffix == path.suffix), FORMATS["checkpoint"])


def open_model(path: str | Path, max_seq_len: int | None = None) -> Transformer:
    """The model of a checkpoint (.pt), a llama2.c .bin, a .gguf or a Hugging Face folder, in float32 on the CPU.

    It has another context where one is given. Raises ValueError or OSError with one sentence for what cannot be read.
    """
    path = Path(path)
    return format_of(path).read(path, max_seq_len)


def check_tokenizer(path: str | Path, tokenizer: Tokenizer) -> None:
    """Raise ValueError if the model at a path carries a tokenizer, as a Hugging Face folder and a .gguf do, and it is another one."""
    path = Path(path)
    format_of(path).check_tokenizer(path, tokenizer)
