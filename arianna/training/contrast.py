"""The question contrast: a term that prefers an answer under its own question to the same under another's.

Of each row of a batch that begins a conversation, the first answer is put behind its own question and behind
that of the next such row. The term is -log of the chance that, of both, its own question is the one it was
given to, as in contrastive losses (van den Oord et al. 2018, arXiv 1807.03748): softplus of the other's
summed log-likelihood minus its own, over the batch's targets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from arianna.corpus.encoding import ANSWER, CONTINUED
from arianna.ops import product
from arianna.training.devices import Precision, ProcessGroup
from arianna_data import Batch, Rows, Task, collate
from model import Transformer
from tokenizer import IGNORE

Side = tuple[Tensor, Tensor]  # inputs and targets (P, T) of answers behind questions; answers are scored


class ContrastTask(Task):
    """A task whose batches also hold the pairs of the question contrast."""

    def batch(self, step: int) -> Batch:
        batch = super().batch(step)
        pairs, longest = pairs_of(self.rows, batch.rows), self.rows.max_seq_len
        groups = [pairs[i : i + self.batch_size] for i in range(0, len(pairs), self.batch_size)]
        sides = [tuple(collate(list(side), longest) for side in zip(*group, strict=True)) for group in groups]
        return dataclasses.replace(batch, pairs=sides)


Row = tuple[np.ndarray, np.ndarray]  # inputs and targets


def pairs_of(rows: Rows, numbers: Sequence[int]) -> list[tuple[Row, Row]]:
    """Each first answer of these rows behind its own question, and behind that of the next row."""
    turns = [turn for number in numbers if (turn := question_and_answer(rows, number))]
    pairs = []
    for i, (own, answer) in enumerate(turns):
        other = turns[(i + 1) % len(turns)][0]
        room = rows.max_seq_len + 1 - max(len(own), len(other))
        if room > 0 and not np.array_equal(own, other):
            pairs.append((behind(own, answer[:room]), behind(other, answer[:room])))
    return pairs


def question_and_answer(rows: Rows, number: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The tokens of a row up to its first answer, and that answer's; None where no conversation begins."""
    shard, first, last = rows.index[number]
    mask = rows.masks[shard]
    if mask is None or mask[first] & CONTINUED:
        return None
    tokens, is_answer = rows.tokens[shard][first:last].astype(np.int64), (mask[first:last] & ANSWER) > 0
    start = int(is_answer.argmax())
    length = int((~is_answer[start:]).argmax()) or len(tokens) - start
    return (tokens[:start], tokens[start : start + length]) if start else None


def behind(question: np.ndarray, answer: np.ndarray) -> Row:
    """Inputs and targets of an answer behind a question."""
    tokens = np.concatenate([question, answer])
    return tokens[:-1], np.concatenate([np.full(len(question) - 1, IGNORE), answer])


def term(model: Transformer, own: Side, other: Side, count: int) -> Tensor:
    """The contrast of pairs, summed, over `count`."""
    return F.softplus(nats(model, *own) - nats(model, *other)).sum() / count


def nats(model: Transformer, x: Tensor, y: Tensor) -> Tensor:
    """The summed negative log-likelihood of each row's targets, (P,)."""
    logits = product(model.hidden_states(x), model.output.weight).float()
    nll = F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=IGNORE, reduction="none")
    return nll.view(y.shape).sum(1)


def backward(
    model: Transformer, batch: Batch, weight: float, precision: Precision, group: ProcessGroup
) -> None:
    """Add the gradient of the weighted term to the model's, for this process's shard of the batch's pairs."""
    for sides in batch.pairs:
        own, other = (tuple(group.shard(t).to(precision.device) for t in side) for side in sides)
        if len(own[0]):
            with precision():
                loss = weight * term(model, own, other, batch.n_targets)
            loss.backward()
