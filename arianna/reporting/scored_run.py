"""A run's folder as the report reads it: its log and choice, job.json and scores.json."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from arianna import ROOT, formats
from arianna.corpus import prepare
from arianna.ops import one_thread
from arianna.scoring import choose
from arianna.scoring.bootstrap import spread
from arianna.scoring.choose import Choice, Point
from arianna.scoring.losses import answer_loss
from arianna.scoring.scores import MOST_ANSWERS, Halves, Inputs, read_inputs, score_models
from arianna.system.commands import TEMPERATURE, located
from arianna.system.files import json_object, sha256, write_atomic
from arianna.training import log
from arianna.training.run_folder import RUN_FORMAT, latest_state
from arianna_data import Rows
from model import Transformer
from tokenizer import Tokenizer

FORMAT = 1  # the version of job.json
SCORES_FORMAT = 2  # the version of scores.json and report.json
DATA = ROOT / "data"
WORDS, QUESTIONS = DATA / "words.txt", DATA / "everyday_questions.txt"
SAMPLING = {"samples_each": 5, "temperature": TEMPERATURE, "top_p": 0.9, "top_k": 300, "seed": 1337}
MOST_OF_MANY = (2000, 100)  # at most so many conversations to look for copies in, and questions to ask
USES = {
    "base": "the report compares with it the result of",
    "conversations": "the report asks the questions in it that were held out from",
    "tokenizer": "the report reads with it the answers of",
}
MOST_CANDIDATES = 20  # checkpoints whose choice is repeated on each resample


# ---- job.json ----


@dataclass(frozen=True)
class Paths:
    """The job's files as they are to be typed."""

    conversations: str
    base: str
    tokenizer: str
    checkpoint: str  # the result
    binary: str  # the same for llama2.c
    base_text: str | None = None


def remember_job(run: Path, paths: Paths, step: int | None, notes: Iterable[str] = ()) -> None:
    """Write facts into job.json that the run's states do not hold.

    `step`: the one that training starts at now, None if it does not; `notes`: sentences for the report. The
    machine is the one that trained last.
    """
    old = json_object(run / "job.json") or {}
    starts, machine = old.get("starts", []), {n: old[n] for n in ("machine", "versions") if n in old}
    if step is not None or len(machine) < 2:
        machine = {"machine": this_machine(), "versions": versions()}
    if step is not None:
        starts = [*starts, {"step": step, "time": now()}]
    hashes = {"conversations": sha256(paths.conversations), "tokenizer": sha256(paths.tokenizer)}
    job = {"format": FORMAT, "paths": asdict(paths), "hashes": hashes, **machine}
    job |= {"starts": starts, "notes": list(notes)}
    write_atomic(run / "job.json", json.dumps(job, indent=1).encode())


def this_machine() -> dict[str, str]:
    """The names of processor and system, and the number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    system = f"{platform.system()} {platform.release()}"
    return {"processor": processor, "cores": f"{os.cpu_count()} cores", "system": system}


def versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("torch", "numpy", "sentencepiece")}
    return {"Python": platform.python_version()} | packages


def now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z")


# ---- reading a run's folder ----


@dataclass(frozen=True)
class ScoredRun:
    """The contents of a run's folder."""

    folder: Path
    state: dict[str, Any]  # the `run` entry of its newest state
    job: dict[str, Any]  # job.json
    log: dict[int, dict[str, Any]]
    unreadable: int  # lines of the log
    points: list[Point]  # base and checkpoints, by step
    settings: dict[str, Any]  # the choice was made with these
    choice: Choice

    @property
    def training(self) -> dict[int, float]:
        """Training loss by step."""
        losses = {step: entry.get("loss", math.nan) for step, entry in sorted(self.log.items())}
        return {step: loss for step, loss in losses.items() if math.isfinite(loss)}


