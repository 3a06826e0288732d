"""The conversations to train on, parted for a search by the split's keys: each fold is held out once.

The conversations that the split holds out come nowhere near: all that is written is of the training side.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from arianna.corpus.conversations import Conversation
from arianna.corpus.encoding import prepare_conversations
from arianna.corpus.split import LEVELS, digests
from arianna.system.config import UsageError
from arianna.system.files import write_missing
from tokenizer import Tokenizer

FOLDS = 5
FEWEST = 4  # different first questions in a fold, to measure with
MOST = 20_000  # conversations that a search looks at: those with the lowest hashes, if there are more
ALL = "all"  # folder of all conversations to train on, beside the folds 0, 1, ...


def groups(conversations: Sequence[Conversation]) -> list[bytes]:
    """The digest by which each conversation is parted, as in the split.

    It is that of the first question, or, where very many have this in common, of more of their words.
    """
    levels = [digests(c) for c in conversations]
    effective = [level[0] for level in levels]
    for deeper in range(1, LEVELS):
        large = {d for d, count in Counter(effective).items() if count > len(effective) / FOLDS / 2}
        effective = [level[deeper] if d in large else d for d, level in zip(effective, levels, strict=True)]
    return effective


def fold_of(
    conversations: Sequence[Conversation], fold: int, groups_a_fold: float
) -> tuple[list[Conversation], list[Conversation]]:
    """The conversations to train on and those that a fold holds out, each in their order.

    The groups are ranked by their digests, and a fold holds out as many as `groups_a_fold` says, from rank
    fold * groups_a_fold on. Conversations of one group stay together.
    """
    of_each = groups(conversations)
    ranks = {group: rank for rank, group in enumerate(sorted(set(of_each)))}
    sides: tuple[list[Conversation], list[Conversation]] = ([], [])
    for conversation, group in zip(conversations, of_each, strict=True):
        sides[int(ranks[group] / groups_a_fold) == fold].append(conversation)
    return sides


def gathered(conversations: Iterable[Conversation], most: int = MOST) -> list[Conversation]:
    """The conversations that a search looks at, by line. Raises UsageError if there are too few to part."""
    lowest = heapq.nsmallest(most, conversations, key=lambda c: (digests(c), c.line))
    different, needed = len(set(groups(lowest))), FOLDS * FEWEST
    if different < needed:
        raise UsageError(
            f"the conversations to train on begin with {different} different questions; "
            f"a search needs {needed}, to part them into {FOLDS} folds. "
            "Give more conversations, or leave out --hours."
        )
    return sorted(lowest, key=lambda c: c.line)


def write_folds(
    conversations: Sequence[Conversation], tokenizer: Tokenizer, contexts: tuple[int, int], folder: Path
) -> None:
    """Write the shards of each fold (train.bin, val.bin, masks), and of all conversations (train.bin)."""
    number = len(set(groups(conversations)))
    for fold in range(FOLDS):
        halves = fold_of(conversations, fold, number / FOLDS)
        write_missing(prepare_conversations(*halves, tokenizer, *contexts)[0], folder / str(fold))
    files, _ = prepare_conversations(conversations, [], tokenizer, *contexts)
    train = {name: data for name, data in files.items() if name.startswith("train")}
    write_missing(train, folder / ALL)
