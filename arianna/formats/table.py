"""The formats by name. Each is a module of this room with the same six functions, imported when it is used.

    to_bytes(model, options) -> bytes | dict[str, bytes]    the file, or the files of a folder by name
    read(path, max_seq_len=None) -> Transformer             with another context where one is given
    stored(model, options) -> Transformer                   the model that the file gives back, bit for bit
    computed(stored, options) -> Transformer                the model as the programs that read it compute it
    check_tokenizer(path, tokenizer) -> None                raises where the file carries another tokenizer
    beside(name, model, options) -> dict[str, bytes]        files that go with a file of this name beside it

What cannot be written or read is a ValueError (or OSError) with one sentence.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from arianna import ROOT
from arianna.system.files import sha256

if TYPE_CHECKING:  # torch takes seconds; a wrong argument is told before
    from model import Transformer
    from tokenizer import Tokenizer

SUFFIXES = {"llama2c": ".bin", "llama2c-int8": ".bin", "hf": "", "gguf": ".gguf"}  # hf is a folder
SUFFIXES |= {"html": ".html", "checkpoint": ".pt"}
SHIPPED_TOKENIZER = ROOT / "data/tok4096.model"
SIGNS = {b"ak42"[::-1]: "llama2c-int8", b"GGUF": "gguf", b"PK\3\4": "checkpoint"}  # a file's first bytes


def module(name: str) -> ModuleType:
    """The module of a format."""
    return import_module(f"arianna.formats.{name.replace('-', '_')}")


def format_at(path: Path) -> str:
    """The format of a file or folder, by its first bytes, else by its suffix; by default checkpoint."""
    if path.is_dir():
        return "hf"
    if path.is_file():
        with open(path, "rb") as file:
            sign = file.read(4)
        if sign in SIGNS:
            return SIGNS[sign]
    return next((name for name, suffix in SUFFIXES.items() if suffix and suffix == path.suffix), "checkpoint")


def open_model(path: str | Path, max_seq_len: int | None = None) -> Transformer:
    """The model at a path, in any of the formats, in float32 on the CPU, in another context if given.

    Raises ValueError or OSError with one sentence for what cannot be read.
    """
    if "://" in str(path):
        raise ValueError(
            f"{path} is an address; nothing is fetched from the network here: "
            "download the model and give its path."
        )
    path = Path(path)
    return module(format_at(path)).read(path, max_seq_len)


def check_tokenizer(path: str | Path, tokenizer: Tokenizer) -> None:
    """Raise ValueError if the model at a path carries or names a tokenizer, and it is another one."""
    path = Path(path)
    module(format_at(path)).check_tokenizer(path, tokenizer)


def open_tokenizer(path: str | Path, chosen: str | Path | None = None) -> Tokenizer:
    """The tokenizer for the model at a path: the chosen one, else the model's own, else the shipped one.

    Raises ValueError if the model carries or names another one, or an OSError if there is none.
    """
    from tokenizer import Tokenizer  # loads sentencepiece

    tokenizer = Tokenizer(chosen or find_tokenizer(path) or SHIPPED_TOKENIZER)
    check_tokenizer(path, tokenizer)
    return tokenizer


def find_tokenizer(path: str | Path) -> Path | None:
    """The tokenizer's .model in the folder of a model, or the one that a checkpoint names; else None.

    The latter is looked for where it was, from here and from the project's folder, and beside the checkpoint.
    """
    path = Path(path)
    if path.is_dir():
        return next((file for file in [path / "tokenizer.model"] if file.is_file()), None)
    if format_at(path) != "checkpoint":
        return None
    checkpoint = module("checkpoint")
    noted = checkpoint.tokenizer_of(checkpoint.load(path))
    if noted is None:
        return None
    places = [Path(noted["path"]), ROOT / noted["path"], path.with_name(Path(noted["path"]).name)]
    return next((place for place in places if place.is_file() and sha256(place) == noted["sha256"]), None)