def read_run(run: Path) -> ScoredRun:
    """The contents of a run's folder. Raises ValueError if it is no run, another version's, or not done."""
    if not run.is_dir():
        raise no_run(run, "it is a file" if run.exists() else "it is not there")
    missing = [name for name in ("log.jsonl", "job.json") if not (run / name).is_file()]
    if missing == ["log.jsonl"]:
        raise ValueError(log.what_it_was_for(run))
    if missing:
        raise no_run(run, f"it has no {missing[0]}")
    state, job = (latest_state(run) or {}).get("run"), json_object(run / "job.json")
    if job is None:
        raise no_run(run, "its job.json is damaged")
    if state is None:
        raise ValueError(
            f"{run / 'ckpt.pt'} and ckpt_prev.pt are missing or damaged; they hold the settings of the run "
            f"in {run}, which the report tells. Put one of them back."
        )
    for name, contents, ours in (("ckpt.pt", state, RUN_FORMAT), ("job.json", job, FORMAT)):
        if contents.get("format") != ours:
            raise ValueError(
                f"{run / name} is of format {contents.get('format')}, and this program reads {ours}: "
                "use the version that trained it."
            )
    there = {name: path for name, path in located(job["paths"], run).items() if path is not None}
    job["paths"] |= there
    points = choose.evaluations(run)
    settings, choice = read_choice(run, points)
    return ScoredRun(run, state, job, choose.read_log(run), unreadable_lines(run), points, settings, choice)


def no_run(run: Path, lacks: str) -> ValueError:
    return ValueError(f"{run} holds no run of arianna_ft.py: {lacks}. Give the folder of one with --run.")


def read_choice(run: Path, points: Sequence[Point]) -> tuple[dict[str, Any], Choice]:
    """The stored choice and the settings it was made with. Raises ValueError if there is none yet."""
    settings = (json_object(run / "choice.json") or {}).get("settings")
    choice = None if settings is None else choose.recall(settings, run)
    if choice is None or choice.best != choose.best_checkpoint(points):
        raise ValueError(f"{run} has no result yet; the same command that started it goes on with it.")
    return settings, choice


def unreadable_lines(run: Path) -> int:
    """The number of lines of the log that a crash has cut off."""
    count = 0
    for line in (run / "log.jsonl").read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            count += not isinstance(json.loads(line), dict) and bool(line.strip())
        except ValueError:
            count += bool(line.strip())
    return count


# ---- scores ----


def scores_of(scored: ScoredRun, sampling: Mapping[str, Any] = SAMPLING) -> dict[str, Any]:
    """The scores in scores.json if they are of these weights, texts and settings; else new ones."""
    path, wanted = scored.folder / "scores.json", what_is_scored(scored, sampling)
    stored = json_object(path)
    if stored is not None and fits(stored.get("of", {}), wanted):
        return stored
    started = time.monotonic()
    scores = {"of": wanted, **score(scored, sampling)}
    scores["seconds"] = time.monotonic() - started
    text = json.dumps(scores, allow_nan=False)
    write_atomic(path, text.encode())
    return json.loads(text)


