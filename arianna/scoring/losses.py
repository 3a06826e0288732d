"""The losses of a model on held-out rows, of answers and of text, in nats a token."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from arianna.corpus.encoding import ANSWER, CONTINUED, TERMINATOR
from arianna.scoring.bootstrap import ratio, spread
from arianna_data import Rows, collate
from model import Transformer
from tokenizer import BOS, FIRST_BYTE, FIRST_PIECE, IGNORE, SPACE, Tokenizer

EVAL_ROWS = 16  # rows scored at a time


@dataclass(frozen=True)
class AnswerLoss:
    """Mean negative log-likelihood, in nats a token, of answers and of the terminators behind them."""

    loss: float
    terminator_loss: float  # the loss of the new line and BOS that end an answer
    tokens: int
    conversation_nats: list[float]  # sum over the answer tokens of each conversation; of a text, of each row
    conversation_tokens: list[int]

    @property
    def perplexity(self) -> float:
        """exp(loss): the model is as unsure as between so many equally likely tokens."""
        return math.exp(self.loss)


def answer_loss(model: Transformer, rows: Rows, most: int | None = None) -> AnswerLoss:
    """Score the answers of held-out rows, or all tokens of a text's rows, each row from its own BOS.

    `most`: score at most so many rows, evenly spread and always the same.
    """
    numbers = spread(range(len(rows)), most)
    conversation = np.unique(conversation_of(rows)[numbers], return_inverse=True)[1]
    sums = np.zeros((2, conversation.max() + 1))  # answer, terminator
    counts = np.zeros(sums.shape, dtype=int)
    for number, (nats, flags) in zip(conversation, row_nll(model, rows, numbers), strict=True):
        for i, flag in enumerate((ANSWER, TERMINATOR)):
            chosen = (flags & flag) > 0
            sums[i, number] += nats[chosen].sum()
            counts[i, number] += chosen.sum()
    tokens, terminators = counts.sum(1).tolist()
    if tokens == 0:
        raise ValueError(f"{rows.files[0]} has no answer token to score; prepare it again.")
    terminator = float(sums[1].sum() / terminators) if terminators else math.nan
    return AnswerLoss(float(sums[0].sum() / tokens), terminator, tokens, sums[0].tolist(), counts[0].tolist())


@dataclass(frozen=True)
class Evaluation:
    """The scores of a model at one of a run's evaluations."""

    answers: AnswerLoss
    base_text: dict[str, float]  # loss on each held-out base text


def evaluate_model(
    model: Transformer, held_out: Rows, base_text: Mapping[str, Rows], most: int | None = None
) -> Evaluation:
    """Score held-out answers and base texts, at most `most` rows of each."""
    texts = {name: answer_loss(model, rows, most).loss for name, rows in base_text.items()}
    return Evaluation(answer_loss(model, held_out, most), texts)


def conversation_of(rows: Rows) -> np.ndarray:
    """A number for each row, (N,), shared by the rows of one conversation; a text's rows have their own."""
    masks = [(rows.masks[shard], first) for shard, first, _ in rows.index]
    goes_on = [mask is not None and mask[first] & CONTINUED > 0 for mask, first in masks]
    return np.cumsum(~np.array(goes_on))


def row_nll(model: Transformer, rows: Rows, numbers: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (nats, flags) of each row's targets, float64 and int64; nats are 0 where nothing is scored."""
    loaded = [scored_row(rows, n) for n in numbers]
    nats = nll(model, [(tokens, targets) for tokens, targets, _ in loaded], rows.max_seq_len)
    return zip(nats, (flags for _, _, flags in loaded), strict=True)


def scored_row(rows: Rows, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, targets where they are scored, and flags of a row."""
    tokens, _, flags = rows.row(number)
    return tokens, np.where(flags & (ANSWER | TERMINATOR), all_targets(rows, number), IGNORE), flags


def all_targets(rows: Rows, number: int) -> np.ndarray:
    """Every token of a row but its first, (length - 1,) int64."""
    shard, first, last = rows.index[number]
    return rows.tokens[shard][first + 1 : last].astype(np.int64)


def nll(model: Transformer, pairs: Sequence[tuple[np.ndarray, np.ndarray]], longest: int) -> list[np.ndarray]:
    """Nats of each target of pairs (inputs, targets), float64. Rows of like length are scored together."""
    nats: list[np.ndarray] = [np.empty(0)] * len(pairs)
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]))
    device = model.tok_embeddings.weight.device
    for i in range(0, len(order), EVAL_ROWS):
        numbers = order[i : i + EVAL_ROWS]
        x, y = collate([pairs[n] for n in numbers], longest)
        lines = model.nll(x.to(device), y.to(device)).double().cpu().numpy()
        for n, line in zip(numbers, lines, strict=True):
            nats[n] = line[: len(pairs[n][0])]
    return nats


@dataclass(frozen=True)
class TextLoss:
    """Mean negative log-likelihood of a text in nats a token, and in bits a byte to compare tokenizers by."""

    loss: float
    bits_per_byte: float | None  # None without a tokenizer
    tokens: int
    row_nats: list[float]
    row_tokens: list[int]


def text_loss(
    model: Transformer, rows: Rows, most: int | None = None, tokenizer: Tokenizer | None = None
) -> TextLoss:
    """Score every token of rows of plain text but BOS and the first of each row. `most` as in answer_loss.

    BOS stands between texts: that another begins there is no part of a text, and a fine-tune learns to end
    on purpose.
    """
    pairs = [(rows.row(n)[0], all_targets(rows, n)) for n in spread(range(len(rows)), most)]
    pairs = [(tokens, np.where(targets == BOS, IGNORE, targets)) for tokens, targets in pairs]
    nats = [float(line.sum()) for line in nll(model, pairs, rows.max_seq_len)]
    scored = [targets[targets != IGNORE] for _, targets in pairs]
    counts = [len(targets) for targets in scored]
    n_bytes = int(token_bytes(tokenizer)[np.concatenate(scored)].sum()) if tokenizer else 0
    bits = sum(nats) / math.log(2) / n_bytes if n_bytes else None
    return TextLoss(sum(nats) / sum(counts), bits, sum(counts), nats, counts)


def token_bytes(tokenizer: Tokenizer) -> np.ndarray:
    """Bytes of text that each token stands for, (V,); 0 for unk, BOS and EOS."""
    pieces = [tokenizer.sp.id_to_piece(i) for i in range(FIRST_PIECE, tokenizer.vocab_size)]
    lengths = [len(piece.replace(SPACE, " ").encode()) for piece in pieces]
    return np.array([0] * FIRST_BYTE + [1] * (FIRST_PIECE - FIRST_BYTE) + lengths)


def forgetting(base: TextLoss, tuned: TextLoss) -> dict[str, float | None]:
    """Rise of the loss on base text: nats a token with a 95% interval (over rows), and bits a byte."""
    rises, bits = [t - b for t, b in zip(tuned.row_nats, base.row_nats, strict=True)], None
    if base.bits_per_byte is not None and tuned.bits_per_byte is not None:
        bits = tuned.bits_per_byte - base.bits_per_byte
    return {**ratio(rises, base.row_tokens), "bits_per_byte": bits}


def tail(tokens: list[int], most: int) -> list[int]:
    """A prompt of at most so many tokens; of a longer one, BOS and the end are left."""
    return tokens if len(tokens) <= most else [*tokens[:1], *tokens[len(tokens) - most + 1 :]]
