"""Files of conversations: read and checked, the template, the key and the split. Standard library only.

    found = read("data/arianna_conversations.jsonl")  # raises Faulty, which names every line to mend
    train, held_out = split(found.conversations)

One conversation a line, all lines in one of these formats:

    [{"role": "system", "content": ...}, {"role": "user", "content": ...}, {"role": "assistant", "content": ...}, ...]
    {"messages": [the same list]}
    {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}, ...]}
    {"prompt": ..., "completion": ...}
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

USER, ASSISTANT = "Q:", "A:"  # what a question and an answer begin with; `prompt` and `render` are the template

FEWEST = 20  # conversations that a file must have
HELD_OUT_SHARE, HELD_OUT_FEWEST = 0.1, 8
MAX_LINE = 1 << 20  # bytes
MAX_FAULTS = 20  # told at a time

ROLES = {"user": "user", "assistant": "assistant", "system": "system"}
SHAREGPT_ROLES = ROLES | {"human": "user", "gpt": "assistant"}
WORDS_OF_KINDS = {
    "list": "list of role and content",
    "messages": "object with messages",
    "conversations": "ShareGPT object with conversations",
    "prompt": "object with prompt and completion",
}

NOT_TEXT = {
    "a control character": re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"),  # all but tab and the two that end lines
    "half of a surrogate pair": re.compile(r"[\ud800-\udfff]"),
}
NEW_LINE = re.compile("\r\n?|[\u2028\u2029]")
FORGED = re.compile(rf"^[^\S\n]*(?:{USER}|{ASSISTANT})", re.MULTILINE)  # a line of content that would look like a turn


class Faulty(ValueError):
    """A file or a list of conversations that cannot be used, and why: a sentence, or several with a new line between two."""


class Fault(ValueError):
    """What is wrong with one line, without its place."""


@dataclass(frozen=True)
class Conversation:
    """Questions with their answers, and the number of the line they stand on."""

    turns: tuple[tuple[str, str], ...]  # (question, answer)
    system: str = ""
    line: int = 0


@dataclass(frozen=True)
class Line:
    """A line that is not blank: its conversation, or the fault that keeps it from being one."""

    number: int
    conversation: Conversation | None = None
    kind: str = ""  # a key of WORDS_OF_KINDS
    joined: int = 0  # lines of content that began with Q: or A: and were joined to the line before
    unread: frozenset[str] = frozenset()  # keys that are nothing to us
    fault: str = ""


@dataclass(frozen=True)
class Found:
    """What a file holds."""

    conversations: list[Conversation]
    kind: str  # the format, in words
    joined: int = 0  # lines of content that began with Q: or A: and were joined to the line before
    duplicates: int = 0  # conversations that are equal to an earlier one
    unread: tuple[str, ...] = ()  # keys of the file's objects that were not read

    @property
    def number(self) -> int:
        return len(self.conversations)


# ---- template ----


def prompt(question: str, system: str = "") -> str:
    """What a model is given to answer. The system text stands on its own line ahead of the first question."""
    return f"{asked(question, system)}\n{ASSISTANT}"


def render(question: str, answer: str, system: str = "") -> str:
    """One turn as the model sees it, ahead of the BOS that ends it."""
    return f"{answered(question, answer, system)}\n"


def opened(system: str = "") -> str:
    """A turn up to where its question begins."""
    return f"{system}\n{USER}" if system else USER


def asked(question: str, system: str = "") -> str:
    """A turn up to its question's end."""
    return f"{opened(system)} {question}"


def answered(question: str, answer: str, system: str = "") -> str:
    """A turn up to its answer's end."""
    return f"{prompt(question, system)} {answer}"


def systems(conversation: Conversation) -> list[str]:
    """The system text of each turn: the first has the conversation's, the others none."""
    return [conversation.system] + [""] * (len(conversation.turns) - 1)


def corpus_text(conversations: Sequence[Conversation]) -> str:
    """All conversations to be read by people, a blank line between two."""
    turns = ([render(*turn, s) for turn, s in zip(c.turns, systems(c), strict=True)] for c in conversations)
    return "\n".join("".join(rendered) for rendered in turns)


