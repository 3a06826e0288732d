"""Conversations and texts to tokens and what is to be done with each. Without torch: processes that only prepare start fast."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from arianna.corpus.conversations import Conversation, answered, asked, opened, prompt, render, systems
from arianna.system.files import write_atomic
from tokenizer import BOS, Tokenizer

# flags of a token in a .mask, each about the token as a target
TRAIN_ALL = 1  # trained with --loss_on=all
TRAIN_ANSWERS = 2  # trained with --loss_on=answers
ANSWER = 4  # an answer's own token: scored
TERMINATOR = 8  # the new line and BOS that end an answer: scored apart
ROW = 16  # first token of a row
CONTINUED = 32  # with ROW: the row goes on with the conversation of the row before it
GIVEN, QUESTION = b"\0", bytes([TRAIN_ALL])
WORDS, END = (bytes([TRAIN_ALL | TRAIN_ANSWERS | scored]) for scored in (ANSWER, TERMINATOR))
KINDS = (QUESTION, GIVEN, QUESTION, GIVEN, WORDS, END)
"""Of a turn's tokens: the system text, "Q:", the question, "A:", the answer, its end. What is always given is not trained: to a base that
never saw it, it is so unlikely that it would take much of each step."""

SHORTEST_CONTEXT = 16  # tokens; a conversation is not cut into shorter rows
ASCII = {  # typography that the tokenizer may have to spell in bytes, which llama2.c's run does not print
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u2039\u203a", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-"),
    **dict.fromkeys("\u2014\u2015", "--"),
    **dict.fromkeys("\u00a0\u2009\u202f", " "),
    "\u2026": "...",
}


# ---- conversations ----


@dataclass(frozen=True)
class Prepared:
    """What a preflight tells of conversations that were made into rows, those held out included."""

    conversations: int = 0
    held_out: int = 0  # of the conversations
    rows: int = 0
    tokens: int = 0  # of the conversations; rows repeat some
    longest: int = 0  # tokens of the longest conversation
    longer: int = 0  # conversations of more tokens than the context
    typographic: int = 0  # quotes, dashes, ellipses and spaces that became ASCII
    others: Counter[str] = field(default_factory=Counter)  # other characters that the tokenizer spells in bytes

    @property
    def bytes_spelled(self) -> int:
        return self.others.total()

    @property
    def spelled(self) -> str:
        """The most frequent characters that are spelled in bytes."""
        return "".join(c for c, _ in self.others.most_common(10))

    def __add__(self, other: Prepared) -> Prepared:
        added = {name: value + getattr(other, name) for name, value in vars(self).items()}
        return Prepared(**{**added, "longest": max(self.longest, other.longest)})


def encode_turns(conversation: Conversation, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (N,) uint16 and flags (N,) uint8: BOS, then each turn with a BOS behind it.

    A turn is encoded in one call, since pieces depend on what stands before them. Where its parts begin is where the tokens
    of a part of its text cease to be those of the whole.
    """
    tokens, flags = [BOS], bytes([ROW])
    for (question, answer), system in zip(conversation.turns, systems(conversation), strict=True):
        parts = (system, opened(system), asked(question, system), prompt(question, system), answered(question, answer, system))
        whole, bounds = tokenizer.encode_to(render(question, answer, system), [*map(len, parts)])
        bounds = [0, *accumulate(bounds, max), len(whole) + 1]
        flags += b"".join(kind * (end - first) for kind, (first, end) in zip(KINDS, pairwise(bounds), strict=True))
        tokens += whole
        tokens.append(BOS)
    return np.array(tokens, dtype="<u2"), np.frombuffer(flags, dtype=np.uint8)


