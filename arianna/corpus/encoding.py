"""Encode conversations as rows of tokens; mark each token as trained, scored or given.

Nothing here imports torch, so that the processes that encode start fast.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import accumulate, pairwise

import numpy as np

from arianna.corpus.conversations import Conversation
from arianna.corpus.template import answered, asked, opened, openings, prompt, render
from tokenizer import BOS, Tokenizer

# flags of a token in a .mask, each about the token as a target
TRAIN_ALL = 1  # trained with --loss_on=all
TRAIN_ANSWERS = 2  # trained with --loss_on=answers
ANSWER = 4  # an answer's own token: scored
TERMINATOR = 8  # the new line and BOS that end an answer: scored apart
ROW = 16  # first token of a row
CONTINUED = 32  # with ROW: the row goes on with the conversation of the row before it
CONTEXT = 64  # part of an answer that its author marked as not to be trained: neither trained nor scored
GIVEN, QUESTION = b"\0", bytes([TRAIN_ALL])
WORDS, END = (bytes([TRAIN_ALL | TRAIN_ANSWERS | scored]) for scored in (ANSWER, TERMINATOR))
# flags of a turn's pieces: the system text, the greeting and "Q:", the question, "A:", the answer, its end.
# The marks "Q:" and "A:" are not trained: a base that never saw them finds them so unlikely that they would
# take much of each step
KINDS = (QUESTION, GIVEN, QUESTION, GIVEN, WORDS, END)

SHORTEST_CONTEXT = 16  # tokens; a conversation is not cut into shorter rows
ASCII = {  # typography that the tokenizer may have to spell in bytes, which llama2.c's run does not print
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u2039\u203a", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-"),
    **dict.fromkeys("\u2014\u2015", "--"),
    **dict.fromkeys("\u00a0\u2009\u202f", " "),
    "\u2026": "...",
}


@dataclass(frozen=True)
class Prepared:
    """Counts over the conversations that were made into rows, those held out included."""

    conversations: int = 0
    held_out: int = 0  # how many of the conversations
    rows: int = 0
    tokens: int = 0  # without those that a second row repeats
    longest: int = 0  # tokens of the longest conversation
    longer: int = 0  # conversations of more tokens than the context
    typographic: int = 0  # quotes, dashes, ellipses and spaces that became ASCII
    others: Counter[str] = field(default_factory=Counter)  # other characters that are spelled in bytes
    characters: int = 0  # in all texts

    @property
    def bytes_spelled(self) -> int:
        return self.others.total()

    @property
    def foreign(self) -> float:
        """Share of the characters that the tokenizer has no token for and spells in bytes, 0 to 1."""
        return self.bytes_spelled / max(self.characters, 1)

    @property
    def spelled(self) -> str:
        """The most frequent characters that are spelled in bytes."""
        return "".join(c for c, _ in self.others.most_common(10))

    def __add__(self, other: Prepared) -> Prepared:
        added = {name: value + getattr(other, name) for name, value in vars(self).items()}
        return Prepared(**{**added, "longest": max(self.longest, other.longest)})


def encode_turns(conversation: Conversation, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (N,) uint16 and flags (N,) uint8: BOS, then each turn with a BOS behind it.

    A turn is encoded in one call, since a token depends on the text before it. A piece of the turn ends where
    the tokens of the text up to there stop being those of the whole turn.
    """
    tokens, flags = [BOS], bytes([ROW])
    for number, (turn, opening) in enumerate(zip(conversation.turns, openings(conversation), strict=True)):
        question = (turn[0], *opening)
        ends = (opening[0], opened(*opening), asked(*question), prompt(*question), answered(*turn, *opening))
        whole, bounds = tokenizer.encode_to(render(*turn, *opening), [*map(len, ends)])
        bounds = [0, *accumulate(bounds, max), len(whole) + 1]
        kinds = kinds_of(conversation.given, number) if conversation.given else KINDS
        flags += b"".join(
            kind * (end - first) for kind, (first, end) in zip(kinds, pairwise(bounds), strict=True)
        )
        tokens += whole
        tokens.append(BOS)
    return np.array(tokens, dtype="<u2"), np.frombuffer(flags, dtype=np.uint8)


def kinds_of(given: frozenset[int], turn: int) -> tuple[bytes, ...]:
    """KINDS of a turn, some of whose texts may be given: they are context, neither trained nor scored."""
    system, marks, question, answer_mark, words, end = KINDS
    if -1 in given:
        system = GIVEN
    if 2 * turn in given:
        question = GIVEN
    if 2 * turn + 1 in given:
        words = end = bytes([CONTEXT])
    return system, marks, question, answer_mark, words, end