# ---- split ----


def key(conversation: Conversation) -> str:
    """What conversations have in common that must not be parted: the first question, its letters and digits in one case."""
    question = unicodedata.normalize("NFKC", conversation.turns[0][0]).casefold()
    return re.sub(r"[\W_]+", "", question) or question


def split(conversations: Sequence[Conversation]) -> tuple[list[Conversation], list[Conversation]]:
    """Those to train on and those held out, each in the order given.

    Held out are the keys with the lowest SHA-256, until 10% of the conversations and at least 8 are: one more conversation
    moves few. Raises Faulty for fewer than 20 conversations, or if none is left to train on.
    """
    if len(conversations) < FEWEST:
        raise Faulty(too_few(len(conversations)))
    groups: dict[str, list[int]] = {}
    for i, conversation in enumerate(conversations):
        groups.setdefault(key(conversation), []).append(i)
    wanted = to_hold_out(len(conversations))
    held: set[int] = set()
    for name in sorted(groups, key=digest):
        if len(held) < wanted:
            held.update(groups[name])
    if len(held) == len(conversations):
        raise Faulty(none_left(len(held), len(groups)))
    return [c for i, c in enumerate(conversations) if i not in held], [conversations[i] for i in sorted(held)]


def to_hold_out(number: int) -> int:
    """How many of so many conversations are held out at least."""
    return max(HELD_OUT_FEWEST, round(number * HELD_OUT_SHARE))


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def none_left(number: int, keys: int) -> str:
    return (
        f"{number} conversations begin with only {keys} different questions, so that {to_hold_out(number)} cannot be held out "
        "and others left to train on; conversations with the same first question stay together."
    )


def too_few(number: int) -> str:
    return f"{number} conversations are too few: at least {FEWEST} are needed, {HELD_OUT_FEWEST} of them to measure with."


# ---- files ----


def read(path: str | Path) -> Found:
    """All conversations of a file. Raises Faulty with a sentence for each of the first 20 faulty lines, and how many more there are."""
    conversations: list[Conversation] = []
    faults: list[str] = []
    seen: set[tuple[Any, ...]] = set()
    unread: set[str] = set()
    kind, joined, n_faults = "", 0, 0
    for line in iter_file(path):
        if line.conversation is None:
            n_faults += 1
            faults += [f"{path}:{line.number}: {line.fault}."] if n_faults <= MAX_FAULTS else []
            continue
        conversations.append(line.conversation)
        seen.add((line.conversation.system, line.conversation.turns))
        unread |= line.unread
        kind, joined = line.kind, joined + line.joined
    check(path, faults, n_faults, len(conversations))
    return Found(conversations, WORDS_OF_KINDS[kind], joined, len(conversations) - len(seen), tuple(sorted(unread)))


def check(path: str | Path, faults: list[str], n_faults: int, n_conversations: int) -> None:
    """Raise Faulty if there are faults, of which the first are given as sentences, or too few conversations."""
    if n_faults > MAX_FAULTS:
        faults = [*faults, f"{n_faults - MAX_FAULTS} more lines of {path} are faulty."]
    if faults:
        raise Faulty("\n".join(faults))
    if not n_conversations:
        raise Faulty(f"{path} is empty; it needs at least {FEWEST} conversations, one a line.")
    if n_conversations < FEWEST:
        raise Faulty(f"{path}: {too_few(n_conversations)}")


def iter_file(path: str | Path) -> Iterator[Line]:
    """The lines of a file that are not blank, one in memory at a time. Raises Faulty for a file that cannot be read at all."""
    path = Path(path)
    if not path.is_file():
        raise Faulty(f"{path} is {'not a file' if path.exists() else 'missing'}; a file with one conversation a line is needed there.")
    try:
        with open(path, "rb") as file:
            yield from iter_lines(file)
    except OSError as error:
        raise Faulty(f"{path} cannot be read: {error.strerror}.") from None


