"""Conversations from the records of a file, checked: questions and answers that take turns."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from arianna.corpus.cleaning import LineError, clean, shown
from arianna.corpus.keys import TRAINED_KEYS, FileError, canonical, check_keys, system_beside
from arianna.corpus.records import LISTS, Message, decode, kind_of, message, messages_of, plain
from arianna.corpus.template import FORGED

KNOWN_KEYS = {"role", "from", "content", "value", "parts", *TRAINED_KEYS}  # keys of a message

MERGED = "messages followed one of the same role and were joined to it by a new line"
UNANSWERED = "conversations end in a question without an answer, which was left out"
GREETED = "conversations begin with the assistant; that greeting is context of the first turn and not trained"
GIVEN_ANSWERS = (
    "answers are marked as not to be trained (weight, train or loss_weight of 0): "
    "they are context, never trained or scored"
)
LEFT_OUT = "conversations have no answer that is to be trained and were left out"
NO_SYSTEM = "system messages are null and were left out"


@dataclass(frozen=True)
class Conversation:
    """Questions with their answers, and the number of the line they stand on."""

    turns: tuple[tuple[str, str], ...]  # (question, answer)
    system: str = ""
    line: int = 0
    greeting: str = ""  # what the assistant said before the first question: context, never trained
    # texts that are context, neither trained nor scored: 0 the first question, 1 its answer, 2 the second
    # question and so on; -1 the system text
    given: frozenset[int] = frozenset()

    @property
    def texts(self) -> list[str]:
        """System text, greeting, and questions and answers in turn."""
        return [self.system, self.greeting, *(text for turn in self.turns for text in turn)]


@dataclass(frozen=True)
class Line:
    """A record of a file: its conversation, or its fault, or neither if it was left out."""

    number: int
    conversation: Conversation | None = None
    kind: str = ""  # the format, in words
    counts: Counter[str] = field(default_factory=Counter)  # what was changed, in words, and how often
    unread: frozenset[str] = frozenset()  # keys that change nothing here
    fault: str = ""
    whole: bool = False  # whether the fault is one of the whole file


def parse(raw: bytes, number: int) -> Line:
    """The line of a record's bytes; a fault is part of it."""
    try:
        return to_line(*decode(raw), number)
    except LineError as error:
        return Line(number, fault=str(error), whole=isinstance(error, FileError))


def to_line(record: Any, counts: Counter[str], number: int) -> Line:
    """A line from its JSON value, in whichever of the formats it is."""
    kind, keys = kind_of(record)
    unread = check_keys(record, keys)
    names = ("from", "value") if kind == LISTS["conversations"] else ("role", "content")
    messages, system = messages_of(record, keys), system_beside(record)
    checked = [message(m, n, names, counts) for n, m in enumerate(messages, 1)]
    check_names(checked)
    conversation = conversation_of(checked, system, number, counts)
    others = frozenset().union(*messages) - KNOWN_KEYS
    unread |= {key for key in others if canonical(key) not in KNOWN_KEYS}
    if len(conversation.turns) == sum(n % 2 for n in conversation.given if n >= 0):
        return Line(number, None, kind, Counter({LEFT_OUT: 1}), unread)
    return Line(number, conversation, kind, counts, unread)


def conversation_of(messages: list[Message], system: Any, line: int, counts: Counter[str]) -> Conversation:
    """The conversation of messages. Those of one role in a row become one text; changes are counted."""
    runs = [(role, list(group)) for role, group in groupby(messages, lambda m: m.role)]
    opening = runs.pop(0)[1] if runs and runs[0][0] == "system" else []
    greeting = runs.pop(0)[1] if len(runs) > 1 and runs[0][0] == "assistant" else []
    check_order(runs)
    if len(runs) % 2:
        runs.pop()
        counts[UNANSWERED] += 1
    turns = len(runs) // 2
    which = [f" of turn {n // 2 + 1}" if turns > 1 else "" for n in range(len(runs))]
    texts = [
        text_of(run, f"the {('question', 'answer')[n % 2]}{which[n]}", counts)
        for n, (_, run) in enumerate(runs)
    ]
    given = frozenset(n for n, (_, run) in enumerate(runs) if not are_trained(run))
    if unwanted := sum(n % 2 for n in given):
        counts[GIVEN_ANSWERS] += unwanted
    if greeting:
        counts[GREETED] += 1
    return Conversation(
        tuple(zip(texts[::2], texts[1::2], strict=True)),
        system_text(opening, system, counts),
        line,
        text_of(greeting, "the greeting", counts) if greeting else "",
        given | {-1} if opening and not are_trained(opening) else given,
    )


def check_names(messages: list[Message]) -> None:
    """Raise LineError where answers come from two names, so that nobody knows which of them is the model."""
    names = list(dict.fromkeys(m.name for m in messages if m.role == "assistant"))
    if len(names) > 1:
        both = f"{shown(names[0])} and from {shown(names[1])}"
        raise LineError(f"answers are from {both}; which of them is the model is not told")


def check_order(runs: list[tuple[str, list[Message]]]) -> None:
    """Raise LineError unless questions and answers take turns, beginning with a question."""
    for _, run in (r for r in runs if r[0] == "system"):
        raise LineError(f"message {run[0].number} is system text, which may stand only at the beginning")
    if not runs:
        raise LineError("there is no question and no answer")
    if runs[0][0] == "assistant":
        raise LineError("an answer stands alone; every answer needs a question before it")
    if len(runs) == 1:
        raise LineError("the last question has no answer")


def are_trained(run: list[Message]) -> bool:
    """Whether messages that follow each other are trained. Raises LineError where only some are."""
    if len({m.trained for m in run}) > 1:
        numbers = f"messages {run[0].number} to {run[-1].number}"
        raise LineError(f"{numbers} are of one role, some to be trained and some not; part them")
    return run[0].trained


def system_text(opening: list[Message], beside: Any, counts: Counter[str]) -> str:
    """The text of the system messages, or of the key beside the list."""
    not_null = [m for m in opening if m.content is not None]
    if len(not_null) < len(opening):
        counts[NO_SYSTEM] += len(opening) - len(not_null)
    text = text_of(not_null, "the system text", counts, may_be_empty=True) if not_null else ""
    if beside:
        other = text_of([Message(0, "system", beside, True)], "the system text", counts)
        if text and text != other:
            raise LineError(
                "there is a system message and another system text beside the list; keep one of them"
            )
        text = other
    if FORGED.match(text):
        raise LineError(f"the system text begins with '{text[:2]}', as a turn would; begin it otherwise")
    return text


def text_of(run: list[Message], name: str, counts: Counter[str], may_be_empty: bool = False) -> str:
    """The text of messages of one role, cleaned, a new line between two."""
    texts = [clean(plain(m.content, name), name, counts) for m in run]
    text = texts[0] if len(texts) == 1 else "\n".join(filter(None, texts))
    if not text and not may_be_empty:
        raise LineError(f"{name} is empty; every question needs an answer")
    if len(run) > 1:
        counts[MERGED] += len(run) - 1
    return text
