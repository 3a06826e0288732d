"""Text as a model writes it, and the conversation at the terminal."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arianna.corpus.cleaning import shown
from arianna.corpus.encoding import ascii_typography
from arianna.corpus.template import ASSISTANT, USER, join_lines, prompt, render
from arianna.system.commands import SEVERAL_AT, TEMPERATURE
from arianna.system.terminal import note, say
from tokenizer import BOS, EOS, Tokenizer

if TYPE_CHECKING:  # torch takes seconds; a wrong argument of sample.py is told before
    from model import Transformer

HALF_A_CHARACTER = "\ufffd"  # what bytes decode to that are no character, or not yet
NEXT_QUESTION = re.compile(rf"\n[^\S\n]*({USER}|{USER[0]}?\Z)")  # begun or, at the text's end, perhaps begun
ROWS_AT_A_TIME = 32  # texts that are written side by side, where they are not shown as they come

Turn = tuple[str, str]  # a question and its answer


@dataclass(frozen=True)
class Sampling:
    """The settings by which the tokens of a text are drawn; see `arianna.generate.stream`."""

    max_new_tokens: int = 200
    temperature: float | None = None  # SEVERAL_AT where several answers are drawn, else TEMPERATURE
    top_k: int = 300
    top_p: float = 0.9
    seed: int = 1337
    best_of: int = 1  # answers drawn to each question, of which the likeliest is given

    def settings(self, number: int = 0, several: bool = False) -> dict[str, float]:
        """The settings of the text of that number: each has a seed of its own."""
        usual = SEVERAL_AT if several else TEMPERATURE
        temperature = usual if self.temperature is None else self.temperature
        drawn = {"temperature": temperature, "top_k": self.top_k, "top_p": self.top_p}
        return drawn | {"seed": self.seed + number}


# ---- what a person types ----


class Reader:
    """A reader of what a person types, as training reads conversations; each change is told once."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer, self.notes = tokenizer, set[str]()

    def plain(self, text: str) -> str:
        """A text whose quotes, dashes and ellipses are ASCII where training made them so.

        Raises ValueError for a text that is not UTF-8.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            place = error.start + 1
            raise ValueError(
                f"the prompt {shown(text)} is not UTF-8 text (character {place}); type it anew."
            ) from None
        plain, changed, _ = ascii_typography(text, self.tokenizer)
        if changed:
            self.tell("typographic quotes, dashes and ellipses become ASCII, as in training")
        return plain

    def encode(self, text: str) -> list[int]:
        """The tokens of a plain text."""
        if "  " in text and self.tokenizer.encode("a  b") == self.tokenizer.encode("a b"):
            path = self.tokenizer.path
            self.tell(f"{path} reads two spaces as one, llama2.c's run as two: its answer will differ")
        return self.tokenizer.encode(text)

    def tell(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.add(sentence)
            note(sentence)


# ---- text as it comes ----


class Continuation:
    """The text that a model adds to a prompt, as an iterator of pieces that end between characters."""

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, ids: Sequence[int], sampling: Sampling, number=0
    ):
        self.model, self.tokenizer, self.ids = model, tokenizer, list(ids)
        self.tokens = tokens_of(model, tokenizer, ids, sampling, number)

    def __iter__(self) -> Iterator[str]:
        whole = written = self.tokenizer.decode(self.ids)
        for token in self.tokens:
            if token in (BOS, EOS):
                break
            self.ids.append(token)
            whole = self.tokenizer.decode(self.ids)  # all of them: a token's text depends on those before it
            if not whole.endswith(HALF_A_CHARACTER):
                yield whole[len(written) :]
                written = whole
        yield whole[len(written) :]

    def tell_if_full(self) -> None:
        """Say on stderr that the context's end has cut the text off, if it has."""
        if len(self.ids) == self.model.args.max_seq_len:
            note(f"the context of {len(self.ids)} tokens is full")


def tokens_of(
    model: Transformer, tokenizer: Tokenizer, ids: Sequence[int], sampling: Sampling, number: int
) -> Iterator[int]:
    """The tokens that a model adds to a prompt: as it draws them, or the best of several answers at once."""
    if chooses(sampling, tokenizer, ids):
        yield from best_answer(model, tokenizer, ids, sampling, number)
    else:
        from arianna import generate  # imports torch

        for (token,) in generate.stream(model, [ids], sampling.max_new_tokens, **sampling.settings(number)):
            yield token


def chooses(sampling: Sampling, tokenizer: Tokenizer, ids: Sequence[int]) -> bool:
    """Whether a prompt asks for an answer and several are to be drawn: other text has no best draw."""
    several = sampling.best_of > 1 and sampling.temperature != 0
    return several and tokenizer.decode(ids).endswith(f"\n{ASSISTANT}")


def best_answer(
    model: Transformer, tokenizer: Tokenizer, ids: Sequence[int], sampling: Sampling, number: int
) -> list[int]:
    """The tokens of the likeliest of several answers."""
    from arianna import best_of  # imports torch

    settings = sampling.settings(number, several=True)
    return best_of.best(model, tokenizer, ids, sampling.max_new_tokens, sampling.best_of, **settings)