def rows_of(tokens: np.ndarray, flags: np.ndarray, max_seq_len: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The rows (tokens, flags) of an encoded conversation, none with more than max_seq_len tokens.

    A row that goes on begins with what `repeated` gives, which is neither trained nor scored: every token but
    the first BOS is new in exactly one row. A row does not end within a question unless the question alone is
    longer than it.
    """
    if max_seq_len < SHORTEST_CONTEXT:
        raise ValueError(
            f"the context is {max_seq_len} tokens; conversations need at least {SHORTEST_CONTEXT}."
        )
    if len(tokens) <= max_seq_len:
        return [(tokens, flags)]
    starts = np.flatnonzero(tokens[:-1] == BOS)
    of_answers = np.flatnonzero(flags & (ANSWER | TERMINATOR | CONTEXT))
    answers = of_answers[np.searchsorted(of_answers, starts + 1)]  # where each turn's answer begins
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


def repeated(
    tokens: np.ndarray, starts: np.ndarray, answers: np.ndarray, done: int, max_seq_len: int
) -> np.ndarray:
    """The tokens with which a row begins that goes on at `done`: BOS, the question, the answer's last tokens.

    Of the answer they are a quarter of a context at most, of the question its last half context, so that a
    quarter at least is left for what is new.
    """
    turn = np.searchsorted(starts, done) - 1
    start, answer = starts[turn], answers[turn]
    question_end = min(answer, done)
    question = tokens[max(start + 1, question_end - max_seq_len // 2 + 1) : question_end]
    return np.concatenate(
        [tokens[start : start + 1], question, tokens[max(answer, done - max_seq_len // 4) : done]]
    )


def ascii_typography(text: str, tokenizer: Tokenizer) -> tuple[str, int, Counter[str]]:
    """A text whose typography is ASCII where the tokenizer would spell it in bytes.

    Also returned: how many characters changed, and the others that the tokenizer spells in bytes.
    """
    if text.isascii():
        return text, 0, Counter()
    spelled = Counter(
        {c: n for c, n in Counter(text).items() if not c.isascii() and tokenizer.spelled_in_bytes(c)}
    )
    plain = {c: ASCII[c] for c in spelled if c in ASCII}
    changed = sum(spelled.pop(c) for c in plain)
    return text.translate(str.maketrans(plain)), changed, spelled


def plain_conversation(
    conversation: Conversation, tokenizer: Tokenizer
) -> tuple[Conversation, int, Counter[str]]:
    """A conversation with `ascii_typography` of all its texts, and the sums of what that counted."""
    if all(map(str.isascii, conversation.texts)):
        return conversation, 0, Counter()
    plain, changed, spelled = zip(*(ascii_typography(t, tokenizer) for t in conversation.texts), strict=True)
    system, greeting, *texts = plain
    turns = tuple(zip(texts[::2], texts[1::2], strict=True))
    whole = replace(conversation, system=system, greeting=greeting, turns=turns)
    return whole, sum(changed), sum(spelled, Counter())


def prepare_conversations(
    train: Sequence[Conversation],
    held_out: Sequence[Conversation],
    tokenizer: Tokenizer,
    max_seq_len: int,
    val_seq_len: int,
) -> tuple[dict[str, bytes], Prepared]:
    """The files of a data folder by name, and the counts to tell. Writes nothing.

    Rows have at most max_seq_len tokens; those held out at most val_seq_len, the base's context, if that is
    less: base and tuned are scored alike.
    """
    check_fits_shard(tokenizer)
    plain = [plain_conversation(c, tokenizer) for c in (*train, *held_out)]
    encoded = [encode_turns(c, tokenizer) for c, _, _ in plain]
    halves = {
        "train": (encoded[: len(train)], max_seq_len),
        "val": (encoded[len(train) :], min(max_seq_len, val_seq_len)),
    }
    rows = {
        split: [row for c in half for row in rows_of(*c, context)]
        for split, (half, context) in halves.items()
    }
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
        characters=sum(len(text) for c, _, _ in plain for text in c.texts),
    )


@lru_cache(maxsize=1)
def tokenizer_of(model: str) -> Tokenizer:
    """A tokenizer by its path, loaded once for all parts that a process encodes."""
    return Tokenizer(model)


def check_fits_shard(tokenizer: Tokenizer) -> None:
    if tokenizer.vocab_size > 1 << 16:
        raise ValueError(
            f"{tokenizer.path} has {tokenizer.vocab_size} tokens; token shards hold at most 65,536."
        )
