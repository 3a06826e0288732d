"""The defaults of a fine-tune, found by experiment on the shipped base and Arianna's conversations.

    python -m bench.defaults screen     # every recipe on one fold, mostly 300 iterations
    python -m bench.defaults short      # higher rates and fewer iterations, with replay, over three folds
    python -m bench.defaults finals     # the finalists over five folds and three seeds, in full
    python -m bench.defaults formats    # the two presets over five folds in each number format
    python -m bench.defaults contrast   # the preset over five folds with the question contrast
    python -m bench.defaults table      # docs/defaults.md from what there is so far

A run that is done is a line in bench/defaults.jsonl and is not repeated; stop it at any time. Started several
times at once, each takes runs that no other has: one for each core, with OMP_NUM_THREADS=1, is fastest. With
a folder of token shards that the base was trained on (`--library=data/tok_books`, made by `arianna_data.py
pretokenize`), forgetting is measured on their held-out part as well.
"""

from __future__ import annotations

if __name__ == "__main__":
    from arianna.system import environment

    environment.restart_with_environment()

import argparse
import contextlib
import functools
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch

import train_arianna
from arianna import formats
from arianna.corpus import encoding
from arianna.corpus.conversations import Conversation
from arianna.corpus.prepare import read_conversations
from arianna.corpus.split import split_sides
from arianna.scoring import base_text, choose
from arianna.scoring.listening import listening
from arianna.searching.folds import fold_of
from arianna.system.files import sha256, write_missing
from arianna.training.devices import pick_device
from arianna.training.settings import PRESETS, TrainConfig
from arianna_data import Rows
from bench.defaults_page import write_page
from model import ModelArgs
from tokenizer import Tokenizer

