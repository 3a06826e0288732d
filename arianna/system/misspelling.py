"""Names that are meant by misspelled ones, where that is certain: a hint must not lead to another thing."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name of which this one is a misspelling, if any is; of a negation, `name=False`."""
    if name.startswith("no") and (meant := name.removeprefix("no").lstrip("_")) in known:
        return f"{meant}=False"
    alike = [other for other in known if is_misspelling(name, other)]
    return next(iter(difflib.get_close_matches(name, alike, n=1)), None)


def is_misspelling(name: str, other: str) -> bool:
    """Whether two names differ by letters alone, not by a number or by a word of another meaning."""
    words, others = name.split("_"), other.split("_")
    if re.findall(r"\d", name) != re.findall(r"\d", other) or min(len(name), len(other)) < 2:
        return False
    if len(words) != len(others):
        return name.replace("_", "") == other.replace("_", "")
    pairs = zip(words, others, strict=True)
    return all(difflib.SequenceMatcher(None, *pair).ratio() >= 0.8 for pair in pairs)
