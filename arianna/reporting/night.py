"""The trials of a search over settings, for the report, from a run's search.json (see arianna/search.py)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BEST = 10  # trials in the table
Search = dict[str, Any]


def read_search(path: Path) -> Search | None:
    """A run's search as the report needs it; None where there was none, or none that can be read."""
    try:
        search = json.loads(path.read_bytes())
        trials = [trial_of(trial) for trial in search["trials"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    scored = sorted((t for t in trials if t["value"] is not None), key=lambda t: (t["value"], t["number"]))
    if not scored:
        return None
    return {
        "seconds": number(search.get("seconds")) or max(t["seconds"] for t in trials),
        "trials": trials,
        "best": scored[:BEST],
        "presets": presets_of(search.get("presets") or {}, {t["preset"] for t in trials}),
        "base": number((search.get("base") or {}).get("answers")),
        "importances": importances_of(search.get("importances") or {}),
        "expected_gain": number(search.get("expected_gain")),
    }


def trial_of(trial: dict[str, Any]) -> dict[str, Any]:
    """A trial's numbers; its value only where it came to its end."""
    value = number(trial.get("value")) if trial.get("state", "complete") == "complete" else None
    losses = {name: number(trial.get(name)) for name in ("answers", "forgetting")}
    when = {"number": int(trial["number"]), "seconds": float(trial["seconds"])}
    set_to = {"preset": trial.get("preset"), "params": dict(trial.get("params") or {})}
    return {**when, "value": value, **losses, **set_to}


def presets_of(values: dict[str, Any], tried: set[str | None]) -> list[tuple[str, str]]:
    """The losses of the presets on the same folds, in words where one did not come to its end."""
    instead = {True: "(given up: worse on the first folds)", False: "(no time for it)"}
    losses = ((name, number(value)) for name, value in values.items())
    return [(name, instead[name in tried] if loss is None else decimals(loss)) for name, loss in losses]


def importances_of(values: dict[str, Any]) -> list[tuple[str, float]]:
    """Settings by their importance, the greatest first."""
    known = [(name, value) for name, value in values.items() if number(value) is not None]
    return sorted(known, key=lambda pair: -pair[1])


def number(value: Any) -> float | None:
    """The value as a finite number, None if it is none."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


# ---- in words ----


def view_of(search: Search, held_out_gain: float | None) -> dict[str, Any]:
    """The sentences and the table that the templates show of a search."""
    names = list(dict.fromkeys(name for trial in search["best"] for name in trial["params"]))
    return {
        "sentences": [sentence(search), presets(search), gains(search, held_out_gain), importances(search)],
        "names": names,
        "rows": [row(trial, names) for trial in search["best"]],
    }


def sentence(search: Search) -> str:
    """A sentence on the number of trials, their time, and the best one's value."""
    trials, ended = len(search["trials"]), sum(t["value"] is not None for t in search["trials"])
    best = search["best"][0]
    return (
        f"{trials} trials in {search['seconds'] / 60:.0f} minutes, {trials - ended} of them stopped early. "
        f"The best one, number {best['number']}, reached {best['value']:.3f} nats a token "
        "on folds of the conversations to train on."
    )


def presets(search: Search) -> str:
    """A sentence on the values of base and presets on the folds that the trials were scored on."""
    base = [] if search["base"] is None else [("the base", decimals(search["base"]))]
    reached = ", ".join(f"{name} {value}" for name, value in [*search["presets"], *base])
    return f"On the same folds: {reached}." if reached else ""


def gains(search: Search, held_out_gain: float | None) -> str:
    """The expected gain beside the real one: they differ where the search fooled itself."""
    if search["expected_gain"] is None or held_out_gain is None:
        return ""
    return (
        "Gain over the base that the folds let expect, a little too kind since the best of many was taken: "
        f"{search['expected_gain']:.3f} nats a token; "
        f"on the held-out conversations, which had no part in the search: {held_out_gain:.3f}."
    )


def importances(search: Search) -> str:
    """A sentence on the settings that decided how good a trial was."""
    settings = ", ".join(f"{name} {value:.0%}" for name, value in search["importances"])
    return f"What counted most: {settings}." if settings else ""


def row(trial: dict[str, Any], names: list[str]) -> list[str]:
    """The cells of a trial: its number, value, both losses, its settings."""
    losses = [decimals(trial[name]) for name in ("value", "answers", "forgetting")]
    return [str(trial["number"]), *losses, *(setting(trial["params"].get(name)) for name in names)]


def decimals(value: float | None) -> str:
    """A loss with three decimals."""
    return "–" if value is None else f"{value:.3f}"


def setting(value: Any) -> str:
    """A setting's value, numbers shortened."""
    return "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def dots(search: Search) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """(minute, value) of each trial that came to its end, and (minute, loss on its folds) of each stopped."""
    trials = [(t["seconds"] / 60, t["value"], t["answers"]) for t in search["trials"]]
    ended = [(minute, value) for minute, value, _ in trials if value is not None]
    return ended, [(minute, seen) for minute, value, seen in trials if value is None and seen is not None]


def best_so_far(search: Search) -> Iterator[tuple[float, float]]:
    """Minutes and value of each trial that was better than all before it."""
    best = math.inf
    for trial in sorted(search["trials"], key=lambda t: t["seconds"]):
        if trial["value"] is not None and trial["value"] < best:
            best = trial["value"]
            yield trial["seconds"] / 60, best
