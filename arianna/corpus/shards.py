"""Token shards made part by part, by all cores: of conversations that are too many for memory, and of many texts.

    found = examine("data/million.jsonl", say)                                     # every line checked, as conversations.read does
    prepared = Plan(found, "data/tok4096.model", (256, 256)).make(folder, say)     # train_00000.bin, val_00000.bin, ...

A part is some megabytes of a file of conversations, or some files of text; see parts.py. In memory are one part a process, and
32 bytes a conversation to tell duplicates and to draw the split.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from arianna.corpus import conversations
from arianna.corpus.conversations import MAX_FAULTS, MAX_LINE, WORDS_OF_KINDS, Conversation, Faulty, Line
from arianna.corpus.encoding import Prepared, encode_text, prepare_conversations, read_text, split_paragraphs, split_tail
from arianna.corpus.parallel import Progress, Say, each, fill, read_note
from arianna.system.files import sha256
from tokenizer import Tokenizer

PART = 16 << 20  # bytes of a part
DIGEST = 16  # bytes of a hash that are kept: that two of a million agree by chance takes 10^26 files


@dataclass(frozen=True)
class Found:
    """What a large file of conversations holds. As conversations.Found, but without them."""

    path: str
    sha256: str
    parts: list[list[int]]  # first and last+1 byte of each
    kind: str
    number: int  # of conversations
    held_out: int
    last_held_out: str  # the highest hash of a first question that is held out, hexadecimal
    joined: int
    duplicates: int
    unread: list[str]


@dataclass(frozen=True)
class Look:
    """What was seen in a part."""

    lines: int
    faults: list[tuple[int, str]]  # the first, with the number of their line in the part
    n_faults: int
    keys: bytes  # DIGEST bytes a conversation: of its first question
    contents: bytes  # and of all its text
    joined: int
    unread: frozenset[str]


# ---- checking ----


def examine(path: str | Path, say: Say, workers: int | None = None) -> Found:
    """Check every line of a file and draw the split. Raises Faulty as conversations.read and conversations.split do."""
    first, parts = first_line(path), cut(path)
    progress = Progress(f"checking {path}", sum(end - start for start, end in parts), say)
    faults, lines, looks = [], 0, []
    for (start, end), part in zip(parts, each(look, [(str(path), *part, first) for part in parts], workers), strict=True):
        faults += [f"{path}:{lines + number}: {fault}." for number, fault in part.faults]
        lines += part.lines
        looks.append(part)
        progress.add(end - start)
    number = sum(len(part.keys) for part in looks) // DIGEST
    conversations.check(path, faults[:MAX_FAULTS], sum(part.n_faults for part in looks), number)
    held_out, last = draw(b"".join(part.keys for part in looks))
    different = len(np.unique(hashes(b"".join(part.contents for part in looks))))
    joined, unread = sum(part.joined for part in looks), frozenset().union(*(part.unread for part in looks))
    told = (number, held_out, last.hex(), joined, number - different, sorted(unread))
    return Found(str(path), sha256(path), parts, WORDS_OF_KINDS[first.kind], *told)


def first_line(path: str | Path) -> Line | None:
    """The number and format of the first line without a fault, which all others must have."""
    line = next((line for line in conversations.iter_file(path) if line.kind), None)
    return line and Line(line.number, kind=line.kind)


def cut(path: str | Path) -> list[list[int]]:
    """Parts of PART bytes or a little more, each up to a line's end."""
    parts, size = [], Path(path).stat().st_size
    with open(path, "rb") as file:
        while (start := file.tell()) < size:
            file.seek(min(start + PART, size))
            while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
            parts.append([start, file.tell()])
    return parts