def windows(tokens: np.ndarray, flags: np.ndarray, max_seq_len: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The rows (tokens, flags) of an encoded conversation, none with more than max_seq_len tokens.

    A row that goes on begins with what `repeated` gives, which is neither trained nor scored: every token but the first BOS
    is new in exactly one row. A row does not end within a question unless the question alone is longer than it.
    """
    if max_seq_len < SHORTEST_CONTEXT:
        raise ValueError(f"the context is {max_seq_len} tokens; conversations need at least {SHORTEST_CONTEXT}.")
    if len(tokens) <= max_seq_len:
        return [(tokens, flags)]
    starts = np.flatnonzero(tokens[:-1] == BOS)
    scored = np.flatnonzero(flags & (ANSWER | TERMINATOR))
    answers = scored[np.searchsorted(scored, starts + 1)]  # where each turn's answer begins
    rows: list[tuple[np.ndarray, np.ndarray]] = []
    done = 0
    while done < len(tokens):
        head = repeated(tokens, starts, answers, done, max_seq_len) if done else tokens[:0]
        end = min(done + max_seq_len - len(head), len(tokens))
        turn = np.searchsorted(starts, end) - 1
        if end <= answers[turn] and starts[turn] >= max(done, 1):
            end = starts[turn] + 1  # behind the BOS, so that the question begins the next row
        assert end > done, f"{end=} {done=}"
        row_flags = np.concatenate([np.zeros(len(head), np.uint8), flags[done:end]])
        row_flags[0] = ROW | CONTINUED if done else ROW
        rows.append((np.concatenate([head, tokens[done:end]]), row_flags))
        done = end
    return rows


def repeated(tokens: np.ndarray, starts: np.ndarray, answers: np.ndarray, done: int, max_seq_len: int) -> np.ndarray:
    """What a row begins with that goes on at `done`: BOS, the question of the turn it is in, the last quarter context of the answer.

    Of a question longer than half a context the end is kept. A quarter of the context at least is left for what is new.
    """
    turn = np.searchsorted(starts, done) - 1
    start, answer = starts[turn], answers[turn]
    question_end = min(answer, done)
    question = tokens[max(start + 1, question_end - max_seq_len // 2 + 1) : question_end]
    return np.concatenate([tokens[start : start + 1], question, tokens[max(answer, done - max_seq_len // 4) : done]])


def ascii_typography(text: str, tokenizer: Tokenizer) -> tuple[str, int, Counter[str]]:
    """A text in which typography that the tokenizer spells in bytes is ASCII, how many characters that changed, and the others
    beyond ASCII that it spells in bytes. What has a token of its own stays."""
    if text.isascii():
        return text, 0, Counter()
    spelled = Counter({c: n for c, n in Counter(text).items() if not c.isascii() and tokenizer.spelled_in_bytes(c)})
    plain = {c: ASCII[c] for c in spelled if c in ASCII}
    changed = sum(spelled.pop(c) for c in plain)
    return text.translate(str.maketrans(plain)), changed, spelled


def plain_conversation(conversation: Conversation, tokenizer: Tokenizer) -> tuple[Conversation, int, Counter[str]]:
    """`ascii_typography` of all texts of a conversation."""
    texts = [conversation.system, *(text for turn in conversation.turns for text in turn)]
    if all(map(str.isascii, texts)):
        return conversation, 0, Counter()
    plain, changed, spelled = zip(*(ascii_typography(t, tokenizer) for t in texts), strict=True)
    turns = tuple(zip(plain[1::2], plain[2::2], strict=True))
    return replace(conversation, system=plain[0], turns=turns), sum(changed), sum(spelled, Counter())


def prepare_conversations(
    train: Sequence[Conversation], held_out: Sequence[Conversation], tokenizer: Tokenizer, max_seq_len: int, val_seq_len: int
) -> tuple[dict[str, bytes], Prepared]:
    """The files of a data folder by name, and what is to be told of them. Writes nothing.

    Rows have at most max_seq_len tokens; those held out at most val_seq_len, the base's context, if that is less: base and
    tuned are scored alike.
    """
    check_fits_shard(tokenizer)
    plain = [plain_conversation(c, tokenizer) for c in (*train, *held_out)]
    encoded = [encode_turns(c, tokenizer) for c, _, _ in plain]
    halves = {"train": (encoded[: len(train)], max_seq_len), "val": (encoded[len(train) :], min(max_seq_len, val_seq_len))}
    rows = {split: [row for c in half for row in windows(*c, context)] for split, (half, context) in halves.items()}
    files = {f"{split}.bin": b"".join(tokens.tobytes() for tokens, _ in half) for split, half in rows.items()}
    files |= {f"{split}.mask": b"".join(flags.tobytes() for _, flags in half) for split, half in rows.items()}
    lengths = [len(tokens) for tokens, _ in encoded]
    return files, Prepared(
        conversations=len(plain),
        held_out=len(held_out),
        rows=sum(map(len, rows.values())),
        tokens=sum(lengths),
        longest=max(lengths, default=0),
        longer=sum(n > max_seq_len for n in lengths),
        typographic=sum(changed for _, changed, _ in plain),
        others=sum((others for _, _, others in plain), Counter()),
    )


def write_prepared(files: dict[str, bytes], folder: str | Path) -> None:
    """Put what `prepare_conversations` made into a folder. A file that holds it already is left alone."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        if not (folder / name).is_file() or (folder / name).read_bytes() != data:
            write_atomic(folder / name, data)


def check_fits_shard(tokenizer: Tokenizer) -> None:
    if tokenizer.vocab_size > 1 << 16:
        raise ValueError(f"{tokenizer.path} has {tokenizer.vocab_size} tokens; token shards hold at most 65,536.")


# ---- texts ----


def text_files(path: str | Path) -> list[Path]:
    path = Path(path)
    found = sorted(p for p in path.rglob("*") if p.suffix in (".txt", ".md")) if path.is_dir() else [path]
    if not found or not all(p.is_file() for p in found):
        raise ValueError(f"{path} has no .txt or .md file; give a folder of texts or one text file.")
    return found


def documents(text: str) -> list[str]:
    """A file is one document, or several where two empty lines part them."""
    return [d.strip("\n") for d in re.split(r"\n{3,}", text) if d.strip()]


def split_tail(text: str, share: float) -> tuple[str, str]:
    """All but the last `share` of a text, and the rest, cut at the next end of a paragraph."""
    cut = text.find("\n\n", int(len(text) * (1 - share)))
    return (text, "") if share == 0 or cut < 0 else (text[:cut], text[cut:])


def split_paragraphs(text: str, share: float) -> tuple[str, str]:
    """The paragraphs of a text without and with those whose SHA-256 is in the lowest `share`."""
    kept: list[str] = []
    held: list[str] = []
    for paragraph in re.split(r"(?<=\n)\n", text):  # each keeps one new line; further empty lines stay with the kept
        low = int.from_bytes(hashlib.sha256(paragraph.strip().encode()).digest()[:8], "big") < share * 2**64
        (held if low and paragraph.strip() else kept).append(paragraph)
    return "\n".join(kept), "\n".join(held)


def encode_text(text: str, tokenizer: Tokenizer) -> np.ndarray:
    """Each document's tokens behind a BOS, (N,) uint16."""
    check_fits_shard(tokenizer)
    ids = [i for d in documents(text) for i in tokenizer.encode(d, bos=True)]
    return np.array(ids, dtype="<u2")


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8.") from None
