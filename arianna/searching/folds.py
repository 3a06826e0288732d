"""Conversations to train on, parted for a search by the split's keys: each fold is held out once.

The conversations that the split holds out come nowhere near: all that is written is of the training side.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from pathlib import Path

from arianna.corpus.conversations import Conversation
from arianna.corpus.encoding import prepare_conversations, write_prepared
from arianna.corpus.split import digest, key
from arianna.system.config import UsageError
from tokenizer import Tokenizer

FOLDS = 5
FEWEST = 4  # different first questions in a fold, to measure with
MOST = 20_000  # conversations that a search looks at: those with the lowest hashes, if there are more
ALL = "all"  # folder of all conversations to train on, beside the folds 0, 1, ...


def fold_of(
    conversations: Sequence[Conversation], fold: int, keys_a_fold: float
) -> tuple[list[Conversation], list[Conversation]]:
    """Those to train on and those held out by a fold, each in the order given.

    The keys are ranked by their SHA-256, and a fold holds out as many as `keys_a_fold` says, from rank
    fold * keys_a_fold on. Conversations of one key stay together.
    """
    ranks = {name: rank for rank, name in enumerate(sorted({key(c) for c in conversations}, key=digest))}
    held = [int(ranks[key(c)] / keys_a_fold) == fold for c in conversations]
    train = [c for c, is_held in zip(conversations, held, strict=True) if not is_held]
    return train, [c for c, is_held in zip(conversations, held, strict=True) if is_held]


def gathered(conversations: Iterable[Conversation], most: int = MOST) -> list[Conversation]:
    """The conversations that a search looks at, by line. Raises UsageError if there are too few to part."""
    lowest = heapq.nsmallest(most, conversations, key=lambda c: (digest(key(c)), c.line))
    keys, needed = len({key(c) for c in lowest}), FOLDS * FEWEST
    if keys < needed:
        raise UsageError(
            f"the conversations to train on begin with {keys} different questions; a search needs {needed}, "
            f"to part them into {FOLDS} folds. Give more conversations, or leave out --hours."
        )
    return sorted(lowest, key=lambda c: c.line)


def write_folds(
    conversations: Sequence[Conversation], tokenizer: Tokenizer, contexts: tuple[int, int], folder: Path
) -> None:
    """Write the shards of each fold (train.bin, val.bin, masks), and of all conversations (train.bin)."""
    keys = len({key(c) for c in conversations})
    for fold in range(FOLDS):
        halves = fold_of(conversations, fold, keys / FOLDS)
        write_prepared(prepare_conversations(*halves, tokenizer, *contexts)[0], folder / str(fold))
    files, _ = prepare_conversations(conversations, [], tokenizer, *contexts)
    write_prepared(
        {name: content for name, content in files.items() if name.startswith("train")}, folder / ALL
    )
