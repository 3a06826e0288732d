"""A reader's preferences between both models' answers, shown without names by `sample.py --blind`.

The file has a line of JSON for each choice: {"question": ..., "preferred": "tuned", "base" or "equal", ...}.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

NORMAL = 1.959964  # 95% of the standard normal distribution lie between minus this and this


def read_preferences(path: Path) -> Counter[str]:
    """The number of preferences for each side; lines that are cut off or of another kind are left out."""
    counts: Counter[str] = Counter()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            preferred = json.loads(line)["preferred"]
        except (ValueError, KeyError, TypeError):
            continue
        if preferred in ("tuned", "base", "equal"):
            counts[preferred] += 1
    return counts


def summary(path: Path) -> dict[str, Any] | None:
    """Choices by side, and the tuned model's share of those that name one, with a 95% interval; or None."""
    counts = read_preferences(path)
    if not counts:
        return None
    sides = {name: counts[name] for name in ("tuned", "base", "equal")}
    return {"choices": counts.total(), **sides, **wilson(counts["tuned"], counts["tuned"] + counts["base"])}


def wilson(hits: int, n: int) -> dict[str, float | None]:
    """A share with its 95% score interval (Wilson 1927), which holds for few choices, too."""
    if n == 0:
        return {"value": None, "low": None, "high": None}
    share, z = hits / n, NORMAL**2 / n
    middle, half = (share + z / 2) / (1 + z), math.sqrt(z * (share * (1 - share) + z / 4)) / (1 + z)
    return {"value": share, "low": max(middle - half, 0.0), "high": min(middle + half, 1.0)}


def sentence(choices: dict[str, Any]) -> str:
    """The sentence of a summary."""
    counts = f"tuned preferred in {choices['tuned']}, base in {choices['base']}"
    result = f"{choices['choices']} answers compared without names: {counts}, neither in {choices['equal']}"
    if choices["value"] is None:
        return f"{result}."
    return f"{result} ({choices['value']:.0%} for tuned, 95%: {choices['low']:.0%} to {choices['high']:.0%})."
