"""Minimal pairs: how often a right sentence is likelier to a model than a wrong one that differs in a word.

The files are those of BLiMP (Warstadt et al. 2020, arXiv 1912.00582): a kind of fault each, with one pair a
line, {"sentence_good": ..., "sentence_bad": ...}. A sentence's score is the summed log-likelihood of its
tokens behind BOS.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from arianna.scoring.bootstrap import ratio
from arianna.scoring.losses import nll
from model import Transformer
from tokenizer import Tokenizer

SENTENCES = ("sentence_good", "sentence_bad")


def read_pairs(path: str | Path, most: int | None = None) -> dict[str, list[tuple[str, str]]]:
    """The first `most` pairs of a .jsonl file, or of all those of a folder, by the file's name."""
    path = Path(path)
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise ValueError(
            f"{path} has no .jsonl file; give one with {' and '.join(SENTENCES)} a line, or a folder of such."
        )
    return {file.stem: read_kind(file, most) for file in files}


def read_kind(file: Path, most: int | None) -> list[tuple[str, str]]:
    """The pairs of one file. Raises ValueError with the number of a line that holds none."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 (byte {error.start}); save it as UTF-8.") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()][:most]
    if not numbered:
        raise ValueError(f"{file} is empty; it needs a pair of sentences a line.")
    return [pair_of(line, f"{file}:{number}") for number, line in numbered]


def pair_of(line: str, place: str) -> tuple[str, str]:
    """The right and the wrong sentence of a line."""
    try:
        good, bad = (json.loads(line)[name] for name in SENTENCES)
    except (ValueError, KeyError, TypeError, RecursionError):
        good = bad = None
    if not isinstance(good, str) or not isinstance(bad, str) or not good.strip() or not bad.strip():
        raise ValueError(f'{place}: needed is an object with the texts "sentence_good" and "sentence_bad".')
    return good, bad


def score_pairs(
    model: Transformer, kinds: dict[str, list[tuple[str, str]]], tokenizer: Tokenizer
) -> dict[str, Any]:
    """The share of right pairs: for each kind, and as the mean of the kinds with a 95% interval.

    The interval is over kinds; where there is one, over its pairs. Raises ValueError for a sentence that is
    longer than the model's context.
    """
    pairs = [pair for kind in kinds.values() for pair in kind]
    nats = iter(sentence_nats(model, [sentence for pair in pairs for sentence in pair], tokenizer))
    right = {name: [float(next(nats) < next(nats)) for _ in kind] for name, kind in kinds.items()}
    shares = {name: float(np.mean(kind)) for name, kind in right.items()}
    counted = [*shares.values()] if len(shares) > 1 else [*right.values()][0]
    return {**ratio(counted, [1] * len(counted)), "pairs": len(pairs), "kinds": shares}


def sentence_nats(model: Transformer, sentences: list[str], tokenizer: Tokenizer) -> list[float]:
    """Summed nats of each sentence's tokens behind BOS."""
    context = model.args.max_seq_len
    encoded = [np.array(tokenizer.encode(sentence, bos=True)) for sentence in sentences]
    for sentence, tokens in zip(sentences, encoded, strict=True):
        if len(tokens) > context:
            raise ValueError(
                f'"{sentence[:40]}..." has {len(tokens)} tokens; the model has a context of {context}.'
            )
    return [float(line.sum()) for line in nll(model, [(t[:-1], t[1:]) for t in encoded], context)]
