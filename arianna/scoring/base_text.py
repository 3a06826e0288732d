"""The base text: text of the base itself, on which a fine-tune must not forget.

Rows sampled from the base itself (temperature 1, from BOS, a fixed seed): the rise of their negative
log-likelihood under a tuned model is an estimate of KL(base || tuned) in nats a token, needs no file and
works for any base. Real text, where the user has some, is prepared beside them. The train files serve as
replay, the val files are only ever scored.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from arianna.corpus.texts import encode_text, read_text, split_paragraphs, text_files
from arianna.generate import stream
from model import Transformer
from tokenizer import BOS, Tokenizer

SAMPLED_ROWS = {"val": 32, "train": 96}  # each of one context: 8,000 tokens give a score to about 0.02 nats
HELD_OUT = 0.05  # share of a text's paragraphs
SEED = 20


def sampled_rows(base: Transformer, rows: int, seed: int) -> np.ndarray:
    """`rows` texts of the base from BOS, one context each, behind one another, (rows * context,) uint16.

    A text that ends (BOS or EOS) is followed by the next in the same row, as in the base's training.
    """
    prompts, new = [[BOS]] * rows, base.args.max_seq_len - 1
    sampled = stream(base, prompts, new, temperature=1.0, top_k=0, seed=seed)
    return np.array([[BOS] * rows, *sampled], "<u2").T.flatten()


def files(
    base: Transformer, tokenizer: Tokenizer, folder: Path, text: str | None, replayed: bool
) -> dict[str, bytes]:
    """The files of a base text's folder: val_samples.bin, with `text` val_text.bin; if replayed, train_*.bin.

    `text` is a file or a folder. Samples that lie in `folder` already are taken from there: they depend on
    the base and the seed alone. Writes nothing.
    """
    contents, splits = {}, ("val", "train") if replayed else ("val",)
    for number, split in enumerate(splits):
        path = folder / f"{split}_samples.bin"
        if path.exists():
            contents[path.name] = path.read_bytes()
        else:
            contents[path.name] = sampled_rows(base, SAMPLED_ROWS[split], SEED + number).tobytes()
    if text is not None:
        tokens = text_tokens(text, tokenizer)
        contents |= {f"{split}_text.bin": tokens[split].tobytes() for split in splits}
    return contents


def text_tokens(path: str, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """A text's paragraphs to replay and those held out by hash. Raises ValueError if either side is empty."""
    halves = [split_paragraphs(read_text(f), HELD_OUT) for f in text_files(path)]
    joined = {}
    for side, (split, use) in enumerate((("train", "replay"), ("val", "score"))):
        tokens = np.concatenate([encode_text(half[side], tokenizer) for half in halves])
        if len(tokens) < 256:
            raise ValueError(
                f"{path} is too short to measure with: {len(tokens)} tokens to {use}; 256 are needed."
            )
        joined[split] = tokens
    return joined
