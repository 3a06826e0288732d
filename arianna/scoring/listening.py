"""Whether answers listen: a held-out answer should be likelier under its own question than under another's.

A model that ignores questions is right in half of the pairs. The two sides of a pair are compared within one
model, so that base and tuned can be compared whatever their losses are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from arianna.corpus.conversations import Conversation
from arianna.corpus.encoding import ANSWER, TRAIN_ANSWERS, encode_turns
from arianna.corpus.split import key
from arianna.scoring.bootstrap import ratio_of_pairs, spread
from arianna.scoring.losses import nll, tail
from model import Transformer
from tokenizer import IGNORE, Tokenizer

MOST_ROWS = 768  # rows scored with a model: all pairs of 27 conversations
LEAST_OTHERS = 7  # other questions for each answer, where there are so many
SEED = 1


class Pair(NamedTuple):
    """An answer under its own question and under another one, both by their conversations' numbers."""

    answer: int
    question: int
    nats: float  # how much likelier the answer is under its own question, summed over its tokens
    tokens: int


@dataclass(frozen=True)
class Listening:
    """The share of answers that are likelier under their own question, and the gain, with 95% intervals."""

    share: float | None  # right pairs of all; 0.5 is chance; None where no two conversations can be paired
    low: float | None
    high: float | None
    gain: float | None  # mean gain in nats a token, which the report calls question gain
    gain_low: float | None
    gain_high: float | None
    conversations: int
    pairs: list[Pair]


def listening(
    model: Transformer, held_out: Sequence[Conversation], tokenizer: Tokenizer, context: int | None = None
) -> Listening:
    """Score first answers under all first questions; of many conversations a sample, always the same.

    Conversations with the same question or the same answer are not paired. `context`: the base's, where the
    model's is longer. Questions that are too long are cut at their beginning, answers at their end, alike
    on both sides of a pair.
    """
    answered = [c for c in held_out if 1 not in c.given]  # in the others the first answer is context alone
    chosen = spread(answered, MOST_ROWS // (LEAST_OTHERS + 1))
    limit = min(context or model.args.max_seq_len, model.args.max_seq_len)
    pairs = scored_pairs(model, chosen, tokenizer, limit)
    wins = ratio_of_pairs([(p.answer, p.question, right(p), 1) for p in pairs], len(chosen))
    gain = ratio_of_pairs(pairs, len(chosen))
    return Listening(*wins.values(), *gain.values(), len(chosen), pairs)


def right(pair: Pair) -> float:
    """1 where the answer is likelier under its own question, 0.5 where both are equal."""
    return 0.5 + 0.5 * float(np.sign(pair.nats))


def improvement(base: Listening, tuned: Listening) -> dict[str, float | None]:
    """Rise of the share of right pairs, with its interval over conversations: value, low, high."""
    both = zip(base.pairs, tuned.pairs, strict=True)
    return ratio_of_pairs(
        [(b.answer, b.question, right(t) - right(b), 1) for b, t in both], tuned.conversations
    )


def from_dict(stored: dict[str, Any]) -> Listening:
    """The score that was stored as JSON."""
    return Listening(**{**stored, "pairs": [Pair(*pair) for pair in stored["pairs"]]})


# ---- pairs and their rows ----


def scored_pairs(
    model: Transformer, chosen: Sequence[Conversation], tokenizer: Tokenizer, context: int
) -> list[Pair]:
    """All pairs, with how much likelier each answer is under its own question."""
    halves = [question_and_answer(c, tokenizer, context) for c in chosen]
    pairs = [(i, j) for i, j in others(len(chosen)) if differ(chosen[i], chosen[j])]
    wanted = [*dict.fromkeys([(i, i) for i, _ in pairs] + pairs)]
    rows = [row(halves[j][0], *halves[i][1], context) for i, j in wanted]
    lines = nll(model, rows, context)
    nats = {ij: line[len(halves[ij[1]][0]) - 1 :] for ij, line in zip(wanted, lines, strict=True)}
    return [gained(i, j, nats[i, i], nats[i, j], halves[i][1][1]) for i, j in pairs]


def gained(i: int, j: int, own: np.ndarray, other: np.ndarray, targets: np.ndarray) -> Pair:
    """A pair from the nats of an answer's tokens on both sides, as far as both contexts reach."""
    both = min(len(own), len(other))
    return Pair(i, j, float(other[:both].sum() - own[:both].sum()), int((targets[:both] != IGNORE).sum()))


def question_and_answer(
    conversation: Conversation, tokenizer: Tokenizer, context: int
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Tokens of the first turn up to its "A:", and of its answer as inputs and as targets where it is scored.

    Of a question of more than half the context, BOS and the end are taken.
    """
    tokens, flags = encode_turns(replace(conversation, turns=conversation.turns[:1]), tokenizer)
    at = int(np.argmax(flags & TRAIN_ANSWERS > 0))
    question, answer = tail(tokens[:at].tolist(), context // 2), tokens[at:].astype(np.int64)
    return np.array(question), (answer, np.where(flags[at:] & ANSWER, answer, IGNORE))


def row(
    question: np.ndarray, answer: np.ndarray, targets: np.ndarray, context: int
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of an answer behind a question, cut where the context ends."""
    tokens = np.concatenate([question, answer])[:context]
    return tokens[:-1], np.concatenate([np.full_like(question, IGNORE), targets])[1 : len(tokens)]


def others(n: int) -> Iterator[tuple[int, int]]:
    """Ordered pairs of n numbers: all, or as many for each as MOST_ROWS allows, by a fixed shuffle."""
    order = np.random.default_rng(SEED).permutation(n).tolist()
    for distance in range(1, min(n, MOST_ROWS // max(n, 1))):
        yield from ((order[place], order[(place + distance) % n]) for place in range(n))


def differ(one: Conversation, other: Conversation) -> bool:
    """Whether two conversations have neither the question nor the answer in common."""
    return key(one) != key(other) and one.turns[0][1] != other.turns[0][1]
