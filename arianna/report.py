"""The morning report of a run: is it better, at what, at what cost, and which file to use.

    python -m arianna.report out/ft

Writes report.html (one file that needs nothing else), report.md and report.json into the run's folder, from
its log, its choice and its scores. Trains nothing; scores in scores.json are used again where they fit.
"""

from __future__ import annotations

if __name__ == "__main__":  # before torch is imported, which reads the environment once
    from arianna.system import environment

    environment.prepare()

import json
import math
import statistics
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from arianna.reporting import charts, night, render
from arianna.reporting import verdict as verdicts
from arianna.reporting.scored_run import SAMPLING, SCORES_FORMAT, ScoredRun, now, read_run, scores_of
from arianna.scoring import preferences
from arianna.scoring.bootstrap import Difference, bootstrap
from arianna.scoring.choose import Choice
from arianna.scoring.scores import changes
from arianna.system import config
from arianna.system.commands import located, next_commands
from arianna.system.files import json_object, write_atomic
from arianna.system.visible import visible
from arianna_data import epochs


@dataclass(frozen=True)
class ReportConfig:
    """The run that is reported."""

    run: str = "out/ft"  # folder of a run of arianna_ft.py; may stand alone, without its flag


def main(argv: list[str] | None = None) -> int:
    cfg = config.parse(ReportConfig, with_flag(sys.argv[1:] if argv is None else argv), __doc__)
    try:
        with config.usage_errors(ValueError):
            facts = make(Path(cfg.run))
    except OSError as error:
        print(config.in_words(error), file=sys.stderr)
        return 1
    print(f"{words_of(facts)}\n\n{three_answers(facts)}\n")
    print(visible(str(Path(cfg.run) / "report.html")))
    return 0


def with_flag(argv: list[str]) -> list[str]:
    """The words of the command line, where the run's folder may stand first without its flag."""
    return [f"--run={argv[0]}", *argv[1:]] if argv and not argv[0].startswith("-") else argv


def words_of(facts: dict[str, Any]) -> str:
    """The verdict with its reason and notes, a line each, for the terminal."""
    verdict = facts["verdict"]
    return visible(
        "\n".join(line for line in (verdict["sentence"], verdict["reason"], *verdict["notes"]) if line)
    )


def three_answers(facts: dict[str, Any]) -> str:
    """Three held-out questions, each answered by base and tuned model, for the terminal."""
    asked = render.three_of(render.questions(facts))
    return visible("\n".join(f"Q: {q['question']}\n{answer_lines(q['pairs'][0])}" for q in asked))


def answer_lines(pair: dict[str, Any]) -> str:
    """The answers of both models, each on one line."""
    texts = {name: " ".join(pair[name]["text"].split()) for name in ("base", "tuned")}
    return "\n".join(f"  {name:5}  {text or '(nothing)'}" for name, text in texts.items())


def make(run: Path, sampling: Mapping[str, Any] = SAMPLING) -> dict[str, Any]:
    """Write the three reports of a run that has its choice; returns the contents of report.json.

    Raises ValueError if the folder holds no such run, or if a file that must be scored is gone.
    """
    scored = read_run(run)
    scores = scores_of(scored, sampling)
    facts = facts_of(scored, scores)
    texts = {
        "report.json": json.dumps(facts, indent=1, allow_nan=False),
        "report.md": render.markdown(facts),
        "report.html": render.html(facts, drawings(scored, facts["night"])),
    }
    for name, text in texts.items():
        write_atomic(run / name, text.encode())
    return facts


def stored(run: Path, choice: Choice) -> dict[str, Any] | None:
    """The facts in report.json if all three reports are there and are of this choice, else None."""
    facts = json_object(run / "report.json")
    fits = facts is not None and facts.get("choice") == plain(asdict(choice))
    return facts if fits and (run / "report.html").exists() and (run / "report.md").exists() else None


# ---- the facts ----


def facts_of(scored: ScoredRun, scores: dict[str, Any]) -> dict[str, Any]:
    """Everything that the reports say, as plain values for JSON. Only `times` differs between equal runs."""
    answers = scores["base"]["answers"]
    pairs = {int(step): pair for step, pair in scores["candidates"].items()}
    difference = bootstrap((answers["conversation_nats"], answers["conversation_tokens"]), pairs)
    change = changes(scores["tuned"], scores["base"])
    evidence = evidence_of(scored, scores, difference, change["listening"])
    paths = located(scored.job["paths"], scored.folder)
    files = {name: path or scored.job["paths"][name] for name, path in paths.items()}
    verdict = verdicts.verdict(evidence, files["checkpoint"], files["base"])
    notes = [*verdict.notes, *scored.job["notes"], *missing_note(verdict.use, scored.folder)]
    commands = next_commands(paths, verdict.word == "better")
    heard = {name: heard_of(scores[name]) for name in ("base", "tuned")}
    facts = {
        "format": SCORES_FORMAT,
        "verdict": {**vars(verdict), "notes": notes},
        "difference": asdict(difference) if difference else None,
        "forgetting": change["forgetting"],
        "listening": {**heard, "rise": change["listening"]},
        "preferences": preferences.summary(scored.folder / "preferences.jsonl"),
        "night": night.read_search(scored.folder / "search.json"),
        "max_forgetting": evidence.max_forgetting,
        "base_texts": list(scored.choice.base.base_text),
        "choice": asdict(scored.choice),
        "checkpoints": table(scored),
        "conversations": scores["conversations"],
        "epochs": epochs_of(scored, scores["conversations"]["rows"]),
        "sampling": scores["of"]["sampling"],
        "scores": {name: scores[name] | {"times": None} for name in ("base", "tuned")},
        "run": run_facts(scored),
        "next": [{"what": what, "command": command} for what, command in commands],
        "times": times(scored, scores),
    }
    return plain(facts)


