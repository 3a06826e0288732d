"""The settings of the formats, and the functions of a format that is one file and keeps every bit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torch takes seconds; a wrong argument is told before
    from model import Transformer
    from tokenizer import Tokenizer


@dataclass(frozen=True)
class Options:
    """Settings of the formats; each format looks at its own."""

    half: bool = False  # checkpoint: weights in float16
    gguf_type: str = "F32"  # gguf: F32, F16 or Q8_0
    tokenizer: Tokenizer | None = None  # hf, gguf and html carry it; a checkpoint notes which one it was
    report: dict[str, Any] | None = None  # hf and html: a run's report.json, whose figures they show
    html_type: str = "int8"  # html: int8, F16 or F32
    compare: Transformer | None = None  # html: a second model, which answers beside the first
    names: tuple[str, ...] = ("model", "base")  # html: the two models' names
    any_size: bool = False  # html: also a page that is large for a browser


def stored(model: Transformer, options: Options) -> Transformer:
    """The model that the file gives back: the same one, in float32."""
    return model


def computed(stored: Transformer, options: Options) -> Transformer:
    """The model as the programs that read the file compute it: as it is stored."""
    return stored


def check_tokenizer(path: Path, tokenizer: Tokenizer) -> None:
    """Check nothing, since the file carries no tokenizer."""


def beside(name: str, model: Transformer, options: Options) -> dict[str, bytes]:
    """Further files that go with this one: none."""
    return {}
