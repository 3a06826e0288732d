"""Texts for a base: files of prose, split and encoded, without torch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from arianna.corpus import recognition
from arianna.corpus.encoding import check_fits_shard, tokenizer_of
from arianna.corpus.parallel import Say, fill
from arianna.corpus.sources import PART, holds_records
from arianna.system.files import sha256
from tokenizer import Tokenizer

ENDS = ("\n\n", "\n", ". ", " ")  # where a text is cut, the first of these that it has
HEAD = 1 << 16  # bytes that are looked at to tell prose from records


def text_files(path: str | Path) -> list[Path]:
    """The .txt and .md files of a folder, or the one file that is given."""
    if "://" in str(path):
        raise ValueError(f"{path} is an address; download the text and give its path.")
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} is missing; give a folder of texts (.txt, .md) or one text file.")
    files = sorted(p for p in path.rglob("*") if p.suffix in (".txt", ".md")) if path.is_dir() else [path]
    if not files or not all(p.is_file() for p in files):
        raise ValueError(f"{path} has no .txt or .md file; give a folder of texts or one text file.")
    return files


def documents(text: str) -> list[str]:
    """A file is one document, or several where two empty lines part them."""
    return [d.strip("\n") for d in re.split(r"\n{3,}", text) if d.strip()]


def split_tail(text: str, tail: float) -> tuple[str, str]:
    """A text without and with its last part, `tail` of its length, cut at the next end of a paragraph.

    Where there is none, it is cut at the end of a line, sentence or word.
    """
    if tail == 0:
        return text, ""
    body = text.rstrip()
    cuts = ((end, body.find(end, int(len(body) * (1 - tail)))) for end in ENDS)
    cut = next((at + end.count(".") for end, at in cuts if at >= 0), len(text))
    return text[:cut], text[cut:]


def split_paragraphs(text: str, portion: float) -> tuple[str, str]:
    """The paragraphs to train on and those held out, whose SHA-256 is in the lowest `portion` of all.

    In a text without empty lines each line is a paragraph.
    """
    sides: tuple[list[str], list[str]] = ([], [])
    border = r"(?<=\n)\n" if "\n\n" in text.strip() else r"\n"
    for paragraph in re.split(border, text):  # each keeps its new line; further empty lines are trained on
        digest = hashlib.sha256(paragraph.strip().encode()).digest()
        low = int.from_bytes(digest[:8], "big") < portion * 2**64
        sides[bool(low and paragraph.strip())].append(paragraph)
    return "\n".join(sides[0]), "\n".join(sides[1])


def encode_text(text: str, tokenizer: Tokenizer) -> np.ndarray:
    """Each document's tokens behind a BOS, (N,) uint16."""
    check_fits_shard(tokenizer)
    ids = [i for d in documents(text) for i in tokenizer.encode(d, bos=True)]
    return np.array(ids, dtype="<u2")


def read_text(path: Path) -> str:
    """A file of prose. Raises ValueError for one that is not UTF-8, or holds records."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if encoding := recognition.wide_encoding(data[:HEAD]):
            reason = f"is {encoding}; save it as UTF-8"
        elif recognition.is_binary(data[:HEAD]):
            reason = f"is no text, it begins with the bytes {data[:8].hex(' ')}"
        else:
            place = f"byte {error.start + 1} is 0x{data[error.start]:02X}"
            reason = f"is not UTF-8 ({place}) but Windows-1252 or Latin-1 perhaps; save it as UTF-8"
        raise ValueError(f"{path} {reason}.") from None
    if holds_records(data[:HEAD]):
        raise ValueError(
            f"{path} holds JSON records, which would be learned as prose, braces and all; conversations have "
            "names that end in .jsonl and are given to arianna_ft.py --conversations or pretokenize --data."
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


# ---- shards ----


def shards_of(
    texts: Sequence[Path], tokenizer: str, val_tail: float, val_paragraphs: float
) -> dict[str, Any]:
    """Everything that the shards of texts depend on, without the paths of the files."""
    hashes, held_out = [sha256(f) for f in texts], [val_tail, val_paragraphs]
    return {"texts": hashes, "tokenizer": sha256(tokenizer), "held out": held_out, "part": PART}


def prepare_texts(
    texts: Sequence[Path],
    tokenizer: str,
    val_tail: float,
    val_paragraphs: float,
    folder: Path,
    say: Say,
    workers: int | None = None,
) -> dict[str, int]:
    """Write the shards of text files; returns the number of tokens and bytes of each side."""
    sizes = [f.stat().st_size for f in texts]
    numbers = np.cumsum([0, *sizes])[:-1] // PART if texts else []  # the group of each text
    groups = [[n for n, at in enumerate(numbers) if at == number] for number in sorted(set(numbers))]
    jobs = [([str(texts[n]) for n in group], tokenizer, val_tail, val_paragraphs) for group in groups]
    made_of = shards_of(texts, tokenizer, val_tail, val_paragraphs)
    group_sizes = [sum(sizes[n] for n in group) for group in groups]
    made = fill(folder, made_of, encode_texts, jobs, group_sizes, say, workers)
    return {name: sum(part[name] for part in made) for name in made[0]}


def encode_texts(
    texts: list[str], model: str, val_tail: float, val_paragraphs: float
) -> tuple[dict[str, bytes], dict[str, int]]:
    """The shards of some texts by name, and the tokens and bytes of each side."""
    halves = [
        split_paragraphs(t, val_paragraphs) if val_paragraphs else split_tail(t, val_tail)
        for t in map(read_text, map(Path, texts))
    ]
    files, counts = {}, {}
    for side, name in enumerate(("train", "val")):
        tokens = np.concatenate([encode_text(half[side], tokenizer_of(model)) for half in halves])
        files[f"{name}.bin"] = tokens.tobytes()
        counts[f"{name}_tokens"] = len(tokens)
        counts[f"{name}_bytes"] = sum(len(half[side].encode()) for half in halves)
    return files, counts
