"""Let a model write: go on from prompts, set two models side by side, or talk.

    python sample.py --checkpoint=out/ckpt_ft.pt --start="Q: What is consciousness?" --max_new_tokens=200
    python sample.py --checkpoint=out/ckpt_ft.pt --question="What is time?" --question="Do you remember me?"
    python sample.py --checkpoint=out/ckpt_ft.pt --compare=out/ckpt_v1_base.pt --prompts_file=prompts.txt --out=answers.md
    python sample.py --checkpoint=out/ckpt_ft.pt --chat      # /reset, /quit; Ctrl-C stops an answer

Text ends where the model says so (BOS or EOS), after --max_new_tokens, or where its context ends.
"""

from __future__ import annotations

if __name__ == "__main__":  # before torch is imported: threads read at the start how long to wait for each other
    from arianna.system import environment

    environment.prepare()

import contextlib
import math
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from arianna.corpus.conversations import ASSISTANT, USER, join_lines, prompt, render
from arianna.side_by_side import beside, markdown
from arianna.system import config
from arianna.system.files import write_atomic
from tokenizer import BOS, EOS, Tokenizer

if TYPE_CHECKING:  # torch takes seconds; a wrong argument is told before
    from model import Transformer

HALF_A_CHARACTER = "\ufffd"  # what bytes decode to that are no character, or not yet
CONTROL = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)])  # all but tab and new line: a terminal would obey them
NEXT_QUESTION = re.compile(rf"\n[^\S\n]*({USER}|{USER[0]}?\Z)")  # begun or, at the text's end, perhaps begun
ROWS_AT_A_TIME = 32  # of texts that are not shown as they come


@dataclass(frozen=True)
class SampleConfig:
    """Which model writes, from what on, and how its tokens are drawn."""

    checkpoint: str = "out/ckpt_ft.pt"  # the model: a checkpoint (.pt) or a llama2.c .bin
    compare: str | None = None  # a second model, whose texts stand beside the first one's: same prompts, same seed
    tokenizer: str = "data/tok4096.model"  # the tokenizer that the model was trained with
    start: tuple[str, ...] = ()  # text to go on from; \n is a new line; behind a question comes "A:"; may be given several times
    question: tuple[str, ...] = ()  # question to answer: --start with the template of the conversations; may be given several times
    prompts_file: str | None = None  # a file with one --start a line
    chat: bool = False  # a conversation at the terminal
    out: str | None = None  # write all texts here, as Markdown (.md)
    num_samples: int = 1  # texts from each prompt
    max_new_tokens: int = 200  # most tokens of a text
    temperature: float = 0.8  # 0: always the likeliest token
    top_k: int = 300  # draw from so many of the likeliest tokens; 0: from all
    top_p: float = 0.9  # and of these from the fewest that have this probability together
    seed: int = 1337  # the same seed gives the same text
    device: str = "auto"  # auto: cuda if there is one, else cpu
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the weights

    def __post_init__(self) -> None:
        for name, least in (("num_samples", 1), ("max_new_tokens", 1), ("top_k", 0), ("seed", 0)):
            if not least <= getattr(self, name) < 1 << 62:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}; it must be 0 or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        beside_chat = [name for name in ("compare", "start", "question", "prompts_file", "out") if getattr(self, name)]
        if self.chat and beside_chat:
            raise ValueError(f"--{beside_chat[0]} does not go with --chat, where you type the questions; leave one of them out")
        if self.out is not None and Path(self.out).suffix != ".md":
            raise ValueError(f"{self.out} should end in .md, since --out writes Markdown")
        for name in ("checkpoint", "compare", "tokenizer", "prompts_file"):
            given = getattr(self, name)
            if self.out is not None and given is not None and Path(given).resolve() == Path(self.out).resolve():
                raise ValueError(f"--out={self.out} would overwrite --{name}; give another name")

    @property
    def models(self) -> list[str]:
        return [name for name in (self.checkpoint, self.compare) if name is not None]


