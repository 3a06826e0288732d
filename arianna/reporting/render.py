"""The pages of the morning report: HTML and Markdown from its facts and drawings (see report.py)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
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
MOST_BYTES = 1_900_000  # of the HTML page
MOST_ROWS = 60  # of the table of checkpoints
Facts = dict[str, Any]


def html(facts: Facts, drawings: dict[str, Any]) -> str:
    """One file that needs nothing else. Questions are left out, and that is told, where it would be larger
    than MOST_BYTES.
    """
    return fitted(environment(marked_html, visible_value, autoescape=True), "report.html.j2", facts, drawings)


def markdown(facts: Facts) -> str:
    """The same to be read as text."""
    return fitted(
        environment(marked_markdown, escaped_markdown, lstrip_blocks=True), "report.md.j2", facts, {}
    )


def environment(
    marked: Callable[[dict[str, Any]], Markup], finalize: Callable[[Any], Any], **options: bool
) -> Environment:
    """Jinja's environment for a kind of page: how an answer is marked up, and how any other value is made
    safe.
    """

    loader = FileSystemLoader(TEMPLATES)
    made = Environment(
        loader=loader, finalize=finalize, undefined=StrictUndefined, trim_blocks=True, **options
    )
    made.filters["marked"] = marked
    return made


def fitted(environment: Environment, template: str, facts: Facts, drawings: dict[str, Any]) -> str:
    view, asked = view_of(facts), questions(facts)
    for most in (len(asked), 100, 30, 10):
        shown = spread(asked, most)
        text = environment.get_template(template).render(
            **view,
            drawings=drawings,
            questions=shown,
            left_out=len(asked) - len(shown),
            three=three_of(asked),
        )
        if len(text.encode()) <= MOST_BYTES:
            break
    return text


# ---- what the templates are given ----


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
    each, base, tuned = (
        facts["sampling"]["samples_each"],
        *(facts["scores"][name]["samples"] for name in ("base", "tuned")),
    )
    pairs = [{"base": b, "tuned": t} for b, t in zip(base, tuned, strict=True)]
    groups = [pairs[i : i + each] for i in range(0, len(pairs), each)]
    return [
        {"question": g[0]["base"]["question"], "held_out": g[0]["base"]["held_out"], "pairs": g}
        for g in groups
    ]


def three_of(asked: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Three held-out questions for the first screen, by their places and not by their answers."""
    return spread([q for q in asked if q["held_out"]], 3)


def held_out_gain(facts: Facts) -> float | None:
    """By how much the held-out answer loss fell."""
    base, tuned = (facts["scores"][name]["answers"]["loss"] for name in ("base", "tuned"))
    return None if base is None or tuned is None else base - tuned


def score_rows(facts: Facts) -> Iterator[dict[str, str]]:
    """The scores of both models: a value and what stands in brackets behind it, mostly its 95% interval."""
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
    """What `bootstrap` found, in a sentence; empty if there were too few conversations."""
    if difference is None:
        return ""
    value, unseen, low, high = (f"{difference[name]:+.3f}" for name in ("value", "unseen", "low", "high"))
    return (
        f"Held-out answers, tuned less base: {value} nats a token; {unseen} on conversations that had no "
        "part in choosing the checkpoint, "
        f"the whole choice repeated on 2,000 resamples (95%: {low} to {high})."
    )


def checkpoint_rows(facts: Facts) -> list[dict[str, Any]]:
    """Rows of the table, of many only some, but always what was chosen; losses with three decimals."""
    rows = facts["checkpoints"]
    kept = {id(row) for row in spread(rows, MOST_ROWS)} | {id(row) for row in rows if row["mark"]}
    return [
        {**row, "cells": [night.decimals(loss) for loss in losses(row, facts)]}
        for row in rows
        if id(row) in kept
    ]


def losses(row: dict[str, Any], facts: Facts) -> list[float | None]:
    texts = [row["base_text"].get(name) for name in facts["base_texts"]]
    return [
        row["training"],
        row["answers"],
        row["terminator"],
        *texts,
        *([row["forgetting"]] if texts else []),
    ]


