"""What is read of a source, and as what: clean talks, clean prose, Arianna's own texts."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from arianna.corpus.conversations import Conversation
from arianna.corpus.encoding import ASCII
from arianna.corpus.template import corpus_text

PIECE_WORDS = 170  # longer talks are cut, so that a piece fits a context of 256 tokens
TURN_WORDS = 80  # a talk with a longer turn is cut there, and the turn is left out
CHUNK_WORDS = 300  # paragraphs of prose are joined up to so many words
SAME_ANSWER = 8  # one-turn talks with one answer: some fixed answers stand behind hundreds of questions
TOPICAL = 0.05  # share of names and of words about films, sport and bands above which a talk is trivia
USED_TRIVIA = 0.4  # share of such talks that is used
TRIVIA = re.compile(
    r"\b(?:movies?|films?|actors?|actress\w*|directors?|scenes?|sequels?|trailers?|oscars?|albums?|bands?|"
    r"lyrics|concerts?|rapper|football|baseball|basketball|nfl|nba|teams?|quarterback|seasons?|players?|"
    r"coach|league|playoffs?|super bowl|marvel|disney|episodes?|netflix|superhero\w*|comics?)\b",
    re.IGNORECASE,
)
NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]+")  # a capital inside a sentence
WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")
COMMON = set(
    "the a and to i you it is of in that was he she they we my on for with so be do not but me".split()
)
ENGLISH = 0.15  # share of these words in any English text of twenty words or more
LINKS = re.compile(r"https?:|www\.|@\w|[<>{}|\\^_~#*]|\d{5}")

Document = Conversation | str  # a talk, or prose


def plain(text: str) -> str:
    """A text with quotes and dashes as ASCII, and white space as single spaces."""
    return " ".join(text.translate(str.maketrans(ASCII)).split())


def is_english(text: str) -> bool:
    """Whether a text has few letters beyond ASCII, and of twenty words or more enough common ones."""
    words = WORD.findall(text.lower())
    if sum(not c.isascii() for c in text) > 0.01 * len(text):
        return False
    return len(words) < 20 or sum(w in COMMON for w in words) >= ENGLISH * len(words)


def is_trivia(text: str) -> bool:
    """Whether a text has much about films, sport and bands, or is full of names."""
    return len(NAME.findall(text)) + len(TRIVIA.findall(text)) > TOPICAL * len(text.split())


def draw(text: str) -> float:
    """A number from 0 to 1 by the text's SHA-256: the same for the same text, wherever it stands."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def clean_talks(path: Path) -> Iterator[Conversation]:
    """The talks of a file in pieces of at most PIECE_WORDS."""
    answers: Counter[str] = Counter()
    for line in path.read_text(encoding="utf-8").splitlines():
        texts = [plain(m["content"]) for m in json.loads(line)]
        turns = list(zip(texts[::2], texts[1::2], strict=False))
        for piece in pieces(turns):
            whole = " ".join(text for turn in piece for text in turn)
            if LINKS.search(whole) or not is_english(whole):
                continue
            if is_trivia(whole) and draw(whole) > USED_TRIVIA:
                continue
            answers[piece[0][1]] += len(piece) == 1
            if answers[piece[0][1]] <= SAME_ANSWER:
                yield Conversation(tuple(piece))


def pieces(turns: list[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """Yield runs of turns of at most PIECE_WORDS; a turn with a long or empty side ends one, left out."""
    piece: list[tuple[str, str]] = []
    size = 0
    for turn in turns:
        words = [len(text.split()) for text in turn]
        fits = min(words) > 0 and max(words) <= TURN_WORDS
        if piece and (not fits or size + sum(words) > PIECE_WORDS):
            yield piece
            piece, size = [], 0
        if fits:
            piece, size = [*piece, turn], size + sum(words)
    if piece:
        yield piece


def clean_prose(path: Path) -> Iterator[str]:
    """The paragraphs of a text, a line each, joined up to CHUNK_WORDS."""
    chunk: list[str] = []
    for paragraph in map(plain, path.read_text(encoding="utf-8-sig").splitlines()):
        if LINKS.search(paragraph) or not is_english(paragraph):
            continue
        if sum(len(p.split()) for p in chunk) + len(paragraph.split()) > CHUNK_WORDS and chunk:
            yield "\n\n".join(chunk)
            chunk = []
        chunk += [paragraph] if paragraph else []
    if chunk:
        yield "\n\n".join(chunk)


def voice_of(path: Path) -> Iterator[Conversation | str]:
    """Arianna's own talks whole, or her prose by the pieces that two empty lines part."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".txt":
        yield from (piece.strip() for piece in re.split(r"\n{3,}", text) if piece.strip())
        return
    for line in text.splitlines():
        texts = [m["content"] for m in json.loads(line)]
        yield Conversation(tuple(zip(texts[::2], texts[1::2], strict=True)))


def text_of(document: Document) -> str:
    return document if isinstance(document, str) else corpus_text([document])


def typed(talk: Conversation, way: int) -> Conversation:
    """A talk as another person would type its questions: 0 as written, 1 in lower case without marks, 2 tidy.
    A talk that is read again teaches more in another dress.
    """
    return Conversation(tuple((WAYS[way](question), answer) for question, answer in talk.turns))


def tidy(question: str) -> str:
    """A capital at the beginning and a mark at the end."""
    mark = "" if question[-1] in ".?!" else "?" if QUESTION.match(question) else "."
    return question[0].upper() + question[1:] + mark


QUESTION = re.compile(
    r"(?i)(what|who|whose|how|why|when|where|which|is|are|am|do|does|did|can|could|should|would|will)\b"
)
WAYS = (lambda q: q, lambda q: re.sub(r"[.,!?'\"]", "", q).lower() or q, tidy)  # of typing a question
