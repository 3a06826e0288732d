"""The pages of the morning report: HTML and Markdown from its facts and drawings (see report.py)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arianna import evaluate
from arianna.formats import compared
from arianna.reporting import charts
from arianna.reporting.scored_run import spread

if TYPE_CHECKING:  # markupsafe and jinja2 are needed for the pages alone
    from jinja2 import Environment
    from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")
MOST_BYTES = 1_900_000  # of the HTML page
MOST_ROWS = 60  # of the table of checkpoints
Facts = dict[str, Any]


def html(facts: Facts, drawings: dict[str, Any]) -> str:
    """One file that needs nothing else. Questions are left out, and that is told, where it would be larger than MOST_BYTES."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"marked": marked_html}
    return fitted(environment, "report.html.j2", facts, drawings)


def markdown(facts: Facts) -> str:
    """The same to be read as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), finalize=escaped_markdown, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"marked": marked_markdown}
    return fitted(environment, "report.md.j2", facts, {})


def fitted(environment: Environment, template: str, facts: Facts, drawings: dict[str, Any]) -> str:
    view, asked = view_of(facts), questions(facts)
    for most in (len(asked), 100, 30, 10):
        shown = spread(asked, most)
        text = environment.get_template(template).render(
            **view, drawings=drawings, questions=shown, left_out=len(asked) - len(shown), three=three_of(asked)
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
        "format_rows": compared.cells(facts["formats"]),
        "text_names": [charts.text_name(name) for name in facts["base_texts"]],
        "ran": ran(facts),
    }


def questions(facts: Facts) -> list[dict[str, Any]]:
    """Each question with its pairs of answers: {question, held_out, pairs: [{base, tuned}]}."""
    each, base, tuned = (facts["sampling"]["samples_each"], *(facts["scores"][name]["samples"] for name in ("base", "tuned")))
    pairs = [{"base": b, "tuned": t} for b, t in zip(base, tuned, strict=True)]
    groups = [pairs[i : i + each] for i in range(0, len(pairs), each)]
    return [{"question": g[0]["base"]["question"], "held_out": g[0]["base"]["held_out"], "pairs": g} for g in groups]


def three_of(asked: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For the first screen: two held-out questions and an everyday one, by their places and not by their answers."""
    held_out, everyday = ([q for q in asked if q["held_out"] is side] for side in (True, False))
    picked = [*spread(held_out, 2), *everyday[:1]]
    return picked if len(picked) == 3 else list(asked[:3])


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
    """What `intervals.bootstrap` found, in a sentence; empty if there were too few conversations."""
    if difference is None:
        return ""
    value, unseen, low, high = (f"{difference[name]:+.3f}" for name in ("value", "unseen", "low", "high"))
    return (
        f"Held-out answers, tuned less base: {value} nats a token; {unseen} on conversations that had no part in choosing the checkpoint, "
        f"the whole choice repeated on 2,000 resamples (95%: {low} to {high})."
    )


def checkpoint_rows(facts: Facts) -> list[dict[str, Any]]:
    """Rows of the table, of many only some, but always what was chosen; losses with three decimals."""
    rows = facts["checkpoints"]
    kept = {id(row) for row in spread(rows, MOST_ROWS)} | {id(row) for row in rows if row["mark"]}
    return [{**row, "cells": [decimals(loss) for loss in losses(row, facts)]} for row in rows if id(row) in kept]


def losses(row: dict[str, Any], facts: Facts) -> list[float | None]:
    texts = [row["base_text"].get(name) for name in facts["base_texts"]]
    return [row["training"], row["answers"], row["terminator"], *texts, *([row["forgetting"]] if texts else [])]


def decimals(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def ran(facts: Facts) -> list[tuple[str, str]]:
    """What ran: names and words."""
    run, times = facts["run"], facts["times"]
    cfg, counts = run["config"], facts["conversations"]
    speed = f", {times['tokens_per_second']:,.0f} tokens a second" if times["tokens_per_second"] else ""
    sampled = f" (answers at {times['generation']['tuned']['tokens_per_second']:,.0f} tokens a second)"
    restarts = run["restarts"]
    rows = cfg["batch_size"] * cfg["gradient_accumulation_steps"]
    replay = f", {cfg['replay']:.0%} of the rows base text" if cfg["replay"] else ""
    found = [
        ("conversations", f"{run['paths']['conversations']}: {counts['train']} trained on, {counts['held_out']} held out"),
        ("training", f"{run['iterations']} iterations = {facts['epochs']:.1f} epochs, {rows} rows a step{replay}, {cfg['loss_on']} tokens"),
        ("peak rate", f"{run['peak']:g}"),
        ("time", f"{duration(times['training_seconds'])} of training{speed}; {duration(times['scoring_seconds'])} of scoring{sampled}"),
        ("restarts", str(restarts) if restarts is not None else "not known"),
        ("machine", ", ".join(str(v) for v in run["machine"].values())),
        ("versions", ", ".join(f"{name} {version}" for name, version in run["versions"].items())),
        ("made", times["made"]),
    ]
    return found


def duration(seconds: float) -> str:
    """90 to "2 min": seconds, minutes, or hours and minutes."""
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


# ---- text with its non-words and copies ----


def pieces(sample: dict[str, Any]) -> Iterator[tuple[str, bool, bool]]:
    """An answer in pieces: (text, is a non-word, is copied)."""
    text, spans = sample["text"], [(span, i) for i, name in enumerate(("non_words", "copies")) for span in sample[name]]
    places = sorted({0, len(text), *(place for span, _ in spans for place in span)})
    for start, end in zip(places, places[1:], strict=False):
        within = [any(kind == i and a <= start and end <= b for (a, b), kind in spans) for i in (0, 1)]
        yield text[start:end], within[0], within[1]


def marked_html(sample: dict[str, Any]) -> Markup:
    """Non-words as <u>, copied runs as <mark>, all text escaped."""
    from markupsafe import Markup, escape

    out = Markup()
    for text, non_word, copied in pieces(sample):
        piece = Markup("<u>{}</u>").format(text) if non_word else escape(text)
        out += Markup("<mark>{}</mark>").format(piece) if copied else piece
    return out


def marked_markdown(sample: dict[str, Any]) -> Markup:
    """Non-words bold, copied runs in italics, on one line."""
    from markupsafe import Markup

    out = ""
    for text, non_word, copied in pieces(sample):
        stripped = text.strip()
        piece = escaped_markdown(stripped)
        for sign in ["**"] * non_word + ["_"] * copied:
            piece = f"{sign}{piece}{sign}" if stripped else piece
        out += text[: len(text) - len(text.lstrip())] + piece + text[len(text.rstrip()) :] if stripped else text
    return Markup(" ".join(out.split()))


def escaped_markdown(value: Any) -> Any:
    """Text in which Markdown and HTML see no signs of their own, on one line. Markup stays as it is."""
    if hasattr(value, "__html__"):
        return value
    text = str(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(re.sub(r"([\\`*_\[\]|~#])", r"\\\1", text).split())