def read_part(path: str, start: int, end: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(end - start)


def look(path: str, start: int, end: int, first: Line | None) -> Look:
    """Check the lines of a part."""
    data, faults, keys, contents, unread = read_part(path, start, end), [], [], [], set()
    joined = n_faults = 0
    for line in conversations.iter_lines(BytesIO(data), first):
        if line.conversation is None:
            n_faults += 1
            faults += [(line.number, line.fault)] if n_faults <= MAX_FAULTS else []
            continue
        c, joined = line.conversation, joined + line.joined
        keys.append(key_hash(c))
        contents.append(conversations.digest(repr((c.system, c.turns)))[:DIGEST])
        unread |= line.unread
    return Look(data.count(b"\n"), faults, n_faults, b"".join(keys), b"".join(contents), joined, frozenset(unread))


def key_hash(conversation: Conversation) -> bytes:
    return conversations.digest(conversations.key(conversation))[:DIGEST]


def hashes(joined: bytes) -> np.ndarray:
    return np.frombuffer(joined, dtype=f"S{DIGEST}")


def draw(keys: bytes) -> tuple[int, bytes]:
    """How many conversations are held out, and the highest of the hashes of their first questions; as conversations.split does."""
    different, counts = np.unique(hashes(keys), return_counts=True)  # by their bytes, rising
    held = counts.cumsum()
    last = int(np.searchsorted(held, conversations.to_hold_out(int(held[-1]))))
    if last >= len(held) - 1:
        raise Faulty(conversations.none_left(int(held[-1]), len(different)))
    return int(held[last]), bytes(different[last]).ljust(DIGEST, b"\0")


# ---- making ----


@dataclass(frozen=True)
class Plan:
    """Conversations that are to become shards, and all that those depend on."""

    found: Found
    tokenizer: str
    contexts: tuple[int, int]  # of rows to train on, and held out

    def of(self) -> dict[str, Any]:
        """What the shards are made of; not where it lies."""
        known = {name: value for name, value in vars(self.found).items() if name != "path"}
        return {"found": known, "tokenizer": sha256(self.tokenizer), "contexts": list(self.contexts)}

    def is_made(self, folder: Path) -> bool:
        note = read_note(folder)
        return "made" in note and note["of"] == self.of()

    def make(self, folder: Path, say: Say, workers: int | None = None, most: int | None = None) -> Prepared:
        """Make the shards of all conversations, or of the first `most` parts."""
        found = self.found
        jobs = [(*part, found.path, found.last_held_out, self.tokenizer, *self.contexts) for part in found.parts[:most]]
        sizes = [end - start for start, end, *_ in jobs]
        made = fill(folder, self.of(), make_conversations, jobs, sizes, say, workers)
        return sum((Prepared(**{**part, "others": Counter(part["others"])}) for part in made), Prepared())


def recall(path: str | Path, folder: Path) -> Found | None:
    """What `examine` found in a file, if shards of it are in the folder."""
    known = read_note(folder).get("of", {}).get("found")
    return Found(str(path), **known) if known and sha256(path) == known["sha256"] else None


def some(found: Found, most: tuple[int, int]) -> tuple[list[Conversation], list[Conversation]]:
    """At most so many conversations to train on and held out, as many from each part."""
    halves: tuple[list[Conversation], list[Conversation]] = ([], [])
    for number, part in enumerate(found.parts, 1):
        room = [n * number // len(found.parts) - len(half) for n, half in zip(most, halves, strict=True)]
        for c in talk_of(found.path, *part):
            side = key_hash(c) <= bytes.fromhex(found.last_held_out)
            if room[side] > 0:
                halves[side].append(c)
                room[side] -= 1
            if max(room) <= 0:
                break
    return halves


def talk_of(path: str, start: int, end: int) -> Iterator[Conversation]:
    """The conversations of a part that was checked."""
    for line in conversations.iter_lines(BytesIO(read_part(path, start, end))):
        if line.conversation is None:
            raise ValueError(f"{path} has changed since it was checked; start again.")
        yield line.conversation


def make_conversations(start: int, end: int, path: str, last: str, model: str, max_seq_len: int, val_seq_len: int):
    """The shards of a part of a file by name, and what is to be told of them."""
    halves: tuple[list[Conversation], list[Conversation]] = ([], [])
    for c in talk_of(path, start, end):
        halves[key_hash(c) <= bytes.fromhex(last)].append(c)
    files, prepared = prepare_conversations(*halves, tokenizer_of(model), max_seq_len, val_seq_len)
    return files, vars(prepared)


def prepare_texts(
    texts: Sequence[Path], tokenizer: str, val_tail: float, val_paragraphs: float, folder: Path, say: Say, workers: int | None = None
) -> dict[str, int]:
    """Make the shards of text files; returns the number of tokens and bytes of each side."""
    of = {"texts": [sha256(f) for f in texts], "tokenizer": sha256(tokenizer), "held out": [val_tail, val_paragraphs], "part": PART}
    sizes = [f.stat().st_size for f in texts]
    parts = np.cumsum([0, *sizes])[:-1] // PART if texts else []
    groups = [[str(f) for f, at in zip(texts, parts, strict=True) if at == number] for number in sorted(set(parts))]
    jobs = [(group, tokenizer, val_tail, val_paragraphs) for group in groups]
    made = fill(folder, of, make_texts, jobs, [sum(map(os.path.getsize, group)) for group in groups], say, workers)
    return {name: sum(part[name] for part in made) for name in made[0]}


def make_texts(texts: list[str], model: str, val_tail: float, val_paragraphs: float) -> tuple[dict[str, bytes], dict[str, int]]:
    halves = [split_paragraphs(t, val_paragraphs) if val_paragraphs else split_tail(t, val_tail) for t in map(read_text, map(Path, texts))]
    files, told = {}, {}
    for side, name in enumerate(("train", "val")):
        tokens = np.concatenate([encode_text(half[side], tokenizer_of(model)) for half in halves])
        files[f"{name}.bin"] = tokens.tobytes()
        told |= {f"{name}_tokens": len(tokens), f"{name}_bytes": sum(len(half[side].encode()) for half in halves)}
    return files, told


@lru_cache(maxsize=1)
def tokenizer_of(model: str) -> Tokenizer:
    return Tokenizer(model)
