"""A file of conversations becomes token shards in two passes, whatever its size.

    surveyed = survey("data/mine.jsonl", say)  # every line checked, the split drawn
    write_shards(surveyed, "data/tok4096.model", (256, 256), folder, say)  # train.bin, val.bin and masks

Both passes go through the file in parts of some megabytes, by all cores where there are several. Memory holds
one part a process, and 48 bytes a conversation to find duplicates and to draw the split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arianna.corpus import cleaning, recognition, sources, split
from arianna.corpus.conversations import LEFT_OUT, Conversation, Line, parse
from arianna.corpus.parallel import Progress, Say, each, fill, is_filled, read_note
from arianna.corpus.sources import FaultyError, Source, read_part, records
from arianna.corpus.split import Split
from arianna.corpus.template import rendered
from arianna.system.files import sha256, write_atomic

if TYPE_CHECKING:
    from arianna.corpus.encoding import Prepared

MAX_FAULTS = 20  # told at a time


@dataclass(frozen=True)
class Survey:
    """The result of the first pass over a file of conversations."""

    path: str
    sha256: str
    kind: str  # the format, in words
    conversations: int
    held_out: int  # how many of the conversations
    joined: int  # lines of content that began with Q: or A: and were joined to the line before
    duplicates: int  # conversations that are equal to an earlier one
    notes: list[str]  # sentences to tell
    container: str  # how the records lie in the file, see sources.Source
    zipped: bool
    last_held_out: str  # see split.Split
    parted: list[str]
    parts: list[list[int]]  # first and last+1 byte of each part of the file

    @property
    def source(self) -> Source:
        return Source(self.path, self.container, self.zipped)

    @property
    def split(self) -> Split:
        return Split(self.held_out, self.last_held_out, tuple(self.parted))


@dataclass(frozen=True)
class Look:
    """The result of the first pass over one part of a file."""

    lines: int
    faults: list[tuple[int, str]]  # the first MAX_FAULTS, each with the number of its line in the part
    n_faults: int
    not_utf8: int  # how many of the faults are bytes that are not UTF-8
    whole: bool  # whether the last fault is one of the whole file: the rest was then not looked at
    kinds: dict[str, tuple[int, int]]  # formats of the records, each with its number and its first line
    keys: bytes  # the digests of each conversation, see split.digests
    counts: Counter[str]
    unread: frozenset[str]


# ---- first pass ----


def survey(path: str | Path, say: Say, folder: Path | None = None, workers: int | None = None) -> Survey:
    """Check every line of a file and draw the split. Raises FaultyError, which names the first 20 faults.

    `folder` may hold shards that were made of this file: its lines are then not checked again.
    """
    source = recognition.recognise(path)
    if folder and (known := recall(path, folder)):
        return known
    parts = sources.cut(source)
    progress = Progress(f"checking {path}", sum(end - start for start, end in parts), say)
    faults, lines, looks, kinds = [], 0, [], {}
    seen = each(look, [(source, *bounds) for bounds in parts], workers)
    for (start, end), part in zip(parts, seen, strict=True):
        faults += [(lines + number, fault) for number, fault in part.faults][: MAX_FAULTS - len(faults)]
        if part.whole:
            raise FaultyError(f"{path}:{lines + part.faults[-1][0]}: {part.faults[-1][1]}.")
        for kind, (number, first) in part.kinds.items():
            before, earliest = kinds.get(kind, (0, lines + first))
            kinds[kind] = (before + number, earliest)
        lines += part.lines
        looks.append(part)
        progress.add(end - start)
    counts = sum((part.counts for part in looks), Counter())
    keys = b"".join(part.keys for part in looks)
    check(source, faults, looks, kinds)
    try:
        drawn = split.draw(keys)
    except FaultyError as error:
        left_out = f"{counts[LEFT_OUT]:,} {LEFT_OUT}; " if counts[LEFT_OUT] else ""
        raise FaultyError(f"{path}: {left_out}{error}") from None
    number = len(keys) // (split.LEVELS * split.DIGEST)
    duplicates = number - len(set(split.level(keys, split.LEVELS - 1)))
    unread = frozenset().union(*(part.unread for part in looks))
    return Survey(
        path=str(path),
        sha256=sha256(path),
        kind=f"{next(iter(kinds))}{source.words}",
        conversations=number,
        held_out=drawn.held_out,
        joined=counts[cleaning.JOINED],
        duplicates=duplicates,
        notes=notes(counts, duplicates, unread, drawn, number),
        container=source.container,
        zipped=source.zipped,
        last_held_out=drawn.last,
        parted=list(drawn.parted),
        parts=parts,
    )


def look(source: Source, start: int, end: int) -> Look:
    """Check the records of a part."""
    data = read_part(source, start, end)
    faults: list[tuple[int, str]] = []
    keys: list[bytes] = []
    kinds: dict[str, tuple[int, int]] = {}
    counts, unread, n_faults, not_utf8, whole = Counter(), frozenset(), 0, 0, False
    for number, raw in records(data, source.container):
        line = parse(raw, number)
        if line.fault:
            n_faults += 1
            not_utf8 += "is not UTF-8" in line.fault
            if n_faults <= MAX_FAULTS or line.whole:
                faults.append((number, line.fault))
            if line.whole:
                whole = True
                break
        if line.kind:
            before, first = kinds.get(line.kind, (0, number))
            kinds[line.kind] = (before + 1, first)
        if line.conversation is not None:
            keys += split.digests(line.conversation)
        if line.counts:
            counts.update(line.counts)
        unread |= line.unread
    return Look(
        sources.lines_in(data), faults, n_faults, not_utf8, whole, kinds, b"".join(keys), counts, unread
    )


def check(
    source: Source, faults: list[tuple[int, str]], looks: list[Look], kinds: dict[str, tuple[int, int]]
) -> None:
    """Raise FaultyError if records are of several kinds, or faulty. `faults` have their lines' numbers."""
    path = source.path
    if len(kinds) > 1:
        raise FaultyError(mixed(path, kinds))
    number = sum(part.n_faults for part in looks)
    if number > 1 and number == sum(part.not_utf8 for part in looks):
        raise FaultyError(recognition.not_utf8(source, f"{number:,} lines, the first is line {faults[0][0]}"))
    if number > 1 and not kinds:
        raise FaultyError(
            f"{path}: none of its {number:,} records can be read; "
            f"of the first, on line {faults[0][0]}: {faults[0][1]}."
        )
    sentences = list(by_fault(path, faults))
    if number > MAX_FAULTS:
        sentences.append(f"{number - MAX_FAULTS} more lines of {path} are faulty.")
    if sentences:
        raise FaultyError("\n".join(sentences))


