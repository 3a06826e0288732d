"""The one template, Q: and A:, for data, sampling, chat and the printed C command. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol

USER, ASSISTANT = "Q:", "A:"  # what a question and an answer begin with
FORGED = re.compile(rf"^[^\S\n]*(?:{USER}|{ASSISTANT})", re.MULTILINE)  # content that would look like a turn
NEXT_QUESTION = re.compile(rf"\n[^\S\n]*{USER}")  # a model that goes on by itself has begun another turn


class Talk(Protocol):
    """The part of a conversation that the template needs (conversations.Conversation imports this file)."""

    turns: tuple[tuple[str, str], ...]
    system: str
    greeting: str


def prompt(question: str, system: str = "", greeting: str = "") -> str:
    """The text that a model is given to answer.

    The system text stands on a line of its own ahead of the first question; between the two stands the
    greeting, if the assistant spoke first.
    """
    return f"{asked(question, system, greeting)}\n{ASSISTANT}"


def render(question: str, answer: str, system: str = "", greeting: str = "") -> str:
    """One turn as the model sees it, ahead of the BOS that ends it."""
    return f"{answered(question, answer, system, greeting)}\n"


def opened(system: str = "", greeting: str = "") -> str:
    """A turn up to where its question begins."""
    return "\n".join([system] * bool(system) + [f"{ASSISTANT} {greeting}"] * bool(greeting) + [USER])


def asked(question: str, system: str = "", greeting: str = "") -> str:
    """A turn up to its question's end."""
    return f"{opened(system, greeting)} {question}"


def answered(question: str, answer: str, system: str = "", greeting: str = "") -> str:
    """A turn up to its answer's end."""
    return f"{prompt(question, system, greeting)} {answer}"


def openings(conversation: Talk) -> list[tuple[str, str]]:
    """System text and greeting of each turn: the first has the conversation's, the others have none."""
    return [(conversation.system, conversation.greeting)] + [("", "")] * (len(conversation.turns) - 1)


def rendered(conversation: Talk) -> str:
    """All turns of a conversation, without the BOS between them."""
    turns = zip(conversation.turns, openings(conversation), strict=True)
    return "".join(render(*turn, *opening) for turn, opening in turns)


def corpus_text(conversations: Iterable[Talk]) -> str:
    """All conversations to be read by people, a blank line between two."""
    return "\n".join(map(rendered, conversations))


def join_lines(text: str) -> tuple[str, int]:
    """Join each line that would forge a turn to the line before it; returns the text and how many there were.

    It takes linear time, also for a text of many blank lines.
    """
    if not (USER in text or ASSISTANT in text) or not FORGED.search(text, 1):
        return text, 0
    pieces: list[str] = []
    joined = 0
    for line in text.split("\n"):
        if not pieces or not FORGED.match(line):
            pieces.append(f"\n{line}")
            continue
        while not pieces[-1].strip():  # the first line is not blank
            pieces.pop()
        pieces[-1] = pieces[-1].rstrip()
        pieces.append(f" {line.lstrip()}")
        joined += 1
    return "".join(pieces)[1:], joined
