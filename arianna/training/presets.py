"""Recipes of a fine-tune by name, and what the measurements behind docs/defaults.md say of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from arianna import ROOT

MEASURED = ROOT / "bench" / "defaults.jsonl"  # a run a line, made by bench/defaults.py
DEFAULT, BEST = "the default", "--preset=best"  # what that calls the two
PRESETS: dict[str, dict[str, Any]] = {  # settings by name; `asked` is what the job's user asked for
    "asked": {"learning_rate": 1e-5, "max_iters": 1000},
    "best": {"learning_rate": 4e-4, "max_iters": 50, "batch_size": 16, "replay": 0.5, "eval_interval": 10},
}


def note(settings: Mapping[str, Any]) -> str:
    """What `--preset=best` would have gained where a run has the default's settings, from the runs of both that were measured."""
    usual = {"batch_size": 8, "replay": 0.0, "loss_on": "all", **PRESETS["asked"]}
    if any(settings[name] != value for name, value in usual.items()) or not MEASURED.is_file():
        return ""
    lines = [json.loads(line) for line in MEASURED.read_text().splitlines()]
    runs = {recipe: [line for line in lines if line["recipe"] == recipe] for recipe in (DEFAULT, BEST)}
    if not all(runs.values()):
        return ""
    (gain, kept), (best_gain, best_kept) = (means(runs[recipe]) for recipe in (DEFAULT, BEST))
    steps = {name: preset["max_iters"] * preset.get("batch_size", 8) for name, preset in PRESETS.items()}
    return (
        f"--preset=best takes a {steps['asked'] / steps['best']:.0f}th of the rows. On the shipped base and conversations "
        f"it changed held-out answers by {best_gain:+.3f} nats where these settings changed them by {gain:+.3f}, and base text "
        f"by {best_kept:+.3f} instead of {kept:+.3f} (means of {len(runs[BEST])} and {len(runs[DEFAULT])} runs; docs/defaults.md)."
    )


def means(runs: list[dict[str, Any]]) -> tuple[float, float]:
    """By how much held-out answers and the most forgotten base text changed with what is used of each run, in nats a token."""
    gains, kept = [], []
    for line in runs:
        (_, answers, texts), (_, _, used, used_texts) = line["points"][0], line["used"]
        gains.append(used - answers)
        kept.append(max(used_texts[name] - texts[name] for name in texts))
    return sum(gains) / len(runs), sum(kept) / len(runs)