def mixed(path: str | Path, kinds: dict[str, tuple[int, int]]) -> str:
    """A sentence on a file whose records are of several kinds."""
    each_kind = ", ".join(f"{n:,} of '{kind}' (from line {first})" for kind, (n, first) in kinds.items())
    return (
        f"{path} mixes {len(kinds)} kinds of records: {each_kind}; a file has one format: "
        "write all of them in one of these, or leave the others out."
    )


def by_fault(path: str | Path, faults: list[tuple[int, str]]) -> Iterator[str]:
    """A sentence for each different fault, with all its lines."""
    lines: dict[str, list[int]] = {}
    for line, fault in faults:
        lines.setdefault(fault, []).append(line)
    for fault, (first, *others) in lines.items():
        same = f"; the same on line{'s' * (len(others) > 1)} {', '.join(map(str, others))}" if others else ""
        yield f"{path}:{first}: {fault}{same}."


def notes(
    counts: Counter[str], duplicates: int, unread: frozenset[str], drawn: Split, number: int
) -> list[str]:
    """Sentences to tell of a file: what was changed, what stands more than once, what was not read."""
    signs = {"mark ": cleaning.MARKED, "damage ": cleaning.SPOILED}
    lines = [f"{n:,} {what}" for what, n in counts.items() if n and not what.startswith((*signs,))]
    for sign, sentence in signs.items():
        seen = {what.removeprefix(sign): n for what, n in counts.items() if what.startswith(sign)}
        if seen:
            lines.append(f"{sum(seen.values()):,} {sentence.format(', '.join(seen))}")
    if duplicates:
        lines.append(f"{duplicates:,} conversations stand more than once")
    if unread:
        lines.append(f"keys that are nothing to training were left unread: {', '.join(sorted(unread))}")
    if drawn.parted:
        equal = f"; {drawn.equal:,} equal ones are all trained" if drawn.equal else ""
        lines.append(
            "many conversations begin with the same question, which would have held out "
            f"{drawn.before:,} of {number:,}; they are told apart by more of their words, "
            f"so that {drawn.held_out:,} are held out{equal}"
        )
    return lines