def heard_of(scores: dict[str, Any]) -> dict[str, Any]:
    """A model's listening score without its pairs, which stand among its scores."""
    return {name: value for name, value in scores["listening"].items() if name != "pairs"}


def evidence_of(
    scored: ScoredRun, scores: dict[str, Any], difference: Difference | None, rise: Mapping[str, float | None]
) -> verdicts.Evidence:
    base, tuned = scores["base"], scores["tuned"]
    fitting = {name: scores[name]["listening"]["share"] for name in ("base", "tuned")}
    interval = interval_of(tuned["listening"])
    return verdicts.Evidence(
        choice=scored.choice,
        points=scored.points,
        training=scored.training,
        losses=(base["answers"]["loss"], tuned["answers"]["loss"]),
        interval=(difference.low, difference.high) if difference else None,
        non_words=(base["generated"]["non_words"]["value"], tuned["generated"]["non_words"]["value"]),
        listening=verdicts.Listening(**fitting, interval=interval, rise=interval_of(rise)),
        conversations=(scores["conversations"]["train"], len(base["answers"]["conversation_nats"])),
        max_forgetting=scored.settings["max_forgetting"],
    )


def interval_of(score: Mapping[str, float | None]) -> tuple[float, float] | None:
    """The two ends of a score's interval, if it has one."""
    return None if score["low"] is None or score["high"] is None else (score["low"], score["high"])


def table(scored: ScoredRun) -> list[dict[str, Any]]:
    """Base, checkpoints and blends that were tried, with their losses in nats a token."""
    choice, rows = scored.choice, []
    blends = [p for p in choice.tried if p.blend != 1]
    for point in [*scored.points, *blends]:
        entry = {} if point in blends else scored.log[point.step]
        what = f"blend {point.blend:.0%}" if point in blends else str(point.step) if point.step else "base"
        mark = "used" if point == choice.used else "best" if point == choice.best else ""
        row = {"what": what, "training": entry.get("loss"), "answers": point.answer_loss}
        row |= {"terminator": entry.get("terminator_loss"), "base_text": point.base_text}
        rows.append(row | {"forgetting": point.forgetting(choice.base), "mark": mark})
    return rows


def epochs_of(scored: ScoredRun, rows: int) -> float:
    """The number of times that training went through its rows."""
    cfg = scored.state["config"]
    rows_a_step = cfg["batch_size"] * cfg["gradient_accumulation_steps"]
    return epochs(scored.points[-1].step, rows_a_step, cfg["replay"], rows)


def run_facts(scored: ScoredRun) -> dict[str, Any]:
    cfg, job = scored.state["config"], scored.job
    return {
        "iterations": scored.points[-1].step,
        "peak": cfg["learning_rate"] or 1e-5,
        "config": cfg,
        "settings": scored.settings,
        "inputs": {**scored.state["inputs"], **job["hashes"]},
        "restarts": len(job["starts"]) - 1 if job["starts"] else None,
        "unreadable": scored.unreadable,
        **{name: job[name] for name in ("paths", "machine", "versions")},
    }


def times(scored: ScoredRun, scores: dict[str, Any]) -> dict[str, Any]:
    speeds = [e["tokens_per_second"] for e in scored.log.values() if "tokens_per_second" in e]
    return {
        "training_seconds": scored.state["seconds"],
        "tokens_per_second": statistics.median(speeds) if speeds else None,
        "scoring_seconds": scores["seconds"],
        "generation": {name: scores[name]["times"] for name in ("base", "tuned")},
        "starts": scored.job["starts"],
        "made": now(),
    }


def missing_note(use: str, run: Path) -> list[str]:
    """A sentence if the file to use is gone."""
    if Path(use).exists():
        return []
    return [f"{use} is not there any more; the command that trained {run} makes it again."]


def plain(value: Any) -> Any:
    """A value for JSON: tuples are lists, and numbers that are not finite are None."""
    if isinstance(value, dict):
        return {name: plain(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def drawings(scored: ScoredRun, search: dict[str, Any] | None = None) -> dict[str, Any]:
    """The curves, the frontier where there is base text, and the trials where there was a search."""
    name, budget = verdicts.worst_text(scored.choice), scored.settings["max_forgetting"]
    trials = None
    if search is not None:
        best, minutes = list(night.best_so_far(search)), search["seconds"] / 60
        trials = charts.searched(*night.dots(search), best, search["base"], minutes)
    return {
        "curves": charts.curves(scored.training, scored.points, scored.choice),
        "frontier": None if name is None else charts.frontier(scored.points, scored.choice, name, budget),
        "night": trials,
    }


if __name__ == "__main__":
    config.run_main(main)
