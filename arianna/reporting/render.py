"""The pages of the morning report: HTML and Markdown from its facts and drawings (see report.py)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from arianna import evaluate
from arianna.reporting import charts, night
from arianna.scoring import preferences
from arianna.scoring.bootstrap import spread
from arianna.system.visible import visible

TEMPLATES = Path(__file__).with_name("templates")
MOST_BYTES = 1_900_000  # size of the HTML page
MOST_ROWS = 60  # rows of the table of checkpoints
Facts = dict[str, Any]


def html(facts: Facts, drawings: dict[str, Any]) -> str:
    """The report as one file that needs nothing else; it tells how many questions it leaves out."""
    return fitted(environment(marked_html, visible_value, autoescape=True), "report.html.j2", facts, drawings)


def markdown(facts: Facts) -> str:
    """The report as text."""
    markup = environment(marked_markdown, escaped_markdown, lstrip_blocks=True)
    return fitted(markup, "report.md.j2", facts, {})


def environment(
    marked: Callable[[dict[str, Any]], Markup], finalize: Callable[[Any], Any], **options: Any
) -> Environment:
    """Jinja's environment of a page: `marked` marks an answer up, `finalize` makes any other value safe."""
    options |= {"loader": FileSystemLoader(TEMPLATES), "undefined": StrictUndefined, "trim_blocks": True}
    jinja = Environment(finalize=finalize, **options)
    jinja.filters["marked"] = marked
    return jinja


def fitted(jinja: Environment, template: str, facts: Facts, drawings: dict[str, Any]) -> str:
    """The text of a template, with so many questions that it is no larger than MOST_BYTES."""
    asked = questions(facts)
    view = {**view_of(facts), "drawings": drawings, "three": three_of(asked)}
    for most in (len(asked), 100, 30, 10):
        shown = spread(asked, most)
        counts = {"questions": shown, "left_out": len(asked) - len(shown)}
        text = jinja.get_template(template).render(**view, **counts)
        if len(text.encode()) <= MOST_BYTES:
            break
    return text


# ---- the templates' variables ----


def view_of(facts: Facts) -> dict[str, Any]:
    return {
        **facts,
        "gained": gained(facts["difference"]),
        "score_rows": list(score_rows(facts)),
        "checkpoint_rows": checkpoint_rows(facts),
        "preferred": preferences.sentence(facts["preferences"]) if facts["preferences"] else "",
        "tried": night.view_of(facts["night"], held_out_gain(facts)) if facts["night"] else None,
        "text_names": [charts.text_name(name) for name in facts["base_texts"]],
        "ran": ran(facts),
    }


def questions(facts: Facts) -> list[dict[str, Any]]:
    """Each question with its pairs of answers: {question, held_out, pairs: [{base, tuned}]}."""
    each = facts["sampling"]["samples_each"]
    base, tuned = (facts["scores"][name]["samples"] for name in ("base", "tuned"))
    pairs = [{"base": b, "tuned": t} for b, t in zip(base, tuned, strict=True)]
    groups = [pairs[i : i + each] for i in range(0, len(pairs), each)]
    firsts = [group[0]["base"] for group in groups]
    asked = [{name: first[name] for name in ("question", "held_out")} for first in firsts]
    return [{**question, "pairs": group} for question, group in zip(asked, groups, strict=True)]


