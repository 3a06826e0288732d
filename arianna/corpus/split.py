"""Which conversations are held out: by the hash of their first question, so that adding some moves few."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from arianna.corpus.conversations import Conversation
from arianna.corpus.sources import FaultyError

FEWEST = 20  # conversations that a file must have
FEWEST_HELD_OUT = 8  # conversations to hold out; fewer allow no interval
HELD_OUT_SHARE = 0.1
DIGEST = 16  # bytes of a hash that are kept: that two of a million agree by chance takes 10^26 files
LEVELS = 3  # a key's levels: the first question, all questions with the system text, every word


@dataclass(frozen=True)
class Split:
    """The number of conversations that are held out, and the rule that tells which."""

    held_out: int
    last: str  # the highest digest that is held out, hexadecimal
    parted: tuple[str, ...] = ()  # digests of too many conversations: the next level of their key decides
    before: int = 0  # how many their first question alone would have held out, where that was too many
    equal: int = 0  # conversations that are all trained, since too many of them are equal

    def holds_out(self, conversation: Conversation) -> bool:
        """Whether a conversation is on the held-out side."""
        first = digest(key(conversation)).hex()
        if first not in self.parted:
            return first <= self.last
        _, questions, every = (d.hex() for d in digests(conversation))
        deeper = every if questions in self.parted else questions
        return deeper not in self.parted and deeper <= self.last


def key(conversation: Conversation) -> str:
    """The folded first question: conversations that have it in common are not parted."""
    return folded(conversation.turns[0][0])


def folded(text: str) -> str:
    """The letters and digits of a text in one case; of a text without any, the text."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"[\W_]+", "", text) or text


def digests(conversation: Conversation) -> list[bytes]:
    """The digest of each level of a conversation's key."""
    questions = [folded(question) for question, _ in conversation.turns]
    with_system = "\0".join(["", folded(conversation.system), *questions])  # no text holds a NUL
    return [digest(questions[0]), digest(with_system), digest("\0".join(conversation.texts))]


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:DIGEST]


def split_sides(conversations: Sequence[Conversation]) -> tuple[list[Conversation], list[Conversation]]:
    """The conversations to train on and those held out, in their order. Raises FaultyError as `draw` does."""
    drawn = draw(b"".join(d for c in conversations for d in digests(c)))
    sides: tuple[list[Conversation], list[Conversation]] = ([], [])
    for conversation in conversations:
        sides[drawn.holds_out(conversation)].append(conversation)
    return sides


def draw(joined: bytes) -> Split:
    """The split of conversations, given the joined digests of all.

    Held out are the lowest digests of first questions, until 10% of the conversations and at least 8 are.
    Where so many conversations share a first question that this would miss by more than half, those are
    parted by more of their words, and those that are equal are trained. Raises FaultyError for fewer than 20
    conversations, or if none is left to train on.
    """
    effective = level(joined, 0)
    number, wanted = len(effective), to_hold_out(len(effective))
    if number < FEWEST:
        raise FaultyError(too_few(number))
    held, last = lowest(effective, wanted)
    before, equal = held, 0
    parted: set[bytes] = set()
    for deeper in range(1, LEVELS + 1):
        if held <= 1.5 * wanted and held < number:
            break
        large = {d for d, count in Counter(effective).items() if count > wanted // 2}
        if deeper == LEVELS:
            others = [d for d in effective if d not in large]
            if len(others) >= wanted / 2:  # else too few to measure with
                parted, equal = parted | large, number - len(others)
                held, last = lowest(others, wanted)
            break
        parted |= large
        effective = [
            other if d in large else d for d, other in zip(effective, level(joined, deeper), strict=True)
        ]
        held, last = lowest(effective, wanted)
    if held == number:
        raise FaultyError(none_left(number, len(set(effective))))
    return Split(held, last.hex(), tuple(sorted(d.hex() for d in parted)), before if parted else 0, equal)


def level(joined: bytes, number: int) -> list[bytes]:
    """The digest of one level of each conversation's key."""
    return [joined[at : at + DIGEST] for at in range(number * DIGEST, len(joined), LEVELS * DIGEST)]


def lowest(of_each: Sequence[bytes], wanted: int) -> tuple[int, bytes]:
    """The lowest digests that `wanted` conversations or more have: how many have them, and the highest."""
    counts = Counter(of_each)
    held, last = 0, b""
    for last in sorted(counts):
        held += counts[last]
        if held >= wanted:
            break
    return held, last


def to_hold_out(number: int) -> int:
    """The least number of conversations to hold out of so many."""
    return max(FEWEST_HELD_OUT, round(number * HELD_OUT_SHARE))


def none_left(number: int, different: int) -> str:
    return (
        f"{number} conversations have only {different} different texts, so that {to_hold_out(number)} "
        "cannot be held out and others left to train on; equal conversations stay together."
    )


def too_few(number: int) -> str:
    are = "conversation is" if number == 1 else "conversations are"
    return f"{number} {are} too few: at least {FEWEST} are needed, {FEWEST_HELD_OUT} of them to measure with."