def main(argv: list[str] | None = None) -> int:
    cfg = config.parse(SampleConfig, argv, __doc__)
    for stream in (sys.stdin, sys.stdout):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # what a terminal or pipe cannot spell is no reason to stop
    try:
        code = run(cfg)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print()
        return 130
    except BrokenPipeError:  # the reader (`| head`) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def run(cfg: SampleConfig) -> int:
    """Check all that was given, what is quick first; then write. Raises UsageError for what is wrong, before any work."""
    try:
        texts = [] if cfg.chat else prompts(cfg)
        tokenizer = Tokenizer(cfg.tokenizer)
        encoded = [[BOS, *encode(text, tokenizer)] for text in texts]
        check_files(cfg)
        models = [open_model(name, tokenizer, cfg) for name in cfg.models]
        for name, model in zip(cfg.models, models, strict=True):
            check_room(texts, encoded, name, model)
    except (OSError, ValueError) as error:
        raise config.UsageError(str(error)) from None
    if cfg.chat:
        return chat(models[0], tokenizer, cfg)
    if cfg.compare or cfg.out:
        return compare(models, tokenizer, texts, encoded, cfg)
    return write(models[0], tokenizer, texts, encoded, cfg)


# ---- what was given ----


def prompts(cfg: SampleConfig) -> list[str]:
    """All texts to go on from; without any, one that is empty. Raises ValueError for what holds none."""
    if not all(question.strip() for question in cfg.question):
        raise ValueError("--question is empty; give a question")
    starts = [asking(unescape(text)) for text in cfg.start]
    questions = [prompt(join_lines(question.strip())[0]) for question in cfg.question]
    return [*starts, *questions, *(read_prompts(Path(cfg.prompts_file)) if cfg.prompts_file else [])] or [""]


def unescape(text: str) -> str:
    r"""A shell passes "\n" on as two characters."""
    return text.replace("\\n", "\n")


def asking(text: str) -> str:
    """A text that ends in a question, with the "A:" that a model waits for: it is trained on what comes behind that alone."""
    asked = text.rstrip()
    return f"{asked}\n{ASSISTANT}" if asked.rpartition("\n")[2].startswith(f"{USER} ") else text


def read_prompts(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"{path} is missing; a file with one prompt a line is needed there.")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8.") from None
    found = [asking(unescape(line.removesuffix("\r"))) for line in lines if line.strip()]
    if not found:
        raise ValueError(f"{path} is empty; it needs at least one prompt, one a line.")
    return found


def encode(text: str, tokenizer: Tokenizer) -> list[int]:
    """The tokens of what a person gave."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the prompt {quoted(text)} is not UTF-8 text (character {error.start + 1}); type it anew.") from None
    return tokenizer.encode(text)


def check_files(cfg: SampleConfig) -> None:
    """Raise ValueError for a file that is not there, before torch is imported."""
    for name in cfg.models:
        if not Path(name).is_file():
            raise ValueError(f"{name} is missing; give a checkpoint (.pt) or a llama2.c .bin. `python arianna_ft.py` makes both.")
    if cfg.out is not None and not Path(cfg.out).parent.is_dir():
        raise ValueError(f"{Path(cfg.out).parent} is no folder, so --out={cfg.out} cannot be written; make it first.")


def open_model(name: str, tokenizer: Tokenizer, cfg: SampleConfig) -> Transformer:
    import torch

    from arianna import formats
    from arianna.training import devices

    model = formats.open_model(name)
    tokenizer.check_fits(model.args.vocab_size, name)
    devices.steady_threads()
    for p in model.parameters():
        p.data = p.data.to(getattr(torch, cfg.dtype))  # not model.to: the angles of the positions stay exact
    return model.to(devices.pick_device(cfg.device)).eval()


def check_room(texts: Sequence[str], encoded: Sequence[list[int]], name: str, model: Transformer) -> None:
    """Raise ValueError for a prompt behind which the model's context has no place left."""
    most = model.args.max_seq_len - 1
    for text, ids in zip(texts, encoded, strict=True):
        if len(ids) > most:
            raise ValueError(
                f"the prompt {quoted(text)} has {len(ids)} tokens; {name} has a context of {most + 1} and needs one of them "
                "to answer. Shorten it."
            )


def quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


# ---- text as it comes ----


def sampling(cfg: SampleConfig, number: int = 0) -> dict[str, float]:
    """How tokens are drawn for the text of that number."""
    return {"temperature": cfg.temperature, "top_k": cfg.top_k, "top_p": cfg.top_p, "seed": cfg.seed + number}


class Continuation:
    """What a model adds to a prompt: iterate for its text, a piece a token, none of which ends within a character."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, ids: Sequence[int], cfg: SampleConfig, number: int = 0):
        self.model, self.tokenizer, self.ids = model, tokenizer, list(ids)
        from arianna.generate import stream

        self.tokens = stream(model, [ids], cfg.max_new_tokens, **sampling(cfg, number))

    def __iter__(self) -> Iterator[str]:
        whole = shown = self.tokenizer.decode(self.ids)
        for (token,) in self.tokens:
            if token in (BOS, EOS):
                break
            self.ids.append(token)
            whole = self.tokenizer.decode(self.ids)  # of all: a token's own text depends on what stands before it
            if not whole.endswith(HALF_A_CHARACTER):
                yield whole[len(shown) :]
                shown = whole
        yield whole[len(shown) :]

    def tell_if_full(self) -> None:
        """Say on stderr that the context's end has cut the text off, if it has."""
        if len(self.ids) == self.model.args.max_seq_len:
            note(f"the context of {len(self.ids)} tokens is full")


def until_next_question(parts: Iterable[str]) -> Iterator[str]:
    """The parts of a text before a line that begins with "Q:", which a model writes that has not learned to stop."""
    text, shown = "", 0
    for part in parts:
        text += part
        found = NEXT_QUESTION.search(text, shown)
        end = found.start() if found else len(text)
        yield text[shown:end]
        shown = end
        if found and found[1] == USER:
            return
    yield text[shown:]


def visible(text: str) -> str:
    """A text without the control characters that a model may spell in bytes."""
    return text.translate(CONTROL)


def say(text: str) -> None:
    print(visible(text), end="", flush=True)


def note(text: str) -> None:
    sys.stdout.flush()
    print(f"({text})", file=sys.stderr, flush=True)


def write(model: Transformer, tokenizer: Tokenizer, texts: Sequence[str], encoded: Sequence[list[int]], cfg: SampleConfig) -> int:
    """Each prompt and what follows it, as it comes."""
    for i, (text, ids) in enumerate(zip(texts, encoded, strict=True)):
        for number in range(cfg.num_samples):
            say("\n---\n\n" if i or number else "")
            say(text)
            added = Continuation(model, tokenizer, ids, cfg, number)
            for piece in added:
                say(piece)
            print()
            added.tell_if_full()
    return 0


# ---- side by side ----


def compare(models: Sequence[Transformer], tokenizer: Tokenizer, texts: Sequence[str], encoded: list[list[int]], cfg: SampleConfig) -> int:
    """What the models (one or two) add to each prompt, beside each other on the terminal, and as Markdown in --out."""
    numbers = [f"\n({n + 1} of {cfg.num_samples})" if cfg.num_samples > 1 else "" for n in range(cfg.num_samples)]
    headings = [visible(text + number) for text in texts for number in numbers]
    repeated = [ids for ids in encoded for _ in range(cfg.num_samples)]
    columns = [complete(model, tokenizer, repeated, cfg) for model in models]
    pairs = [(heading, list(map(visible, cells))) for heading, *cells in zip(headings, *columns, strict=True)]
    width = shutil.get_terminal_size().columns
    print("\n\n".join(beside(heading, cfg.models, cells, width) for heading, cells in pairs))
    if cfg.out is not None:
        drawn = ", ".join(f"{name} {value}" for name, value in sampling(cfg).items()) + f", at most {cfg.max_new_tokens} new tokens"
        try:
            write_atomic(cfg.out, markdown(pairs, cfg.models, drawn).encode())
        except OSError as error:
            print(error, file=sys.stderr)
            return 1
        print(f"\nwrote {cfg.out}")
    return 0


