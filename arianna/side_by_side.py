"""The texts of models beside each other: in columns for a terminal, in tables for Markdown. Standard library only."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from itertools import chain

GAP, NARROWEST = " | ", 32  # between two columns; characters of a column, with less they stand one below the other


def beside(heading: str, names: Sequence[str], cells: Sequence[str], width: int) -> str:
    """A prompt, and below it the models' texts in columns that fill `width`; one below the other where that is too narrow."""
    column = (width - len(GAP) * (len(cells) - 1)) // len(cells)
    top = wrapped(heading, width)
    if column < NARROWEST or len(cells) == 1:
        below = (["", *wrapped(f"[{name}]", width), *wrapped(cell, width)] for name, cell in zip(names, cells, strict=True))
        return "\n".join([*top, *chain(*below)])
    blocks = [[*wrapped(name, column), "-" * column, *wrapped(cell, column)] for name, cell in zip(names, cells, strict=True)]
    high = max(map(len, blocks))
    rows = zip(*([*block, *[""] * (high - len(block))] for block in blocks), strict=True)
    return "\n".join([*top, "", *(GAP.join(f"{cell:{column}}" for cell in row).rstrip() for row in rows)])


def wrapped(text: str, width: int) -> list[str]:
    """The lines of a text, none longer than `width`."""
    return [part for line in text.strip().split("\n") for part in textwrap.wrap(line, width) or [""]]


def markdown(pairs: Sequence[tuple[str, Sequence[str]]], names: Sequence[str], drawn: str) -> str:
    """A table a prompt, a column a model. `drawn`: how the texts were sampled."""
    lines = [f"# {' and '.join(map(literal, names))}", "", literal(drawn)]
    for heading, cells in pairs:
        lines += ["", f"## {literal(' '.join(heading.split())) or '(no prompt)'}", ""]
        lines += [f"| {' | '.join(row)} |" for row in (map(literal, names), ["---"] * len(cells), map(literal, cells))]
    return "\n".join(lines) + "\n"


def literal(text: str) -> str:
    """A text so that Markdown shows it as it is, HTML in it included."""
    return re.sub(r"([\\`*_\[\]<>|#~&$])", r"\\\1", text.strip()).replace("\n", "<br>")
