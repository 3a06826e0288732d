"""Let a model write: go on from prompts, answer questions, set two models side by side, or talk.

    python sample.py --checkpoint=out/ckpt_ft.pt --start="Q: What is consciousness?" --max_new_tokens=200
    python sample.py "What is time?"         # the same as --question="What is time?": the likeliest of 64
    python sample.py --compare=out/ckpt_v1_base.pt --prompts_file=prompts.txt --out=answers.md
    python sample.py --chat                  # at the terminal; /reset, /quit; Ctrl-C stops an answer
    python sample.py --web                   # in the browser, for this machine alone
    python sample.py --blind                 # which of base and tuned answers better? Names at the end

A model is a checkpoint (.pt), a llama2.c .bin, a .gguf or a Hugging Face folder. Text ends where the model
says so (BOS or EOS), after --max_new_tokens, or where the model's context ends.
"""

from __future__ import annotations

if __name__ == "__main__":  # before torch is imported: its threads read these variables when they start
    from arianna.system import environment

    environment.prepare()

import dataclasses
import math
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from arianna import formats
from arianna.chat import Chat, Continuation, Reader, Sampling, chooses, complete, converse
from arianna.corpus.cleaning import shown
from arianna.corpus.template import ASSISTANT, USER, join_lines, prompt
from arianna.scoring import blind
from arianna.system import config
from arianna.system.files import check_outputs, write_atomic
from arianna.system.setting import is_decision
from arianna.system.terminal import beside, say
from arianna.system.visible import visible
from tokenizer import BOS, Tokenizer

if TYPE_CHECKING:  # torch takes seconds; a wrong argument is told before
    from model import Transformer

MOST_DRAWN = 256  # answers to a question, side by side in memory
TALKS = ("chat", "web", "blind")  # a person asks or judges: no prompts are given


@dataclass(frozen=True)
class SampleConfig:
    """Which model writes, from what on, and how its tokens are drawn."""

    checkpoint: str = "out/ckpt_ft.pt"  # the model: a .pt, a llama2.c .bin, a .gguf or a Hugging Face folder
    compare: str | None = None  # a second model: its texts for the same prompts and seed stand beside
    tokenizer: str | None = None  # by default the model's own, else data/tok4096.model
    start: tuple[str, ...] = ()  # text to go on from, \n for a new line; "A:" follows a question; any number
    question: tuple[str, ...] = ()  # a question to answer, in the template of the conversations; any number
    system: str | None = None  # system text ahead of each --question, or of a --chat
    prompts_file: str | None = None  # a file with one --start a line
    chat: bool = False  # a conversation at the terminal
    web: bool = False  # a conversation in the browser; only this machine can reach it
    blind: bool = False  # up to twenty questions: you say which answer is better, without knowing whose it is
    out: str | None = None  # write all texts here, as Markdown (.md)
    force: bool = False  # replace what is there
    num_samples: int = 1  # texts from each prompt
    max_new_tokens: int = 200  # most tokens of a text
    temperature: float | None = None  # 0: the likeliest tokens; by default 0.7, where one answer is drawn 0.5
    top_k: int = 300  # draw from so many of the likeliest tokens; 0: from all
    top_p: float = 0.9  # and of these from the fewest that have this probability together
    seed: int = 1337  # the same seed gives the same text
    best_of: int = 64  # answers drawn to a question; the likeliest is given. 1: the first, as it comes
    device: str = "auto"  # auto: cuda if there is one, else cpu
    dtype: Literal["float32", "bfloat16"] = "float32"  # number format of the weights

    def __post_init__(self) -> None:
        for name, least in (("num_samples", 1), ("max_new_tokens", 1), ("top_k", 0), ("seed", 0)):
            if not least <= getattr(self, name) < 1 << 62:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it must be from {least} to {(1 << 62) - 1}"
                )
        if not 1 <= self.best_of <= MOST_DRAWN:
            raise ValueError(f"best_of is {self.best_of}; it must be from 1 to {MOST_DRAWN}")
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}; it must be 0 or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.out is not None and Path(self.out).suffix != ".md":
            raise ValueError(f"{self.out} should end in .md, since --out writes Markdown")
        self.check_together()

    def check_together(self) -> None:
        """Raise ValueError for flags of which one would not be used."""
        flags = [name for name in (*TALKS, "start", "question", "prompts_file", "out") if getattr(self, name)]
        talk, *others = flags if flags and flags[0] in TALKS else [None]
        others += ["compare"] * bool(self.chat and self.compare) + ["num_samples"] * (self.num_samples > 1)
        if talk and others:
            raise ValueError(f"--{others[0]} does not go with --{talk}; leave one of them out")
        if self.force and self.out is None:
            raise ValueError("--force lets --out replace a file; give --out, or leave --force out")
        if self.system is not None and not (self.chat or self.question):
            raise ValueError("--system stands ahead of a --question or of a --chat; give one of them")

    @property
    def models(self) -> list[str]:
        return [name for name in (self.checkpoint, self.compare) if name is not None]

    @property
    def sampling(self) -> Sampling:
        settings = self.temperature, self.top_k, self.top_p, self.seed, self.best_of
        return Sampling(self.max_new_tokens, *settings)


