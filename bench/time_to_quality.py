"""Wall time from a command to a model with a given held-out answer loss: the whole job against TRL's
SFTTrainer.

    pip install -e .[bench]
    python -m bench.time_to_quality                          # in /tmp; about half an hour
    python -m bench.time_to_quality --folder=/tmp/quality    # goes on with the runs that are not done there

Both start from the shipped base and train on the same conversations; TRL gets the base as a Hugging Face
folder, and each answer with all that was said before it. Every saved model of either is scored afterwards, by
the same functions: its time is when it lay on the disk, for ours with what choice and export took at the end
of the run added. A run that is done is a line of results.jsonl in the folder.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import train_arianna
from arianna import formats
from arianna.corpus import encoding
from arianna.corpus.conversations import Conversation
from arianna.corpus.prepare import read_conversations
from arianna.corpus.split import split_sides
from arianna.formats.write import update_model
from arianna.scoring import base_text
from arianna.system import config
from arianna.system.files import write_missing
from arianna.training.settings import TrainConfig
from bench import pairs
from tokenizer import Tokenizer

HERE = Path(__file__).resolve().parent.parent
BASE, TALK, TOKENIZER, PROSE = (
    "out/ckpt_v1_base.pt",
    "data/arianna_conversations.jsonl",
    "data/tok4096.model",
    "data/arianna_corpus.txt",
)
EPOCHS = 8
RATES = ("3e-5", "1e-4", "3e-4")  # TRL's grid
FORMATS = {"": [], ", bfloat16": ["--dtype=bfloat16"]}
QUICK = ["--learning_rate=2e-4", "--max_iters=44", "--loss_on=answers", "--eval_interval=22"]
OURS = {
    **{f"--preset=best{suffix}": ["--preset=best", *flags] for suffix, flags in FORMATS.items()},
    **{f"44 iterations at 2e-4, answers{suffix}": [*QUICK, *flags] for suffix, flags in FORMATS.items()},
}
UNBLENDED = ["--blend=1", "--report=False", "--fresh"]


@dataclass(frozen=True)
class Config:
    """Where the runs lie."""

    folder: str = "/tmp/innerarianna_quality"  # for all that is made; the results stay there


@dataclass(frozen=True)
class Point:
    """A saved model: seconds from the command until it was there, held-out answers and base texts in nats a
    token."""

    seconds: float
    answers: float
    base_text: dict[str, float]


def prepare(folder: Path) -> None:
    """What both train on, and what all are scored on."""
    place, tokenizer, base = (
        folder / "place",
        Tokenizer(str(HERE / TOKENIZER)),
        formats.open_model(HERE / BASE),
    )
    shutil.copytree(HERE / "data", place / "data", dirs_exist_ok=True)
    (place / "out").mkdir(exist_ok=True)
    shutil.copy(HERE / BASE, place / BASE)
    halves = split_sides(read_conversations(HERE / TALK))
    context = base.args.max_seq_len
    write_missing(encoding.prepare_conversations(*halves, tokenizer, context, context)[0], folder / "rows")
    write_missing(
        base_text.files(base, tokenizer, folder / "base_text", str(HERE / PROSE), False), folder / "base_text"
    )
    update_model(base, folder / "base_hf", "hf", tokenizer=tokenizer)
    for split, half in zip(("train", "val"), halves, strict=True):
        rows = [
            json.dumps(row) for c in half for row in prompts(encoding.plain_conversation(c, tokenizer)[0])
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(rows))


def prompts(conversation: Conversation) -> Iterator[dict[str, Any]]:
    """Each answer, and all that was said before it."""
    messages = [{"role": "system", "content": conversation.system}] if conversation.system else []
    for question, answer in conversation.turns:
        messages = [*messages, {"role": "user", "content": question}]
        reply = {"role": "assistant", "content": answer}
        yield {"prompt": messages, "completion": [reply]}
        messages = [*messages, reply]


def commands(folder: Path) -> dict[str, tuple[list[str], str]]:
    """By name: a run's command, and where its models lie."""
    runs = {}
    for rate in RATES:
        out = folder / f"trl{rate}"
        words = [
            str(HERE / "bench/sft.py"),
            str(folder / "base_hf"),
            str(folder),
            str(out),
            rate,
            str(EPOCHS),
        ]
        runs[f"SFTTrainer, {rate}"] = words, f"{out}/checkpoint-*/model.safetensors"
    for number, (name, flags) in enumerate(OURS.items()):
        out = folder / f"ours{number}"
        runs[f"ours, {name}"] = (
            [str(HERE / "arianna_ft.py"), *UNBLENDED, f"--out_dir={out}", *flags],
            f"{out}/ft/ckpt_0*.pt",
        )
    return runs


def run(words: list[str], models: str, folder: Path) -> dict[str, Any]:
    """Do a run; when it was over, in seconds from its start, and what each model that it saved is worth."""
    started = time.time()
    subprocess.run(
        [sys.executable, *words],
        cwd=folder / "place",
        env=pairs.environment(False),
        stdout=sys.stderr,
        check=True,
    )
    seconds = time.time() - started
    pattern = Path(models)
    saved = sorted(
        Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))),
        key=lambda path: path.stat().st_mtime,
    )
    ours = pattern.suffix == ".pt"
    after = seconds + started - saved[-1].stat().st_mtime if ours else 0.0
    points = [
        vars(score(path if ours else path.parent, folder, path.stat().st_mtime - started + after))
        for path in saved
    ]
    return {"seconds": seconds, "points": points[1:] if ours else points}


def score(model: Path, folder: Path, seconds: float) -> Point:
    cfg = TrainConfig(base=BASE, data_dir=str(folder / "rows"), base_text_dir=str(folder / "base_text"))
    point = train_arianna.score_point(cfg, formats.open_model(model), 0, 1.0)
    return Point(seconds, point.answer_loss, point.base_text)


def all_runs(folder: Path) -> dict[str, list[Point]]:
    """The models of every run, by its name; runs without a line of results are done first."""
    results = folder / "results.jsonl"
    lines = map(json.loads, results.read_text().splitlines()) if results.exists() else []
    done = {line["name"]: line for line in lines}
    for name, (words, models) in commands(folder).items():
        if name not in done:
            done[name] = {"name": name, **run(words, models, folder)}
            with open(results, "a") as file:
                file.write(json.dumps(done[name]) + "\n")
    return {name: [Point(**point) for point in done[name]["points"]] for name in commands(folder)}


def described(point: Point, base: Point) -> dict[str, Any]:
    rises = {
        name.removeprefix("val_"): round(loss - base.base_text[name], 3)
        for name, loss in point.base_text.items()
    }
    return {"seconds": round(point.seconds, 1), "answer_loss": round(point.answers, 4), "forgetting": rises}


def main(argv: list[str] | None = None) -> int:
    folder = Path(config.parse(Config, argv, __doc__).folder).resolve()
    prepare(folder)
    base, runs = score(HERE / BASE, folder, 0.0), all_runs(folder)
    best = {name: min(points, key=lambda point: point.answers) for name, points in runs.items()}
    peer = min((name for name in best if name.startswith("SFT")), key=lambda name: best[name].answers)
    for name, points in runs.items():
        pairs.tell("time to quality, best", run=name, **described(best[name], base))
        reached = next((point for point in points if point.answers <= best[peer].answers), None)
        if reached is not None and not name.startswith("SFT"):
            ratio = round(best[peer].seconds / reached.seconds, 2)
            pairs.tell(
                "time to quality, reached",
                run=name,
                **described(reached, base),
                peer=peer,
                peer_best=described(best[peer], base),
                ratio=ratio,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