BASE, TALK = "out/ckpt_v1_base.pt", "data/arianna_conversations.jsonl"
TOKENIZER, PROSE = "data/tok4096.model", "data/arianna_corpus.txt"
RESULTS = Path("bench/defaults.jsonl")
KINDS = ("screen", "short", "finals", "formats", "contrast")
FOLDS, SEEDS, BUDGET = 5, (1337, 1338, 1339), 0.10
LIBRARY_ROWS = 48  # rows of the held-out library, evenly spread
FAST = {"dtype": "bfloat16"}  # half as fast again; what it changes, the first two recipes show
BEFORE = {"template": "trained"}  # "Q:" and "A:" were trained as well, as all recipes but the finals still do
SCREEN: dict[str, dict[str, Any]] = {
    "as asked: 1e-5": {},
    "the same in float32": {"dtype": "float32"},
    "answers alone": {"loss_on": "answers"},
    "4 rows a step": {"batch_size": 4},
    "16 rows a step": {"batch_size": 16},
    "no warm-up": {"warmup_ratio": 0.0},
    "warm-up 20%": {"warmup_ratio": 0.2},
    "no weight decay": {"weight_decay": 0.0},
    "rate falls in a line": {"schedule": "line"},
    "rate stays at its peak": {"schedule": "peak"},
    "long conversations cut at 256 tokens": {"windows": "cut"},
    "replay 1/4": {"replay": 0.25},
    "replay 1/2": {"replay": 0.5},
    "replay 1/4, 1000 iterations": {"replay": 0.25, "max_iters": 1000, "eval_interval": 100},
    "3e-5": {"learning_rate": 3e-5},
    "1e-4": {"learning_rate": 1e-4},
    "1e-4, answers alone": {"learning_rate": 1e-4, "loss_on": "answers"},
    "1e-4, answers alone, replay 1/2": {"learning_rate": 1e-4, "loss_on": "answers", "replay": 0.5},
    "1e-4, answers alone, replay 1/4": {"learning_rate": 1e-4, "loss_on": "answers", "replay": 0.25},
    "1e-4, replay 1/2": {"learning_rate": 1e-4, "replay": 0.5},
    "3e-4, answers alone, replay 1/2": {"learning_rate": 3e-4, "loss_on": "answers", "replay": 0.5},
}
SHORT: dict[str, dict[str, Any]] = {  # half of the rows replayed
    f"{rate:.0e}, {iters} iterations, {rows} rows, {loss_on}".replace("e-0", "e-"): {
        **{"learning_rate": rate, "max_iters": iters, "batch_size": rows, "loss_on": loss_on},
        **{"replay": 0.5, "eval_interval": iters // 10},
    }
    for rate, iterations, sizes in [
        *((rate, (50, 100, 200), (8, 16)) for rate in (1e-4, 2e-4, 4e-4)),
        *[(4e-4, (50,), (32,)), (8e-4, (50, 100), (16,))],
    ]
    for iters in iterations
    for rows in sizes
    for loss_on in ("all", "answers")
}
FINALS: dict[str, dict[str, Any]] = {"the default": {"max_iters": 1000, "eval_interval": 100}}
FINALS |= {"--preset=best": PRESETS["best"]}
FINALS |= {f"{name}, Q: and A: trained": settings | BEFORE for name, settings in FINALS.items()}
FORMATS = {
    f"{name}, {dtype}": {**FINALS[name], "dtype": dtype}
    for name in ("the default", "--preset=best")
    for dtype in ("float32", "bfloat16")
}
CONTRASTS = {  # the term beside the loss, and how much of it
    f"--preset=best, contrast {weight:g}": {**PRESETS["best"], "question_contrast": weight}
    for weight in (0.0, 0.1, 0.3, 1.0)
}
# share of the peak rate after a share of the steps behind the warm-up
SCHEDULES: dict[str, Callable[[float], float]] = {"line": lambda done: 1 - done, "peak": lambda done: 1.0}


@dataclass(frozen=True)
class Trial:
    """One run: a recipe's settings on one fold, with one seed."""

    recipe: str
    settings: dict[str, Any]
    fold: int
    seed: int

    @property
    def folder(self) -> str:
        return f"{self.recipe}, fold {self.fold}, seed {self.seed}".replace("/", " of ")

    def is_(self, line: dict[str, Any]) -> bool:
        return all(line[name] == value for name, value in vars(self).items())


def fold(trial: Trial) -> tuple[list[Conversation], list[Conversation]]:
    """The conversations to train on and those held out; fold 0 is the project's own split."""
    talk = read_conversations(TALK)
    return fold_of(talk, trial.fold, len(split_sides(talk)[1]))


def first_rows(files: dict[str, bytes]) -> dict[str, bytes]:
    """Prepared conversations, of which those for training end with their first row."""
    tokens, mask = np.frombuffer(files["train.bin"], "<u2"), np.frombuffer(files["train.mask"], np.uint8)
    starts = np.flatnonzero(mask & encoding.ROW)
    is_first = (mask[starts] & encoding.CONTINUED) == 0
    first = np.repeat(is_first, np.diff(np.append(starts, len(mask))))
    return files | {"train.bin": tokens[first].tobytes(), "train.mask": mask[first].tobytes()}


def prepare(trial: Trial, folder: Path, library: str | None) -> tuple[Path, Path]:
    """The shards of a trial's fold, and of the base text (samples, prose, rows of the library), made once."""
    cut, whole = trial.settings.get("windows") == "cut", "template" in trial.settings
    data = folder / f"fold {trial.fold}{', cut' * cut}{', template' * whole}"
    text = folder / f"base_text{', library' * bool(library)}"
    with filelock.FileLock(folder / ".lock"):
        tokenizer, base = Tokenizer(TOKENIZER), formats.open_model(BASE)
        if not data.exists():
            halves, contexts = fold(trial), [base.args.max_seq_len] * 2
            with template_trained() if whole else contextlib.nullcontext():
                files, _ = encoding.prepare_conversations(*halves, tokenizer, *contexts)
            write_missing(first_rows(files) if cut else files, data)
        if not text.exists():
            texts = base_text.files(base, tokenizer, text, PROSE, replayed=True)
            write_missing(texts | (library_rows(library, base.args) if library else {}), text)
    return data, text


@contextlib.contextmanager
def template_trained() -> Iterator[None]:
    """A context in which "Q:" is flagged as its question is, and "A:" as an answer that is not scored."""
    usual = encoding.KINDS
    system, _, question, _, *answer = usual
    mark = bytes([encoding.TRAIN_ALL | encoding.TRAIN_ANSWERS])
    encoding.KINDS = (system, question, question, mark, *answer)
    try:
        yield
    finally:
        encoding.KINDS = usual


def library_rows(folder: str, args: ModelArgs) -> dict[str, bytes]:
    """Some rows of the held-out library, evenly spread."""
    rows = Rows(folder, "val", args.max_seq_len - 1, args.vocab_size)
    chosen = np.linspace(0, len(rows) - 2, LIBRARY_ROWS).astype(int)  # the last one is shorter
    tokens = [np.append(x, y[-1]) for x, y, _ in map(rows.row, chosen)]
    return {"val_library.bin": np.concatenate(tokens).astype("<u2").tobytes()}


def run(trial: Trial, prepared: tuple[Path, Path], run: Path) -> dict[str, Any]:
    """Train; returns a line with every evaluation, and with the guard's result of the best one."""
    shutil.rmtree(run, ignore_errors=True)
    settings = {"learning_rate": 1e-5, "max_iters": 300, "eval_interval": 50, **FAST, **trial.settings}
    settings = {name: settings[name] for name in settings if name not in ("schedule", "windows", "template")}
    folders = dict(zip(("data_dir", "base_text_dir", "out_dir"), map(str, (*prepared, run)), strict=True))
    cfg = TrainConfig(base=BASE, **folders, **settings, seed=trial.seed)
    started = time.process_time()
    with scheduled(trial.settings.get("schedule")):
        code = train_arianna.train(cfg).exit_code
    if code:
        sys.exit(code)
    seconds, points = time.process_time() - started, choose.evaluations(run)
    used = choose.choose(points, BUDGET, None, functools.partial(score_blend, cfg)).used
    evaluated = [[p.step, p.answer_loss, p.base_text] for p in points]
    chosen = [used.step, used.blend, used.answer_loss, used.base_text]
    best = formats.open_model(run / f"ckpt_{used.step:06d}.pt")
    listens = listening(best, fold(trial)[1], Tokenizer(TOKENIZER)).gain
    on_cpu = pick_device(cfg.device).type == "cpu"
    cost = {"processor_seconds": seconds} if on_cpu else {"device": torch.cuda.get_device_name()}
    return {
        **vars(trial),
        "base": sha256(BASE),
        **cost,
        "listening": listens,
        "points": evaluated,
        "used": chosen,
    }


@contextlib.contextmanager
def scheduled(name: str | None) -> Iterator[None]:
    """A context in which the trainer's rate falls by another schedule than its cosine."""
    usual = train_arianna.learning_rate

    def rate(cfg: TrainConfig, step: int) -> float:
        done = (step - cfg.warmup) / (cfg.max_iters - cfg.warmup)
        return usual(cfg, step) if name is None or done < 0 else cfg.peak * SCHEDULES[name](done)

    train_arianna.learning_rate = rate
    try:
        yield
    finally:
        train_arianna.learning_rate = usual


def score_blend(cfg: TrainConfig, best: choose.Point, share: float) -> choose.Point:
    tuned = formats.open_model(Path(cfg.out_dir) / f"ckpt_{best.step:06d}.pt")
    model = choose.blended(formats.open_model(BASE), tuned, share).to(pick_device(cfg.device))
    return train_arianna.score_point(cfg, model, best.step, share)


def before(recipes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: settings | BEFORE for name, settings in recipes.items()}


def trials(what: str) -> Iterator[Trial]:
    recipes, folds, seeds = {
        "screen": (before(SCREEN), 1, 1),
        "short": (before(SHORT), 3, 1),
        "finals": (FINALS, FOLDS, len(SEEDS)),
        "formats": (FORMATS, FOLDS, 1),
        "contrast": (CONTRASTS, FOLDS, 1),
    }[what]
    for seed in SEEDS[:seeds]:
        for fold in range(folds):
            yield from (Trial(recipe, settings, fold, seed) for recipe, settings in recipes.items())


def results() -> list[dict[str, Any]]:
    """The lines so far that were made from the base as it is now."""
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    return [line for line in lines if line["base"] == sha256(BASE)]


def run_all(what: str, folder: Path, library: str | None) -> None:
    """Run every trial that has no result yet and that no other process is at."""
    for trial in trials(what):
        home = folder / trial.folder
        home.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(filelock.Timeout), filelock.FileLock(home / ".lock", timeout=0):
            if not any(trial.is_(line) for line in results()):
                take(trial, home, library)


def take(trial: Trial, home: Path, library: str | None) -> None:
    print(f"\n{trial.recipe}: fold {trial.fold}, seed {trial.seed}", flush=True)
    line = run(trial, prepare(trial, home.parent, library), home / "run")
    with open(RESULTS, "a") as f:
        f.write(json.dumps(line) + "\n")
    shutil.rmtree(home / "run")


def main(argv: list[str] | None = None) -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("what", choices=(*KINDS, "table"))
    parser.add_argument("--library", help="a folder of token shards that the base knows; val*.bin is scored")
    parser.add_argument("--folder", default="out/defaults", help="where the runs are made")
    args = parser.parse_args(argv)
    if args.what != "table":
        run_all(args.what, Path(args.folder), args.library)
    lines = results()
    write_page({what: [line for line in lines if any(t.is_(line) for t in trials(what))] for what in KINDS})
    return 0


if __name__ == "__main__":
    sys.exit(main())