def three_of(asked: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Three held-out questions for the first screen, by their places and not by their answers."""
    return spread([q for q in asked if q["held_out"]], 3)


def held_out_gain(facts: Facts) -> float | None:
    """The fall of the held-out answer loss."""
    base, tuned = (facts["scores"][name]["answers"]["loss"] for name in ("base", "tuned"))
    return None if base is None or tuned is None else base - tuned


def score_rows(facts: Facts) -> Iterator[dict[str, str]]:
    """The scores of both models, each a value and the words in brackets behind it, mostly a 95% interval."""
    scores, times = facts["scores"], facts["times"]["generation"]
    base, tuned = (evaluate.cells({**scores[name], "times": times[name]}) for name in ("base", "tuned"))
    for label in base:
        if not label.startswith("seconds"):  # these stand under what ran
            row = {"label": label.strip(), "inner": label.startswith(" ")}
            for name, cells in (("base", base), ("tuned", tuned)):
                value, _, rest = cells[label].partition(" (")
                row |= {name: value, f"{name}_interval": rest.removesuffix(")")}
            yield row


def gained(difference: dict[str, float] | None) -> str:
    """The result of `bootstrap` in a sentence; empty if there were too few conversations."""
    if difference is None:
        return ""
    value, unseen, low, high = (f"{difference[name]:+.3f}" for name in ("value", "unseen", "low", "high"))
    return (
        f"Held-out answers, tuned less base: {value} nats a token; "
        f"{unseen} on conversations that had no part in choosing the checkpoint, "
        f"the whole choice repeated on 2,000 resamples (95%: {low} to {high})."
    )


def checkpoint_rows(facts: Facts) -> list[dict[str, Any]]:
    """Rows of the table, at most MOST_ROWS and the chosen ones; losses have three decimals."""
    rows = facts["checkpoints"]
    shown = {id(row) for row in spread(rows, MOST_ROWS)} | {id(row) for row in rows if row["mark"]}
    rows = [row for row in rows if id(row) in shown]
    return [{**row, "cells": [night.decimals(loss) for loss in losses(row, facts)]} for row in rows]


def losses(row: dict[str, Any], facts: Facts) -> list[float | None]:
    texts = [row["base_text"].get(name) for name in facts["base_texts"]]
    return [*(row[name] for name in ("training", "answers", "terminator")), *texts] + (
        [row["forgetting"]] if texts else []
    )


def ran(facts: Facts) -> list[tuple[str, str]]:
    """Facts on the run: data, length, rate, time, machine, versions; names and words."""
    run, times = facts["run"], facts["times"]
    cfg, counts = run["config"], facts["conversations"]
    sides = f"{counts['train']} trained on, {counts['held_out']} held out"
    rows = f"{cfg['batch_size'] * cfg['gradient_accumulation_steps']} rows a step"
    rows += f", {cfg['replay']:.0%} of the rows base text" if cfg["replay"] else ""
    length = f"{run['iterations']} iterations = {facts['epochs']:.1f} epochs"
    training, scoring = (duration(times[f"{name}_seconds"]) for name in ("training", "scoring"))
    speed = f", {times['tokens_per_second']:,.0f} tokens a second" if times["tokens_per_second"] else ""
    sampled = f"answers at {times['generation']['tuned']['tokens_per_second']:,.0f} tokens a second"
    restarts = run["restarts"]
    return [
        ("conversations", f"{run['paths']['conversations']}: {sides}"),
        ("training", f"{length}, {rows}, {cfg['loss_on']} tokens"),
        ("peak rate", f"{run['peak']:g}"),
        ("time", f"{training} of training{speed}; {scoring} of scoring ({sampled})"),
        ("restarts", str(restarts) if restarts is not None else "not known"),
        ("machine", ", ".join(str(v) for v in run["machine"].values())),
        ("versions", ", ".join(f"{name} {version}" for name, version in run["versions"].items())),
        ("made", times["made"]),
    ]


def duration(seconds: float) -> str:
    """A time in seconds, in minutes, or in hours and minutes."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


# ---- text with its invented words and copies ----


def visible_value(value: Any) -> Any:
    """A value of a template with control characters made visible; markup stays as it is."""
    return value if hasattr(value, "__html__") or not isinstance(value, str) else visible(value)


def pieces(sample: dict[str, Any]) -> Iterator[tuple[str, bool, bool]]:
    """An answer in pieces: (text, is an invented word, is copied)."""
    text, kinds = sample["text"], (sample["non_words"], sample["copies"])
    places = sorted({0, len(text), *(place for spans in kinds for span in spans for place in span)})
    for start, end in pairwise(places):
        non_word, copied = (any(a <= start and end <= b for a, b in spans) for spans in kinds)
        yield visible(text[start:end]), non_word, copied


def marked_html(sample: dict[str, Any]) -> Markup:
    """An answer with invented words as <u>, copied runs as <mark>, and all text escaped."""
    out = Markup()
    for text, non_word, copied in pieces(sample):
        piece = Markup("<u>{}</u>").format(text) if non_word else escape(text)
        out += Markup("<mark>{}</mark>").format(piece) if copied else piece
    return out


def marked_markdown(sample: dict[str, Any]) -> Markup:
    """An answer on one line with invented words bold and copied runs in italics."""
    out = ""
    for text, non_word, copied in pieces(sample):
        if stripped := text.strip():
            signs = "**" * non_word, "_" * copied
            piece = f"{signs[1]}{signs[0]}{escaped_markdown(stripped)}{signs[0]}{signs[1]}"
            text = text[: len(text) - len(text.lstrip())] + piece + text[len(text.rstrip()) :]
        out += text
    return Markup(" ".join(out.split()))


def escaped_markdown(value: Any) -> Any:
    """A text on one line in which Markdown and HTML see no signs of their own. Markup stays as it is."""
    if hasattr(value, "__html__"):
        return value
    text = visible(str(value)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(re.sub(r"([\\`*_\[\]|~#])", r"\\\1", text).split())
