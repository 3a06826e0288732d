"""A file of conversations becomes token shards in two passes, whatever its size.

    found = survey("data/mine.jsonl", say)                                        # every line checked, the split drawn
    prepared = write_shards(found, "data/tok4096.model", (256, 256), folder, say)  # train.bin, val.bin and their masks
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from arianna.corpus.conversations import Conversation, corpus_text

if TYPE_CHECKING:
    from arianna.corpus import shards
    from arianna.corpus.encoding import Prepared

Say = Callable[[str], None]


@dataclass(frozen=True)
class Survey:
    """What the first pass learned of a file of conversations."""

    path: str
    sha256: str
    kind: str  # the format, in words
    conversations: int
    held_out: int  # of the conversations
    joined: int  # lines of content that began with Q: or A: and were joined to the line before
    duplicates: int  # conversations that are equal to an earlier one
    notes: list[str] = field(default_factory=list)  # sentences to tell
    last_held_out: str = ""  # the highest hash of a first question that is held out, hexadecimal
    parts: list[list[int]] = field(default_factory=list)  # first and last+1 byte of each part of the file


def survey(path: str | Path, say: Say, folder: Path | None = None) -> Survey:
    """Check every line of a file and draw the split. Raises Faulty, which names the faults.

    `folder` may hold shards that were made of this file: its lines are then not checked again.
    """
    from arianna.corpus import shards

    found = (folder and shards.recall(path, folder)) or shards.examine(path, say)
    notes = {
        "lines of content began with Q: or A: and were joined to the line before": found.joined,
        "conversations stand more than once": found.duplicates,
        f"unknown keys were left unread: {', '.join(found.unread)}": len(found.unread),
    }
    told = [f"{count} {note}" for note, count in notes.items() if count]
    counts = (found.number, found.held_out, found.joined, found.duplicates)
    return Survey(str(path), found.sha256, found.kind, *counts, told, found.last_held_out, found.parts)


def iter_conversations(survey: Survey, held_out: bool | None = None, most: int | None = None) -> Iterator[Conversation]:
    """Conversations of a side (None: of both) in the order of the file; with `most`, at most so many, spread over its parts."""
    from arianna.corpus import shards

    given = 0
    for number, part in enumerate(survey.parts, 1):
        for conversation in shards.talk_of(survey.path, *part):
            if most is not None and given >= most * number // len(survey.parts):
                break
            side = shards.key_hash(conversation) <= bytes.fromhex(survey.last_held_out)
            if held_out is None or side == held_out:
                given += 1
                yield conversation


def write_corpus(survey: Survey, out: Path) -> None:
    """Write all conversations as text to be read by people."""
    from arianna.system.files import write_atomic

    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, corpus_text(list(iter_conversations(survey))).encode())


def write_shards(survey: Survey, tokenizer: str, contexts: tuple[int, int], folder: Path, say: Say) -> Prepared:
    """Write train*.bin, val*.bin and their masks; what is there already is not made again.

    `contexts`: the most tokens of a row to train on, and of one held out.
    """
    return plan(survey, tokenizer, contexts).make(folder, say)


def are_written(survey: Survey, tokenizer: str, contexts: tuple[int, int], folder: Path) -> bool:
    """Whether `write_shards` has nothing left to do in a folder."""
    return plan(survey, tokenizer, contexts).is_made(folder)


def plan(survey: Survey, tokenizer: str, contexts: tuple[int, int]) -> shards.Plan:
    from arianna.corpus import shards

    counts = (survey.conversations, survey.held_out, survey.last_held_out, survey.joined, survey.duplicates)
    found = shards.Found(survey.path, survey.sha256, survey.parts, survey.kind, *counts, [])
    return shards.Plan(found, tokenizer, contexts)
