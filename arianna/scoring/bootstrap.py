"""Even samples of many things, and resamples, whose 95% intervals tell how sure a number is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from arianna.corpus.split import FEWEST_HELD_OUT

T = TypeVar("T")

RESAMPLES = 2000
FEWEST = FEWEST_HELD_OUT  # conversations, rows or answers that an interval needs
Pairs = tuple[Sequence[float], Sequence[int]]  # summed nats and number of tokens of each conversation


def resamples(n: int, seed: int = 0) -> np.ndarray:
    """Counts (RESAMPLES, n), float64: how often each of n things is among n draws with replacement."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(np.float64)


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, float | None]:
    """Summed numerators over summed denominators, with a 95% percentile interval over resampled pairs.

    See Efron & Tibshirani 1993, ch. 13. The value is None if the denominators are 0, the interval if fewer
    than FEWEST are not.
    """
    pairs = [(n, d) for n, d in zip(numerators, denominators, strict=True) if d]
    table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    value = float(table[:, 0].sum() / table[:, 1].sum()) if len(table) else None
    if len(table) < FEWEST:
        return {"value": value, "low": None, "high": None}
    drawn = resamples(len(table)) @ table
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1], (2.5, 97.5)).tolist()
    return {"value": value, "low": low, "high": high}


def ratio_of_pairs(pairs: Sequence[tuple[int, int, float, float]], n: int) -> dict[str, float | None]:
    """The ratio of sums over pairs (i, j, numerator, denominator) of n things, with an interval over things.

    A pair counts as often as both of its things were drawn together: pairs that share one are not
    independent, and an interval over pairs would be too narrow (the vertex bootstrap of Snijders & Borgatti
    1999).
    """
    table = np.zeros((2, n, n))
    for i, j, *values in pairs:
        table[:, i, j] = values
    numerator, denominator = table.sum((1, 2))
    value = float(numerator / denominator) if denominator else None
    if n < FEWEST or value is None:
        return {"value": value, "low": None, "high": None}
    drawn = resamples(n)
    above, below = (((drawn @ matrix) * drawn).sum(1) for matrix in table)
    low, high = np.percentile(above[below > 0] / below[below > 0], (2.5, 97.5)).tolist()
    return {"value": value, "low": low, "high": high}


def spread(items: Sequence[T], most: int | None) -> list[T]:
    """All items, or `most` of them evenly spread, the first and the last among them."""
    if most is None or len(items) <= most:
        return list(items)
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, most)]


@dataclass(frozen=True)
class Difference:
    """Held-out answer loss, tuned minus base, in nats a token; see `bootstrap`."""

    step: int  # the checkpoint with the lowest loss, the first of equals
    value: float  # the difference over all conversations: a little too kind, for it was chosen on them
    unseen: float  # the mean over resamples of the difference on conversations that had no part in the choice
    low: float  # these are the ends of the middle 95%
    high: float


def bootstrap(base: Pairs, checkpoints: Mapping[int, Pairs]) -> Difference | None:
    """Whether the best checkpoint is better than the base; None with fewer than FEWEST conversations.

    `base` and each checkpoint (by step) give summed nats and tokens per conversation, in one order.
    Conversations are drawn with replacement; on each such resample the checkpoint with the lowest ratio of
    summed nats to summed tokens is chosen anew, and its difference to the base is taken on the
    conversations that were not drawn (0.37 of them on average). The loss on those that served to choose
    would be too kind, which is the reason for the left-out part of the .632 estimator (Efron & Tibshirani
    1993, An Introduction to the Bootstrap, ch. 13 and 17). Scores of a third of the conversations scatter
    more than those of all: the interval is about 1.3 times as wide as a plain bootstrap's, on the safe
    side. Raises ValueError if there is no checkpoint, or if the numbers of conversations differ.
    """
    steps = sorted(checkpoints)
    rows = [base, *(checkpoints[s] for s in steps)]
    if not steps or len({len(column) for row in rows for column in row}) > 1:
        raise ValueError(
            f"the base and {len(steps)} checkpoints cannot be compared: score them on the same conversations"
        )
    # nats and tokens, each (1 + checkpoints, conversations)
    nats, tokens = (np.array([row[i] for row in rows], dtype=np.float64) for i in (0, 1))
    nats, tokens = (table[:, tokens.min(0) > 0] for table in (nats, tokens))
    n = nats.shape[1]
    if n < FEWEST:
        return None
    drawn = resamples(n)
    chosen = 1 + np.argmin((drawn @ nats[1:].T) / (drawn @ tokens[1:].T), axis=1)  # (RESAMPLES,)
    left_out = drawn == 0
    usable = left_out.any(1)  # a resample may hold all conversations
    losses = (left_out[usable] @ nats.T) / (left_out[usable] @ tokens.T)
    unseen = losses[np.arange(len(losses)), chosen[usable]] - losses[:, 0]
    low, high = np.percentile(unseen, (2.5, 97.5)).tolist()
    whole = nats.sum(1) / tokens.sum(1)
    best = int(np.argmin(whole[1:]))
    return Difference(steps[best], float(whole[1 + best] - whole[0]), float(unseen.mean()), low, high)