def iter_lines(file: BinaryIO, first: Line | None = None) -> Iterator[Line]:
    """The lines that are not blank. `first`: the file's first conversation, whose format all must have, if it stands before these."""
    for number, raw in enumerate(raw_lines(file), 1):
        if not raw.removeprefix(BOM_UTF8).strip():
            continue
        line = parse(raw, number)
        first = first or (line if line.kind else None)
        if first and line.kind and line.kind != first.kind:
            here, there = WORDS_OF_KINDS[line.kind], WORDS_OF_KINDS[first.kind]
            line = Line(number, fault=f"this is the format '{here}', but line {first.number} is '{there}'; a file has one format")
        yield line


def raw_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file; of one that is longer than MAX_LINE only the first MAX_LINE + 1 bytes are kept."""
    while raw := file.readline(MAX_LINE + 1):
        rest = raw
        while len(rest) > MAX_LINE and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE + 1)
        yield raw


def parse(raw: bytes, number: int) -> Line:
    """A line from its bytes; a BOM and a carriage return are no faults."""
    try:
        return to_line(decode(raw), number)
    except Fault as fault:
        return Line(number, fault=str(fault))


def decode(raw: bytes) -> Any:
    """The JSON value of a line. Stricter than json.loads: no NaN, no key twice; and no nesting can break it."""
    if len(raw) > MAX_LINE:
        raise Fault(f"the line is longer than {MAX_LINE:,} bytes, the most that a conversation may have")
    try:
        return JSON.decode(raw.decode("utf-8-sig").strip())
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise Fault(f"the line is not UTF-8 (byte {error.start + 1} is 0x{byte:02X}); save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise Fault(f"the line is not JSON ({error.msg}, column {error.colno}); each line needs a whole conversation") from None
    except RecursionError:
        raise Fault("the line is nested too deeply; a conversation is a list of messages and no more") from None


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise Fault(f"the key {shown(name)} stands twice in one object")
    return found


def no_number(word: str) -> NoReturn:
    raise Fault(f"{word} is not JSON")


JSON = json.JSONDecoder(object_pairs_hook=unique, parse_constant=no_number, parse_int=float)  # int() refuses 5,000 digits


def to_line(record: Any, number: int) -> Line:
    """A line from its JSON value, in whichever of the formats it is."""
    kind = kind_of(record)
    keys = set() if kind == "list" else record.keys() - {kind, "completion" if kind == "prompt" else kind}
    messages = messages_of(record, kind)
    names, roles = (("from", "value"), SHAREGPT_ROLES) if kind == "conversations" else (("role", "content"), ROLES)
    system, texts = pair([message(m, n, names, roles) for n, m in enumerate(messages, 1)])
    (system, *texts), joined = clean_all(system, texts)
    turns = tuple(zip(texts[::2], texts[1::2], strict=True))
    unread = frozenset(keys | {name for m in messages for name in m} - set(names))
    return Line(number, Conversation(turns, system, number), kind, joined, unread)


def kind_of(record: Any) -> str:
    """Which format a line has: a key of WORDS_OF_KINDS."""
    known = [name for name in ("messages", "conversations", "prompt") if isinstance(record, dict) and name in record]
    if isinstance(record, list):
        if record and (isinstance(record[0], list) or (isinstance(record[0], dict) and record[0].keys() & WORDS_OF_KINDS.keys())):
            raise Fault("the line is a list of conversations; each needs a line of its own")
        return "list"
    if not isinstance(record, dict):
        raise Fault(f"the line is {named(record)}, not a list of messages")
    if len(known) != 1:
        have = f"both {known[0]!r} and {known[1]!r}" if known else "neither 'messages' nor 'conversations' nor 'prompt'"
        raise Fault(f"the object has {have}; it needs one of them")
    return known[0]


def messages_of(record: Any, kind: str) -> list[Any]:
    if kind == "prompt":
        if "completion" not in record:
            raise Fault("the object has a 'prompt' but no 'completion'")
        return [{"role": "user", "content": record["prompt"]}, {"role": "assistant", "content": record["completion"]}]
    messages = record if kind == "list" else record[kind]
    if not isinstance(messages, list):
        raise Fault(f"the messages are {named(messages)}, not a list")
    return messages


def message(found: Any, number: int, names: tuple[str, str], roles: dict[str, str]) -> tuple[str, Any]:
    """Role (user, assistant or system) and content of a message."""
    if not isinstance(found, dict):
        raise Fault(f"message {number} is {named(found)}, not an object with '{names[0]}' and '{names[1]}'")
    for name in names:
        if name not in found:
            raise Fault(f"message {number} has no '{name}'")
    role = found[names[0]]
    if not isinstance(role, str) or role not in roles:
        what = shown(role) if isinstance(role, str) else named(role)
        raise Fault(f"message {number} has the unknown role {what}; known are {', '.join(roles)}")
    return roles[role], found[names[1]]


def pair(said: list[tuple[str, Any]]) -> tuple[Any, list[Any]]:
    """System content ("" if there is none), and the contents of questions and answers, which must take turns."""
    first = 1 if said and said[0][0] == "system" else 0
    for n, (role, _) in enumerate(said[first:]):
        if role == "system":
            raise Fault(f"message {first + n + 1} is system text, which may stand only at the beginning")
        if role == "assistant" and n == 0:
            raise Fault("an answer stands first; every answer needs a question before it")
        if role != ("user", "assistant")[n % 2]:
            what = "a question follows a question" if role == "user" else "an answer follows an answer"
            raise Fault(f"{what} at message {first + n + 1}; they must take turns")
    texts = [text for _, text in said[first:]]
    if not texts:
        raise Fault("there is no question and no answer")
    if len(texts) % 2:
        raise Fault("the last question has no answer")
    return said[0][1] if first else "", texts


def clean_all(system: Any, texts: list[Any]) -> tuple[list[str], int]:
    """The system text, questions and answers as they enter the template, and how many lines were joined (see `join_lines`)."""
    of_turn = [f" of turn {n}" if len(texts) > 2 else "" for n in range(1, len(texts) // 2 + 1)]
    names = ["the system text", *(f"the {what}{which}" for which in of_turn for what in ("question", "answer"))]
    cleaned = [clean(text, name) for text, name in zip([system, *texts], names, strict=True)]
    if FORGED.match(cleaned[0][0]):
        raise Fault(f"the system text begins with '{cleaned[0][0][:2]}', as a turn would; begin it otherwise")
    for (text, _), name in zip(cleaned[1:], names[1:], strict=True):
        if not text:
            raise Fault(f"{name} is empty; every question needs an answer")
    return [text for text, _ in cleaned], sum(joined for _, joined in cleaned)


def clean(content: Any, name: str) -> tuple[str, int]:
    """A text without space at its ends, its lines ended by new lines and none like a turn, and how many of them were joined."""
    if not isinstance(content, str):
        raise Fault(f"{name} is {named(content)}, not text")
    if content.replace("\n", "").isprintable():  # by far the most are, and need no closer look
        return join_lines(content.strip())
    for what, pattern in NOT_TEXT.items():
        if bad := pattern.search(content):
            raise Fault(f"{name} has U+{ord(bad[0]):04X}, {what}, as its character {bad.start() + 1}; delete it")
    return join_lines(NEW_LINE.sub("\n", content).strip())


def join_lines(text: str) -> tuple[str, int]:
    """A text whose lines that would forge a turn are joined to the line before, and how many were. Takes linear time."""
    if not (USER in text or ASSISTANT in text) or not FORGED.search(text, 1):
        return text, 0
    parts: list[str] = []
    joined = 0
    for line in text.split("\n"):
        if not parts or not FORGED.match(line):
            parts.append(f"\n{line}")
            continue
        while not parts[-1].strip():  # the first line is not blank
            parts.pop()
        parts[-1] = parts[-1].rstrip()
        parts.append(f" {line.lstrip()}")
        joined += 1
    return "".join(parts)[1:], joined


def named(value: Any) -> str:
    """What a JSON value is, in words."""
    words = {type(None): "null", bool: "true or false", float: "a number", str: "text", list: "a list", dict: "an object"}
    return words[type(value)]


def shown(text: str) -> str:
    """A text from a file as an error may print it: short, one line, no half characters."""
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
