"""The morning report of a run: is it better, at what, at what cost, and which file to use.

    python -m arianna.report --run=out/ft

Writes report.html (one file that needs nothing else), report.md and report.json into the run's folder, from its log, its
choice and its scores. Trains nothing; scores that were kept in scores.json are used again where they fit.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from arianna.reporting import verdict as verdicts
from arianna.reporting.scored_run import FORMAT, SAMPLING, Found, kept_or_new_scores, now, read_run
from arianna.system import config
from arianna.system.config import UsageError
from arianna.system.files import write_atomic


@dataclass(frozen=True)
class ReportConfig:
    """Which run is reported."""

    run: str = "out/ft"  # folder of a run of arianna_ft.py


def main(argv: list[str] | None = None) -> int:
    cfg = config.parse(ReportConfig, argv, __doc__)
    try:
        facts = make(Path(cfg.run))
    except ValueError as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    print(words_of(facts))
    print(Path(cfg.run) / "report.html")
    return 0


def words_of(facts: dict[str, Any]) -> str:
    """The verdict with its reason and notes, a line each."""
    found = facts["verdict"]
    return "\n".join(line for line in (found["sentence"], found["reason"], *found["notes"]) if line)


def make(run: Path, sampling: Mapping[str, Any] = SAMPLING) -> dict[str, Any]:
    """Write the three reports of a run that has its choice; returns what report.json holds.

    Raises ValueError if the folder holds no such run, or if what must be scored is not there any more.
    """
    found = read_run(run)
    from arianna.reporting import render  # what needs torch comes after a folder that is no run has been refused

    scores = kept_or_new_scores(found, sampling)
    facts = facts_of(found, scores)
    texts = {
        "report.json": json.dumps(facts, indent=1, allow_nan=False),
        "report.md": render.markdown(facts),
        "report.html": render.html(facts, drawings(found)),
    }
    for name, text in texts.items():
        write_atomic(run / name, text.encode())
    return facts


# ---- the facts ----


def facts_of(found: Found, scores: dict[str, Any]) -> dict[str, Any]:
    """Everything the reports say, as plain values for JSON. What differs from one run or scoring to the next is under `times`."""
    from arianna import evaluate
    from arianna.scoring.bootstrap import bootstrap

    pairs = {name: (a["conversation_nats"], a["conversation_tokens"]) for name in ("base", "tuned") for a in [scores[name]["answers"]]}
    difference = bootstrap(pairs["base"], {int(step): pair for step, pair in scores["candidates"].items()})
    evidence = evidence_of(found, scores, (difference.low, difference.high) if difference else None)
    paths, points = found.job["paths"], found.points
    told = verdicts.verdict(evidence, paths["checkpoint"], paths["base"])
    facts = {
        "format": FORMAT,
        "verdict": {**verdicts.as_dict(told), "notes": [*told.notes, *found.job["notes"]]},
        "difference": asdict(difference) if difference else None,
        "forgetting": evaluate.compare(scores["tuned"], scores["base"])["forgetting"],
        "max_forgetting": evidence.max_forgetting,
        "base_texts": list(found.choice.base.base_text),
        "choice": asdict(found.choice),
        "patience": verdicts.patience_note(points, found.state["seconds"]),
        "checkpoints": table(found),
        "conversations": scores["conversations"],
        "formats": scores["formats"],
        "epochs": epochs(found, scores["conversations"]["rows"]),
        "sampling": scores["of"]["sampling"],
        "scores": {name: scores[name] | {"times": None} for name in ("base", "tuned")},
        "run": run_facts(found),
        "next": next_commands(told.word, paths),
        "times": times(found, scores),
    }
    return plain(facts)


def evidence_of(found: Found, scores: dict[str, Any], interval: tuple[float, float] | None) -> verdicts.Evidence:
    base, tuned = scores["base"], scores["tuned"]
    return verdicts.Evidence(
        choice=found.choice,
        points=found.points,
        training=found.training,
        losses=(base["answers"]["loss"], tuned["answers"]["loss"]),
        interval=interval,
        non_words=(base["generated"]["non_words"]["value"], tuned["generated"]["non_words"]["value"]),
        gain=tuned["question_gain"],
        conversations=(scores["conversations"]["train"], len(base["answers"]["conversation_nats"])),
        max_forgetting=found.settings["max_forgetting"],
    )


def table(found: Found) -> list[dict[str, Any]]:
    """Base, checkpoints and blends that were tried, with their losses in nats a token."""
    choice, rows = found.choice, []
    blends = [p for p in choice.tried if p.blend != 1]
    for point in [*found.points, *blends]:
        entry = {} if point in blends else found.log[point.step]
        what = f"blend {point.blend:.0%}" if point in blends else str(point.step) if point.step else "base"
        mark = "used" if point == choice.used else "best" if point == choice.best else ""
        rows.append({"what": what, "training": entry.get("loss"), "answers": point.answer_loss, "terminator": entry.get("terminator_loss")})
        rows[-1] |= {"base_text": point.base_text, "forgetting": point.forgetting(choice.base), "mark": mark}
    return rows


def epochs(found: Found, rows: int) -> float:
    """How often training went through its rows."""
    cfg = found.state["config"]
    return found.points[-1].step * cfg["batch_size"] * cfg["gradient_accumulation_steps"] * (1 - cfg["replay"]) / rows


def run_facts(found: Found) -> dict[str, Any]:
    cfg, job = found.state["config"], found.job
    return {
        "iterations": found.points[-1].step,
        "peak": cfg["learning_rate"] or 1e-5,
        "config": cfg,
        "settings": found.settings,
        "inputs": {**found.state["inputs"], **job["hashes"]},
        "restarts": len(job["starts"]) - 1 if job["starts"] else None,
        "unreadable": found.unreadable,
        **{name: job[name] for name in ("paths", "machine", "versions")},
    }


def times(found: Found, scores: dict[str, Any]) -> dict[str, Any]:
    speeds = [e["tokens_per_second"] for e in found.log.values() if "tokens_per_second" in e]
    return {
        "training_seconds": found.state["seconds"],
        "tokens_per_second": statistics.median(speeds) if speeds else None,
        "scoring_seconds": scores["seconds"],
        "generation": {name: scores[name]["times"] for name in ("base", "tuned")},
        "starts": found.job["starts"],
        "made": now(),
    }


def next_commands(word: str, paths: dict[str, str]) -> list[dict[str, str]]:
    """What to type next, each with what it does."""
    from shlex import quote

    checkpoint, base, binary = (quote(paths[name]) for name in ("checkpoint", "base", "binary"))
    tokenizer = quote(str(Path(paths["tokenizer"]).with_suffix(".bin")))
    compare = f'python sample.py --checkpoint={checkpoint} --compare={base} --question="What is resonance?"'
    found = [("hear both side by side", compare)]
    if word == "better":
        found += [
            ("talk with it", f"python sample.py --checkpoint={checkpoint} --chat"),
            ("run it in plain C", f"./run {binary} -z {tokenizer} -n 0 -t 0.8 -i $'Q: What is resonance?\\nA:'"),
        ]
    else:
        anew = f"python arianna_ft.py --conversations={quote(paths['conversations'])} --base={base} --fresh"
        found.append(("train anew with other settings", anew))
    return [{"what": what, "command": command} for what, command in found]


def plain(value: Any) -> Any:
    """Tuples as lists and numbers that are none as None, as JSON wants them."""
    if isinstance(value, dict):
        return {name: plain(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def drawings(found: Found) -> dict[str, Any]:
    """The curves, and the frontier where there is base text."""
    from arianna.reporting import charts

    name = verdicts.worst_text(found.choice)
    curves = charts.curves(found.training, found.points, found.choice)
    return {
        "curves": curves,
        "frontier": None if name is None else charts.frontier(found.points, found.choice, name, found.settings["max_forgetting"]),
    }


if __name__ == "__main__":
    config.run_main(main)