def main(argv: list[str] | None = None) -> int:
    cfg = config.parse(SampleConfig, bare_words_are_questions(argv), __doc__)
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")  # a byte that is not UTF-8 is no reason to stop
    try:
        return run(cfg)
    except KeyboardInterrupt:
        print()
        return 130


def bare_words_are_questions(argv: list[str] | None) -> list[str]:
    """A command line in which words that are neither flags nor values of flags become --questions.

    Words behind one another are one question, as in `sample.py What is time`, up to one that ends a sentence.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    alone = {f"--{field.name}" for field in dataclasses.fields(SampleConfig) if field.default is False}
    line: list[str] = []
    last, open_question = "", False
    for word in words:
        # "--seed 3": 3 belongs to the flag before it, which has no "=" of its own
        bare = not word.startswith("-") and (
            not re.match("--[^=]+$", last) or (last in alone and not is_decision(word))
        )
        if bare and open_question and " " not in word:
            line[-1] += f" {word}"
        else:
            line.append(f"--question={word}" if bare else word)
        open_question = bare and " " not in word and word[-1:] not in (".", "?", "!")
        last = word
    return line


def run(cfg: SampleConfig) -> int:
    """Check all inputs, the quick ones first; then write. Raises UsageError for what is wrong."""
    if cfg.blind:
        return blind.run(cfg.checkpoint, cfg.compare, lambda names: opened(names, cfg), cfg.sampling)
    with config.usage_errors(OSError, ValueError):
        inputs = [*cfg.models, cfg.tokenizer, cfg.prompts_file]
        check_outputs([cfg.out] if cfg.out is not None else [], inputs, cfg.force)
        texts = [] if cfg.chat or cfg.web else prompts(cfg)
        tokenizer, models = opened(cfg.models, cfg)
        reader = Reader(tokenizer)
        texts = [reader.plain(text) for text in texts]
        encoded = [[BOS, *reader.encode(text)] for text in texts]
        for name, model in zip(cfg.models, models, strict=True):
            check_room(texts, encoded, name, model)
        if cfg.web:
            from arianna import web

            return web.talk(models, [Path(name).stem for name in cfg.models], tokenizer)
        if cfg.chat:
            talk = Chat(models[0], tokenizer, cfg.sampling, cfg.system or "")
    if cfg.chat:
        return converse(talk)
    if cfg.compare or cfg.out:
        return write_columns(models, tokenizer, texts, encoded, cfg)
    return write(models[0], tokenizer, texts, encoded, cfg)


# ---- inputs ----


def prompts(cfg: SampleConfig) -> list[str]:
    """All texts to go on from, an empty one if there are none. Raises ValueError for an empty input."""
    if not all(question.strip() for question in cfg.question):
        raise ValueError("--question is empty; give a question")
    starts = [asking(unescape(text)) for text in cfg.start]
    system = join_lines((cfg.system or "").strip())[0]
    questions = [prompt(join_lines(question.strip())[0], system) for question in cfg.question]
    return [*starts, *questions, *(read_prompts(Path(cfg.prompts_file)) if cfg.prompts_file else [])] or [""]


def unescape(text: str) -> str:
    r"""A text in which "\n", two characters as a shell passes them on, is a new line."""
    return text.replace("\\n", "\n")


def asking(text: str) -> str:
    """A text with "A:" behind it if it ends in a question: a model is trained on what follows that."""
    asked = text.rstrip()
    return f"{asked}\n{ASSISTANT}" if asked.rpartition("\n")[2].startswith(f"{USER} ") else text


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file, one a line. Raises ValueError for a file that holds none."""
    if not path.is_file():
        what = "a folder" if path.is_dir() else "missing"
        raise ValueError(f"{path} is {what}; a file with one prompt a line is needed there.")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8.") from None
    texts = [asking(unescape(line.removesuffix("\r"))) for line in lines if line.strip()]
    if not texts:
        raise ValueError(f"{path} is empty; it needs at least one prompt, one a line.")
    return texts


def opened(names: Sequence[str], cfg: SampleConfig) -> tuple[Tokenizer, list[Transformer]]:
    """The models of the given files and the tokenizer that they were trained with.

    Raises ValueError or OSError for what is missing, damaged or does not fit together. Torch is imported
    only once the files are known to be there.
    """
    check_files(names, cfg)
    tokenizer = formats.open_tokenizer(names[0], cfg.tokenizer)
    for name in names[1:]:
        formats.check_tokenizer(name, tokenizer)
    return tokenizer, [opened_model(name, tokenizer, cfg) for name in names]