def what_is_scored(scored: ScoredRun, sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that scores depend on: settings and hashes, None for a file that is gone."""
    files = {"words": WORDS, "questions": QUESTIONS}
    files |= {str(point.step): weights(scored.folder, point) for point in candidates(scored)}
    hashes = {name: sha256(path) if path.is_file() else None for name, path in files.items()}
    inputs = {**scored.state["inputs"], **scored.job["hashes"]}
    used = scored.choice.used
    settings = {"used": [used.step, used.blend], "sampling": dict(sampling)}
    return {"format": SCORES_FORMAT, **settings, "inputs": inputs, "files": hashes}


def fits(stored: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether nothing that scores depend on has changed; a file that is gone counts as unchanged."""
    old = stored.get("files", {})
    files = {name: old.get(name) if sha is None else sha for name, sha in wanted["files"].items()}
    return stored == {**wanted, "files": files}


def weights(run: Path, point: Point) -> Path:
    return run / f"ckpt_{point.step:06d}.pt"


def candidates(scored: ScoredRun) -> list[Point]:
    """Checkpoints that could have been chosen, evenly spread if there are many, and the chosen one."""
    points = scored.points[1:]
    steps = {p.step for p in spread(points, MOST_CANDIDATES)} | {scored.choice.best.step}
    return [p for p in points if p.step in steps]


def score(scored: ScoredRun, sampling: Mapping[str, Any]) -> dict[str, Any]:
    """All scores of base and tuned, and for every candidate, blended alike, the losses for `bootstrap`."""
    check_unchanged(scored)
    base = formats.open_model(scored.job["paths"]["base"])
    inputs, counts = scoring_inputs(scored, base)
    print(f"scoring base and tuned model on {counts['held_out']} held-out conversations ...", flush=True)

    def tuned(point: Point) -> Transformer:
        model = formats.open_model(choose.weights_of(point, scored.folder), base.args.max_seq_len)
        return choose.blended(base, model, scored.choice.used.blend)

    of_base, of_tuned = score_models([base, tuned(scored.choice.used)], inputs, **sampling)
    pairs = score_candidates(scored, of_tuned["answers"], tuned, inputs)
    return {"base": of_base, "tuned": of_tuned, "candidates": pairs, "conversations": counts}


def check_unchanged(scored: ScoredRun) -> None:
    """Raise ValueError if a file that the scores need is gone or is not the one that the run was given."""
    for name, use in USES.items():
        path = scored.job["paths"][name]
        then = scored.state["inputs"].get(name) or scored.job["hashes"].get(name)
        if not Path(path).exists():
            raise ValueError(f"{path} is missing; {use} the run in {scored.folder}. Put it back there.")
        if sha256(path) != then:
            raise ValueError(
                f"{path} has changed since {scored.folder} was trained; {use} that run. Put the old one back."
            )


def score_candidates(
    scored: ScoredRun, used: dict[str, Any], tuned: Callable[[Point], Transformer], inputs: Inputs
) -> dict[str, tuple[list[float], list[int]]]:
    """Nats and tokens by conversation of each checkpoint on disk, by step. `used`: the used one's loss."""
    answers = {scored.choice.used.step: used}
    with one_thread():
        for point in candidates(scored):
            if point.step not in answers and weights(scored.folder, point).is_file():
                answers[point.step] = vars(answer_loss(tuned(point), inputs.rows, MOST_ANSWERS))
    names = ("conversation_nats", "conversation_tokens")
    return {str(step): tuple(loss[name] for name in names) for step, loss in sorted(answers.items())}


def scoring_inputs(scored: ScoredRun, base: Transformer) -> tuple[Inputs, dict[str, int]]:
    """The data to score base and tuned on, and how many conversations and training rows there are."""
    paths, shape = scored.job["paths"], (base.args.max_seq_len, base.args.vocab_size)
    halves, counts = halves_of(scored)
    tokenizer = Tokenizer(paths["tokenizer"])
    inputs = read_inputs(halves, scored.folder, shape, tokenizer, WORDS, QUESTIONS, paths["base_text"])
    longest = scored.state["config"]["max_seq_len"] or shape[0]
    return inputs, counts | {"rows": len(Rows(scored.folder / "data", "train", longest, shape[1]))}


def halves_of(scored: ScoredRun) -> tuple[Halves, dict[str, int]]:
    """The conversations of a run, MOST_OF_MANY at most, and how many there are on each side."""
    survey = prepare.survey(scored.job["paths"]["conversations"], print, scored.folder / "data")
    sides = (prepare.iter_conversations(survey, side, MOST_OF_MANY[side]) for side in (False, True))
    counts = {"train": survey.conversations - survey.held_out, "held_out": survey.held_out}
    return tuple(map(list, sides)), counts