def until_next_question(pieces: Iterable[str]) -> Iterator[str]:
    """The pieces of a text before a line that begins with "Q:": some models ask a question of their own."""
    text, end = "", 0
    for piece in pieces:
        text, first = text + piece, end
        question = NEXT_QUESTION.search(text, first)
        end = question.start() if question else len(text)
        yield text[first:end]
        if question and question[1] == USER:
            return
    yield text[end:]


def complete(
    model: Transformer, tokenizer: Tokenizer, encoded: Sequence[list[int]], sampling: Sampling
) -> list[str]:
    """The texts that a model adds to prompts, many at a time. Tells how many the context cut off."""
    answers = [i for i, ids in enumerate(encoded) if chooses(sampling, tokenizer, ids)]
    texts = {i: best_answer(model, tokenizer, encoded[i], sampling, n) for n, i in enumerate(answers)}
    others = [i for i in range(len(encoded)) if i not in texts]
    for number, first in enumerate(range(0, len(others), ROWS_AT_A_TIME)):
        numbers = others[first : first + ROWS_AT_A_TIME]
        rows = [encoded[i] for i in numbers]
        texts |= zip(numbers, drawn_once(model, rows, sampling, number), strict=True)
    both = [(ids, texts[i]) for i, ids in enumerate(encoded)]
    full = sum(len(ids) + len(text) == model.args.max_seq_len for ids, text in both)
    if full:
        note(f"{full} of {len(both)} texts filled the context of {model.args.max_seq_len} tokens")
    return [tokenizer.decode([*ids, *text])[len(tokenizer.decode(ids)) :] for ids, text in both]


def drawn_once(
    model: Transformer, rows: Sequence[list[int]], sampling: Sampling, number: int
) -> list[list[int]]:
    """The tokens that a model adds to prompts side by side, one draw each."""
    from arianna import generate  # imports torch

    return generate.generate(model, rows, sampling.max_new_tokens, (BOS, EOS), **sampling.settings(number))


# ---- the conversation ----


class Chat:
    """A conversation: each question is answered in the sight of the turns before it."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, sampling: Sampling, system: str = ""):
        self.model, self.tokenizer, self.sampling = model, tokenizer, sampling
        self.reader = Reader(tokenizer)
        self.system = self.reader.plain(join_lines(system.strip())[0])
        self.context = model.args.max_seq_len
        self.room = self.context - min(sampling.max_new_tokens, self.context // 2)  # ahead of an answer
        self.reset()

    def reset(self) -> None:
        self.turns: list[Turn] = []
        self.number = 0  # the next answer's number, for its seed: a conversation begun anew goes the same way

    def reply(self, question: str) -> None:
        """Answer a question on stdout and remember the turn. Ctrl-C ends the answer where it is.

        While the likeliest of several is looked for, there is nothing of it yet.
        """
        question = self.reader.plain(join_lines(question)[0])
        asked = self.tokens([], question)
        if len(asked) + 1 > self.context:
            tokens = f"{len(asked) - 1} tokens"
            note(f"the question has {tokens}, too many for a context of {self.context}; ask a shorter one")
            return
        self.forget(question)
        added, answer = self.added(question), ""
        with contextlib.suppress(KeyboardInterrupt):
            for piece in until_next_question(added):
                say(piece if answer else piece.lstrip())
                answer = (answer + piece).lstrip()
        print()
        added.tell_if_full()
        answer = join_lines(answer.rstrip())[0]
        self.turns += [(question, answer)] if answer else []

    def added(self, question: str) -> Continuation:
        ids = self.tokens(self.turns, question)
        self.number += 1
        return Continuation(self.model, self.tokenizer, ids, self.sampling, self.number - 1)

    def forget(self, question: str) -> None:
        """Leave out the oldest turns until the others have room ahead of a question and its answer."""
        while self.turns and len(self.tokens(self.turns, question)) > self.room:
            self.turns = self.turns[1:]

    def tokens(self, turns: Sequence[Turn], question: str) -> list[int]:
        """Turns and a question as in training: BOS behind each answer, the system text ahead of the first."""
        ids, system = [BOS], self.system
        for asked, answered in turns:
            ids += [*self.tokenizer.encode(render(asked, answered, system)), BOS]
            system = ""
        return [*ids, *self.reader.encode(prompt(question, system))]


def converse(chat: Chat) -> int:
    """Questions from the terminal or a pipe, until they end."""
    interactive = sys.stdin.isatty()
    if interactive:
        with contextlib.suppress(ImportError):  # Windows has none
            import readline  # noqa: F401  input() then knows the arrow keys and earlier lines
        print("Ask something. /reset begins anew, /quit leaves, Ctrl-C stops an answer.")
    while (line := ask(interactive)) not in (None, "/quit"):
        if line == "/reset":
            chat.reset()
        elif line.startswith("/"):
            note(f"{line.split()[0]} is not known here; there are /reset and /quit")
        elif line:
            chat.reply(line)
    return 0


def ask(interactive: bool) -> str | None:
    """The next line; None when the person leaves, by Ctrl-D or by Ctrl-C where nothing has been typed."""
    while True:
        try:
            return input("> " if interactive else "").strip()
        except EOFError:
            return None
        except KeyboardInterrupt:
            if interactive:
                print()
            if not typed():
                return None


def typed() -> str:
    """The text on the line that is being typed."""
    readline = sys.modules.get("readline")
    return readline.get_line_buffer() if readline else ""
