"""The tables of docs/defaults.md, from the runs of bench/defaults.py."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arianna.system.files import write_atomic

PAGE = Path("docs/defaults.md")


def write_page(lines: dict[str, list[dict[str, Any]]]) -> None:
    """Put the tables of the kinds that have runs between their markers; the words are written by hand.

    A table without a run on today's base stays as it is: the page says on which base it was made.
    """
    texts = {kind: table(runs) for kind, runs in lines.items() if runs}
    texts["relation"] = relation([line for runs in lines.values() for line in runs])
    page = PAGE.read_text()
    for name, text in texts.items():
        if text:
            before, rest = page.split(f"<!-- {name} -->\n")
            page = f"{before}<!-- {name} -->\n{text}\n<!-- end -->" + rest.split("<!-- end -->", 1)[1]
    write_atomic(PAGE, page.encode())


def best_point(line: dict[str, Any]) -> list[Any]:
    return min(line["points"][1:], key=lambda p: p[1])


def rises(line: dict[str, Any], texts: dict[str, float]) -> dict[str, float]:
    return {name.removeprefix("val_"): loss - line["points"][0][2][name] for name, loss in texts.items()}


def row(lines: list[dict[str, Any]]) -> str:
    """A recipe's line of the table: means over its runs, with their standard deviation."""
    best = [best_point(line) for line in lines]
    gains = [b[1] - line["points"][0][1] for b, line in zip(best, lines, strict=True)]
    guarded = [line["used"][2] - line["points"][0][1] for line in lines]
    forgot = [rises(line, b[2]) for b, line in zip(best, lines, strict=True)]
    guarded_rise = [max(rises(line, line["used"][3]).values()) for line in lines]
    cells = [lines[0]["recipe"], str(len(lines)), mean([b[0] for b in best], ".0f"), mean(gains, "+.3f")]
    cells += [mean([rise[name] for rise in forgot], "+.3f") for name in sorted(forgot[0])]
    cells += [mean(guarded, "+.3f"), mean(guarded_rise, "+.3f")]
    cells += [mean([line["listening"] for line in lines], "+.2f")] if "listening" in lines[0] else []
    cells += [mean([line["used"][1] for line in lines], ".0%")]
    minutes = [line["processor_seconds"] / 60 for line in lines if "processor_seconds" in line]
    return f"| {' | '.join(cells)} | {mean(minutes, '.1f') if minutes else ''} |"


def mean(values: Sequence[float], form: str) -> str:
    spread = f" ± {statistics.stdev(values):{form.lstrip('+')}}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{form}}{spread}"


def table(lines: list[dict[str, Any]]) -> str:
    """Recipes with the runs that each has, best first by what the guard leaves."""
    recipes: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        recipes.setdefault(line["recipe"], []).append(line)
    heads = ["recipe", "runs", "best at", "answers"]
    heads += [f"forgot: {text}" for text in sorted(rises(lines[0], lines[0]["points"][0][2]))]
    listens = ["fits its question by"] if "listening" in lines[0] else []
    heads += ["answers within 0.10", "forgot", *listens, "blend", "core minutes"]

    def guarded_gain(runs: list[dict[str, Any]]) -> float:
        return statistics.fmean(line["used"][2] - line["points"][0][1] for line in runs)

    order = sorted(recipes.values(), key=guarded_gain)
    return "\n".join([f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *map(row, order)])


def relation(lines: list[dict[str, Any]]) -> str:
    """A sentence on forgetting on the library over forgetting on the samples; empty without such runs."""
    points = [rises(line, point[2]) for line in lines for point in line["points"][1:]]
    pairs = [(rise["samples"], rise["library"]) for rise in points if "library" in rise]
    if len(pairs) < 3:
        return ""
    samples, library = zip(*pairs, strict=True)
    slope, intercept = statistics.linear_regression(samples, library)
    return (
        f"Over {len(pairs)} evaluations, forgetting on the library is {slope:.2f} times that on the samples "
        f"{intercept:+.3f} nats (correlation {statistics.correlation(samples, library):.3f})."
    )
