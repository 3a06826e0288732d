"""Two models' answers without names, for a reader to choose from: `python sample.py --blind`.

Each choice is a line of preferences.jsonl in the run's folder. It is added at once and no line is ever
changed, so that Ctrl-C loses nothing; the report tells the sum.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arianna import ROOT
from arianna.chat import Reader, Sampling, complete, until_next_question
from arianna.corpus.template import join_lines, prompt
from arianna.scoring import preferences
from arianna.system import config
from arianna.system.config import UsageError, usage_errors
from arianna.system.files import append, json_object, sync
from arianna.system.terminal import beside, note, one_key
from arianna.system.visible import visible
from tokenizer import BOS, Tokenizer

if TYPE_CHECKING:
    from model import Transformer

MOST = 20  # questions
EVERYDAY = ROOT / "data/everyday_questions.txt"
SHIPPED_BASE = "out/ckpt_v1_base.pt"
KEYS = "1, 2, or = where neither is better (q ends): "

Opened = tuple[Tokenizer, Sequence["Transformer"]]


@dataclass(frozen=True)
class Pair:
    """A question and the two models' answers."""

    question: str
    tuned: str
    base: str


def run(
    tuned: str, base: str | None, open_models: Callable[[Sequence[str]], Opened], sampling: Sampling
) -> int:
    """Ask up to MOST questions, store each choice, and print how often the tuned model was preferred.

    `base`: by default the one that the run names, else the shipped one.
    """
    folder = folder_of(Path(tuned))
    base = base or base_of(folder)
    with usage_errors(OSError, ValueError):
        tokenizer, models = open_models([tuned, base])
    path = folder / "preferences.jsonl"
    asked = questions(folder)
    note(f"{tuned} and {base} answer {len(asked)} questions; this takes some seconds")
    new = pairs_to_judge(answer(models, tokenizer, asked, sampling), path)
    about = {"seed": sampling.seed, "best_of": sampling.best_of, "tuned_file": tuned, "base_file": base}
    try:
        code = judge(new, path, about, random.Random())
    except OSError as error:
        raise SystemExit(config.in_words(error)) from None  # exit code 1: the machine failed
    choices = preferences.summary(path)
    print(f"\n{preferences.sentence(choices)} Kept in {path}." if choices else "\nNothing was chosen.")
    return code


# ---- the questions ----


def folder_of(checkpoint: Path) -> Path:
    """The folder of the run that made a checkpoint: the checkpoint's own, or ft in it."""
    return checkpoint.parent if (checkpoint.parent / "job.json").is_file() else checkpoint.parent / "ft"


def base_of(folder: Path) -> str:
    """The base that a run's job.json names, if it is there; else the shipped one."""
    paths = (json_object(folder / "job.json") or {}).get("paths")
    base = paths.get("base") if isinstance(paths, dict) else None
    return base if isinstance(base, str) and Path(base).exists() else SHIPPED_BASE


def questions(folder: Path) -> list[str]:
    """Held-out questions of the run's report, then everyday ones, at most MOST, or a UsageError."""
    try:
        samples = json_object(folder / "report.json")["scores"]["tuned"]["samples"]
        held_out = [sample["question"] for sample in samples if sample.get("held_out")]
    except (KeyError, TypeError, AttributeError):  # no report yet, or one of another make
        held_out = []
    everyday = EVERYDAY.read_text(encoding="utf-8").splitlines() if EVERYDAY.is_file() else []
    texts = (text.strip() for text in (*held_out, *everyday) if isinstance(text, str))
    asked = list(dict.fromkeys(join_lines(text)[0] for text in texts if text))[:MOST]
    if not asked:
        raise UsageError(
            f"there is nothing to ask: {folder / 'report.json'} has no questions, and {EVERYDAY} is missing."
        )
    return asked


def answer(
    models: Sequence[Transformer], tokenizer: Tokenizer, asked: Sequence[str], sampling: Sampling
) -> list[Pair]:
    """The answers of the tuned model and the base; questions that fill half of a context are left out."""
    reader, room = Reader(tokenizer), min(model.args.max_seq_len for model in models) // 2
    encoded = {question: [BOS, *reader.encode(prompt(reader.plain(question)))] for question in asked}
    encoded = {question: ids for question, ids in encoded.items() if len(ids) <= room}
    texts = [complete(model, tokenizer, list(encoded.values()), sampling) for model in models]
    cut = [["".join(until_next_question([text])).strip() for text in side] for side in texts]
    return [Pair(question, *both) for question, *both in zip(encoded, *cut, strict=True)]


def pairs_to_judge(pairs: Sequence[Pair], path: Path) -> list[Pair]:
    """Pairs whose answers differ and have not been judged before. Raises UsageError where none is left."""
    judged = set(judged_before(path))
    new = [pair for pair in pairs if pair.tuned != pair.base and pair not in judged]
    if not new:
        raise UsageError(
            f"all answers have been judged ({path}) or are the same; another --seed gives others."
        )
    return new


def judged_before(path: Path) -> Iterator[Pair]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            choice = json.loads(line)
            yield Pair(choice["question"], choice["tuned"], choice["base"])
        except (ValueError, KeyError, TypeError):  # a line that was cut off
            continue


# ---- the choices ----


def judge(pairs: Sequence[Pair], path: Path, about: dict[str, Any], coin: random.Random) -> int:
    """Show each pair in an order that the coin gives and store the choice. 130 if Ctrl-C ended it, else 0."""
    for number, pair in enumerate(pairs, 1):
        sides = ["tuned", "base"]
        coin.shuffle(sides)
        texts = [visible(getattr(pair, side)) for side in sides]
        heading = f"{number} of {len(pairs)}\n\n{visible(pair.question)}"
        print("\n" + beside(heading, ["1", "2"], texts, shutil.get_terminal_size().columns) + "\n")
        try:
            key = chosen()
        except KeyboardInterrupt:
            print()
            return 130
        if key not in ("1", "2", "="):
            return 0
        preferred = "equal" if key == "=" else sides[int(key) - 1]
        choice = {**vars(pair), "preferred": preferred, **about}
        keep(choice | {"time": datetime.now(UTC).isoformat(timespec="seconds")}, path)
    return 0


def chosen() -> str:
    """The reader's key: 1, 2 or =, or "" if the reader leaves."""
    while True:
        key = one_key(KEYS)
        if key in ("", "q", "Q"):
            return ""
        if key in ("1", "2", "="):
            return key


def keep(choice: dict[str, Any], path: Path) -> None:
    """Add a choice to the file, on the disk for good. A failed write raises OSError naming the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b", buffering=0) as file:
        if file.tell() and not ends_in_new_line(file):  # a line that was cut off stays by itself
            append(file, "")
        append(file, json.dumps(choice))
        sync(file)


def ends_in_new_line(file: Any) -> bool:
    file.seek(-1, 2)
    return file.read(1) == b"\n"