def ran(facts: Facts) -> list[tuple[str, str]]:
    """What ran: names and words."""
    run, times = facts["run"], facts["times"]
    cfg, counts = run["config"], facts["conversations"]
    speed = f", {times['tokens_per_second']:,.0f} tokens a second" if times["tokens_per_second"] else ""
    sampled = f" (answers at {times['generation']['tuned']['tokens_per_second']:,.0f} tokens a second)"
    restarts = run["restarts"]
    rows = cfg["batch_size"] * cfg["gradient_accumulation_steps"]
    replay = f", {cfg['replay']:.0%} of the rows base text" if cfg["replay"] else ""
    lines = [
        (
            "conversations",
            f"{run['paths']['conversations']}: {counts['train']} trained on, {counts['held_out']} held out",
        ),
        (
            "training",
            f"{run['iterations']} iterations = {facts['epochs']:.1f} epochs, {rows} rows a step{replay}, "
            f"{cfg['loss_on']} tokens",
        ),
        ("peak rate", f"{run['peak']:g}"),
        (
            "time",
            f"{duration(times['training_seconds'])} of training{speed}; "
            f"{duration(times['scoring_seconds'])} of scoring{sampled}",
        ),
        ("restarts", str(restarts) if restarts is not None else "not known"),
        ("machine", ", ".join(str(v) for v in run["machine"].values())),
        ("versions", ", ".join(f"{name} {version}" for name, version in run["versions"].items())),
        ("made", times["made"]),
    ]
    return lines


def duration(seconds: float) -> str:
    """90 to "2 min": seconds, minutes, or hours and minutes."""
    minutes = round(seconds / 60)
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{minutes} min"
        if minutes < 90
        else f"{minutes // 60} h {minutes % 60:02} min"
    )


# ---- text with its invented words and copies ----


def visible_value(value: Any) -> Any:
    """A value of a template with control characters made visible; markup stays as it is."""
    return value if hasattr(value, "__html__") or not isinstance(value, str) else visible(value)


def pieces(sample: dict[str, Any]) -> Iterator[tuple[str, bool, bool]]:
    """An answer in pieces: (text, is an invented word, is copied)."""
    text, spans = (
        sample["text"],
        [(span, i) for i, name in enumerate(("non_words", "copies")) for span in sample[name]],
    )
    places = sorted({0, len(text), *(place for span, _ in spans for place in span)})
    for start, end in zip(places, places[1:], strict=False):
        within = [any(kind == i and a <= start and end <= b for (a, b), kind in spans) for i in (0, 1)]
        yield visible(text[start:end]), within[0], within[1]


def marked_html(sample: dict[str, Any]) -> Markup:
    """Invented words as <u>, copied runs as <mark>, all text escaped."""

    out = Markup()
    for text, non_word, copied in pieces(sample):
        piece = Markup("<u>{}</u>").format(text) if non_word else escape(text)
        out += Markup("<mark>{}</mark>").format(piece) if copied else piece
    return out


def marked_markdown(sample: dict[str, Any]) -> Markup:
    """Invented words bold, copied runs in italics, on one line."""

    out = ""
    for text, non_word, copied in pieces(sample):
        stripped = text.strip()
        piece = escaped_markdown(stripped)
        for sign in ["**"] * non_word + ["_"] * copied:
            piece = f"{sign}{piece}{sign}" if stripped else piece
        out += (
            text[: len(text) - len(text.lstrip())] + piece + text[len(text.rstrip()) :] if stripped else text
        )
    return Markup(" ".join(out.split()))


def escaped_markdown(value: Any) -> Any:
    """Text in which Markdown and HTML see no signs of their own, on one line. Markup stays as it is."""
    if hasattr(value, "__html__"):
        return value
    text = visible(str(value)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(re.sub(r"([\\`*_\[\]|~#])", r"\\\1", text).split())
