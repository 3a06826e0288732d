"""Statistics of generated text: invented words, copies, repetition. Standard library only.

Words are runs of letters in lower case, with apostrophes inside; digits and punctuation are no words.
An n-gram is n words in a row of one text. Places in a text are pairs (first character, last character + 1).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
COPY = 8  # words in a row that count as copied
REPEAT = 4  # words in a row that count as repeated

Span = tuple[int, int]
Source = dict[tuple[str, ...], list[int]]  # COPY-grams of the texts that may be copied, and their places


class Word(NamedTuple):
    """A word in lower case and its place in the text."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Look:
    """The statistics of one text: numbers to be added up over texts, and places to be marked."""

    words: int
    judged: int  # words without the last one of a text that was cut off
    non_words: list[Span]
    grams: int  # n-grams of COPY words
    copied: int  # n-grams that stand in the source
    longest_copy: int  # words
    copies: list[Span]  # copied n-grams, those that overlap joined
    four_grams: int
    repeated: int  # four-grams that occurred in the text before


def look_at(text: str, known: Collection[str], source: Source, whole: bool = True) -> Look:
    """All statistics of a text. `whole`: False if it was cut off and may end within a word."""
    words = list(words_in(text))
    judged = words if whole or not words or words[-1].end < len(text) else words[:-1]
    copied = [i for i, gram in enumerate(grams(words, COPY)) if gram in source]
    return Look(
        words=len(words),
        judged=len(judged),
        non_words=[(w.start, w.end) for w in judged if not is_known(w.text, known)],
        grams=max(len(words) - COPY + 1, 0),
        copied=len(copied),
        longest_copy=longest_copy(words, source),
        copies=joined([(words[i].start, words[i + COPY - 1].end) for i in copied]),
        four_grams=max(len(words) - REPEAT + 1, 0),
        repeated=repeats(words, REPEAT),
    )


def words_of(text: str) -> list[str]:
    """The words of a text, without their places."""
    return WORD.findall(text.lower().replace("’", "'"))


def load_words(path: str | Path) -> frozenset[str]:
    """The words of a list with one a line, as data/make_words.py makes it."""
    return frozenset(Path(path).read_text(encoding="utf-8").split("\n")) - {""}


def words_in(text: str) -> Iterator[Word]:
    """The words of a text with their places."""
    for match in WORD.finditer(text.replace("’", "'")):
        yield Word(match[0].lower(), *match.span())


def is_known(word: str, known: Collection[str]) -> bool:
    """Whether a word, or the word that it is the possessive of, is among the known ones."""
    return word in known or word.removesuffix("'s") in known


def grams(words: Sequence[Word], n: int) -> Iterator[tuple[str, ...]]:
    """The n-grams of a text in their order; none if it has fewer than n words."""
    texts = [w.text for w in words]
    return zip(*(texts[i:] for i in range(n)), strict=False)


def copy_source(texts: Sequence[str]) -> Source:
    """The COPY-grams of texts, none from one text into the next. Places count on from text to text."""
    source: Source = {}
    start = 0
    for text in texts:
        words = list(words_in(text))
        for i, gram in enumerate(grams(words, COPY), start):
            source.setdefault(gram, []).append(i)
        start += len(words)
    return source


def longest_copy(words: Sequence[Word], source: Source) -> int:
    """Words of the longest stretch of a text that stands word for word in the source; 0 if under COPY."""
    # by the place of the last n-gram in the source: where in this text the stretch began that led there
    began: dict[int, int] = {}
    longest = 0
    for i, gram in enumerate(grams(words, COPY)):
        began = {place: began.get(place - 1, i) for place in source.get(gram, ())}
        longest = max([longest, *(i - first + COPY for first in began.values())])
    return longest


def joined(spans: Sequence[Span]) -> list[Span]:
    """The spans, of rising starts and ends, with those that overlap made one."""
    out: list[Span] = []
    for start, end in spans:
        if out and start < out[-1][1]:
            out[-1] = (out[-1][0], end)
        else:
            out.append((start, end))
    return out


def repeats(words: Sequence[Word], n: int) -> int:
    """The number of a text's n-grams that stood in it before."""
    runs = list(grams(words, n))
    return len(runs) - len(set(runs))


def distinct(texts: Sequence[str], n: int = 2) -> float | None:
    """Different n-grams of the texts over all their n-grams, 0 to 1 (Li et al. 2016, arXiv 1510.03055).

    None if there is no n-gram. It falls with the amount of text, so models are compared on as many texts of
    like length.
    """
    runs = [g for text in texts for g in grams(list(words_in(text)), n)]
    return len(set(runs)) / len(runs) if runs else None