def complete(model: Transformer, tokenizer: Tokenizer, encoded: Sequence[list[int]], cfg: SampleConfig) -> list[str]:
    """What the model adds to each prompt, many at a time. Says on stderr how many texts the context's end cut off."""
    from arianna.generate import generate

    added: list[str] = []
    full = 0
    for number, first in enumerate(range(0, len(encoded), ROWS_AT_A_TIME)):
        rows = encoded[first : first + ROWS_AT_A_TIME]
        for row, ids in zip(rows, generate(model, rows, cfg.max_new_tokens, (BOS, EOS), **sampling(cfg, number)), strict=True):
            added.append(tokenizer.decode([*row, *ids])[len(tokenizer.decode(row)) :])
            full += len(row) + len(ids) == model.args.max_seq_len
    if full:
        note(f"{full} of {len(added)} texts filled the context of {model.args.max_seq_len} tokens")
    return added


# ---- chat ----


def chat(model: Transformer, tokenizer: Tokenizer, cfg: SampleConfig) -> int:
    """Questions from the terminal or a pipe, each answered in the sight of the turns before it."""
    interactive = sys.stdin.isatty()
    if interactive:
        with contextlib.suppress(ImportError):  # Windows has none
            import readline  # noqa: F401  input() then knows the arrow keys and earlier lines
        print("Ask something. /reset begins anew, /quit leaves, Ctrl-C stops an answer.")
    turns: list[Turn] = []
    asked = 0
    while (line := ask(interactive)) not in (None, "/quit"):
        if line == "/reset":
            turns, asked = [], 0
        elif line.startswith("/"):
            note(f"{line.split()[0]} is not known here; there are /reset and /quit")
        elif line:
            turns = reply(model, tokenizer, turns, line, cfg, asked)
            asked += 1
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
    """What stands on the line that is being typed."""
    readline = sys.modules.get("readline")
    return readline.get_line_buffer() if readline else ""


Turn = list[int]  # tokens, with the BOS at its end


def reply(model: Transformer, tokenizer: Tokenizer, turns: list[Turn], question: str, cfg: SampleConfig, number: int) -> list[Turn]:
    """Answer a question, and give back the turns that were in sight with this one behind them. Ctrl-C ends the answer where it is."""
    context, asked = model.args.max_seq_len, encode(prompt(join_lines(question)[0]), tokenizer)
    if len(asked) + 2 > context:
        note(f"the question has {len(asked)} tokens, too many for a context of {context}; ask a shorter one")
        return turns
    turns = fitting(turns, context - len(asked) - min(cfg.max_new_tokens, context // 2))
    added, answer = Continuation(model, tokenizer, [BOS, *chain(*turns), *asked], cfg, number), ""
    with contextlib.suppress(KeyboardInterrupt):
        for piece in until_next_question(added):
            say(piece if answer else piece.lstrip())
            answer = (answer + piece).lstrip()
    print()
    added.tell_if_full()
    answer = join_lines(answer.rstrip())[0]
    return [*turns, [*tokenizer.encode(render(question, answer)), BOS]] if answer else turns


def fitting(turns: list[Turn], room: int) -> list[Turn]:
    """The latest turns that have at most `room` tokens with a BOS before them."""
    first = 0
    while first < len(turns) and 1 + sum(map(len, turns[first:])) > room:
        first += 1
    return turns[first:]


if __name__ == "__main__":
    config.run_main(main)