def check_files(names: Sequence[str], cfg: SampleConfig) -> None:
    """Raise ValueError for a file that is not there."""
    for name in names:
        if not Path(name).exists():
            raise ValueError(
                f"{name} is missing; give a checkpoint (.pt), a llama2.c .bin, a .gguf or a Hugging Face "
                "folder. `python arianna_ft.py` makes a checkpoint and a .bin."
            )
    if cfg.tokenizer is not None:
        Tokenizer(cfg.tokenizer)
    if cfg.out is not None and not Path(cfg.out).parent.is_dir():
        raise ValueError(
            f"{Path(cfg.out).parent} is no folder, so --out={cfg.out} cannot be written; make it first."
        )


def opened_model(name: str, tokenizer: Tokenizer, cfg: SampleConfig) -> Transformer:
    from arianna.training import devices  # imports torch

    model = formats.open_model(name)
    tokenizer.check_fits(model.args.vocab_size, name)
    devices.steady_threads()
    precision = devices.pick_precision(cfg.device, cfg.dtype)
    for p in model.parameters():
        p.data = p.data.to(precision.dtype)  # not model.to: the angles of the positions stay exact
    return model.to(precision.device).eval()


def check_room(texts: Sequence[str], encoded: Sequence[list[int]], name: str, model: Transformer) -> None:
    """Raise ValueError for a prompt behind which the model's context has no place left."""
    most = model.args.max_seq_len - 1
    for text, ids in zip(texts, encoded, strict=True):
        if len(ids) > most:
            raise ValueError(
                f"the prompt {shown(text)} has {len(ids)} tokens; {name} has a context of {most + 1} and "
                "needs one of them to answer. Shorten it."
            )


# ---- texts ----


def write(
    model: Transformer,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    encoded: Sequence[list[int]],
    cfg: SampleConfig,
) -> int:
    """Print each prompt and what follows it, as it comes."""
    for i, (text, ids) in enumerate(zip(texts, encoded, strict=True)):
        for number in range(cfg.num_samples):
            say("\n---\n\n" if i or number else "")
            say(text)
            added = Continuation(model, tokenizer, ids, cfg.sampling, number)
            for piece in added:
                say(piece)
            print()
            added.tell_if_full()
    return 0


def write_columns(
    models: Sequence[Transformer],
    tokenizer: Tokenizer,
    texts: Sequence[str],
    encoded: Sequence[list[int]],
    cfg: SampleConfig,
) -> int:
    """Print what one or two models add to each prompt, in columns; write it to --out as Markdown."""
    several = cfg.num_samples > 1
    numbers = [f"\n({n + 1} of {cfg.num_samples})" if several else "" for n in range(cfg.num_samples)]
    headings = [visible(text + number) for text in texts for number in numbers]
    repeated = [ids for ids in encoded for _ in range(cfg.num_samples)]
    columns = [complete(model, tokenizer, repeated, cfg.sampling) for model in models]
    rows = [(heading, list(map(visible, cells))) for heading, *cells in zip(headings, *columns, strict=True)]
    width = shutil.get_terminal_size().columns
    print("\n\n".join(beside(heading, cfg.models, cells, width) for heading, cells in rows))
    if cfg.out is not None:
        several = any(chooses(cfg.sampling, tokenizer, ids) for ids in encoded)
        settings = cfg.sampling.settings(several=several) | ({"best_of": cfg.best_of} if several else {})
        drawn = ", ".join(f"{name} {value}" for name, value in settings.items())
        page = markdown(rows, cfg.models, f"{drawn}, at most {cfg.max_new_tokens} new tokens")
        try:
            write_atomic(cfg.out, page.encode())
        except OSError as error:
            print(config.in_words(error), file=sys.stderr)
            return 1
        print(f"\nwrote {cfg.out}")
    return 0


def markdown(rows: Sequence[tuple[str, Sequence[str]]], names: Sequence[str], drawn: str) -> str:
    """A table for each prompt with a column for each model. `drawn` says how the texts were sampled."""
    lines = [f"# {' and '.join(map(literal, names))}", "", literal(drawn)]
    for heading, cells in rows:
        lines += ["", f"## {literal(' '.join(heading.split())) or '(no prompt)'}", ""]
        table = (map(literal, names), ["---"] * len(cells), map(literal, cells))
        lines += [f"| {' | '.join(row)} |" for row in table]
    return "\n".join(lines) + "\n"


def literal(text: str) -> str:
    """A text so that Markdown shows it as it is, HTML in it included."""
    return re.sub(r"([\\`*_\[\]<>|#~&$])", r"\\\1", text.strip()).replace("\n", "<br>")


if __name__ == "__main__":
    config.run_main(main)