# ---- second pass ----


def recall(path: str | Path, folder: Path) -> Survey | None:
    """The survey of a file, if shards of it are in the folder."""
    known = read_note(folder).get("of", {}).get("survey")
    names = {field.name for field in fields(Survey)} - {"path"}
    same = known and known.keys() == names and sha256(path) == known["sha256"]
    return Survey(str(path), **known) if same else None


def iter_conversations(
    survey: Survey, held_out: bool | None = None, most: int | None = None
) -> Iterator[Conversation]:
    """Conversations of a side (None: of both) in the order of the file.

    With `most`, there are at most so many, spread over the parts of the file.
    """
    count, line, drawn = 0, 0, survey.split
    for number, (start, end) in enumerate(survey.parts, 1):
        data = read_part(survey.source, start, end)
        for conversation in conversations_in(survey.path, data, survey.container, line):
            if most is not None and count >= most * number // len(survey.parts):
                break
            if held_out is None or drawn.holds_out(conversation) == held_out:
                count += 1
                yield conversation
        line += sources.lines_in(data)


def conversations_in(path: str, data: bytes, container: str, line: int = 0) -> Iterator[Conversation]:
    """The conversations of a part that was checked; `line`: how many lines of the file stand before it."""
    for number, raw in records(data, container):
        record: Line = parse(raw, line + number)
        if record.conversation is not None:
            yield record.conversation
        elif record.fault or not record.counts[LEFT_OUT]:
            raise ValueError(f"{path} has changed since it was checked; start again.")


def read_conversations(path: str | Path) -> list[Conversation]:
    """All conversations of a file, in memory."""
    return list(iter_conversations(survey(path, lambda _: None)))


def write_corpus(survey: Survey, out: Path) -> None:
    """Write all conversations as text to be read by people, a blank line between two."""
    out.parent.mkdir(parents=True, exist_ok=True)
    texts = map(rendered, iter_conversations(survey))
    write_atomic(out, (f"{chr(10) * bool(number)}{text}".encode() for number, text in enumerate(texts)))


def shards_of(survey: Survey, tokenizer: str | Path, contexts: tuple[int, int]) -> dict[str, Any]:
    """Everything that the shards depend on, without the file's path."""
    known = {name: value for name, value in vars(survey).items() if name != "path"}
    return {"survey": known, "tokenizer": sha256(tokenizer), "contexts": list(contexts)}


def are_written(survey: Survey, tokenizer: str | Path, contexts: tuple[int, int], folder: Path) -> bool:
    """Whether `write_shards` has nothing left to do in a folder."""
    return is_filled(folder, shards_of(survey, tokenizer, contexts))


def write_shards(
    survey: Survey,
    tokenizer: str | Path,
    contexts: tuple[int, int],
    folder: Path,
    say: Say,
    workers: int | None = None,
) -> Prepared:
    """Write train*.bin, val*.bin and their masks, one of each for every part of the file.

    `contexts`: the most tokens of a row to train on, and of one held out. Shards already there stay.
    """
    from arianna.corpus.encoding import Prepared  # loads numpy: a faulty line is told before

    jobs = [(survey.source, *part, survey.split, str(tokenizer), *contexts) for part in survey.parts]
    sizes = [end - start for start, end in survey.parts]
    made = fill(folder, shards_of(survey, tokenizer, contexts), encode_part, jobs, sizes, say, workers)
    return sum((Prepared(**{**part, "others": Counter(part["others"])}) for part in made), Prepared())


def encode_part(
    source: Source, start: int, end: int, split: Split, tokenizer: str, max_seq_len: int, val_seq_len: int
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The shards of a part of a file by name, and the counts to tell."""
    from arianna.corpus.encoding import prepare_conversations, tokenizer_of  # loads numpy

    halves: tuple[list[Conversation], list[Conversation]] = ([], [])
    for conversation in conversations_in(source.path, read_part(source, start, end), source.container):
        halves[split.holds_out(conversation)].append(conversation)
    files, prepared = prepare_conversations(*halves, tokenizer_of(tokenizer), max_seq_len, val_seq_len)
    return files, vars(prepared)
