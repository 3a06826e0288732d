"""Texts, remarks and columns on a terminal, and the one key that a person types. Standard library only."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from itertools import chain

from arianna.system.visible import visible

GAP = " | "  # between two columns
NARROWEST = 32  # characters; narrower columns stand one below the other


def say(text: str) -> None:
    """Print a text at once, without an end of line; control characters are spelled out."""
    print(visible(text), end="", flush=True)


def note(text: str) -> None:
    """Print a remark in brackets on stderr, so that it is no part of what stdout holds."""
    sys.stdout.flush()
    print(f"({visible(text)})", file=sys.stderr, flush=True)


# ---- columns ----


def beside(heading: str, names: Sequence[str], cells: Sequence[str], width: int) -> str:
    """A heading and below it texts in columns that fill `width`; one below the other where it is narrow."""
    column = (width - len(GAP) * (len(cells) - 1)) // len(cells)
    top = wrapped(heading, width)
    if column < NARROWEST or len(cells) == 1:
        pairs = zip(names, cells, strict=True)
        below = (["", *wrapped(f"[{name}]", width), *wrapped(cell, width)] for name, cell in pairs)
        return "\n".join([*top, *chain(*below)])
    pairs = zip(names, cells, strict=True)
    blocks = [[*wrapped(name, column), "-" * column, *wrapped(cell, column)] for name, cell in pairs]
    high = max(map(len, blocks))
    rows = zip(*([*block, *[""] * (high - len(block))] for block in blocks), strict=True)
    return "\n".join([*top, "", *(GAP.join(f"{cell:{column}}" for cell in row).rstrip() for row in rows)])


def wrapped(text: str, width: int) -> list[str]:
    """The lines of a text, none longer than `width`."""
    return [row for line in text.strip().split("\n") for row in textwrap.wrap(line, width) or [""]]


# ---- keys ----


def one_key(prompt: str) -> str:
    """The next key that is typed; without a terminal, the next line's first character; "" at the end."""
    print(prompt, end="", flush=True)
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return (line.strip() or "\n")[:1] if line else ""
    key = windows_key() if sys.platform == "win32" else posix_key()
    print(visible(key).strip())
    return key


def posix_key() -> str:
    """One key, without waiting for the end of the line. Ctrl-C interrupts as ever; Ctrl-D gives ""."""
    import termios  # POSIX alone has it
    import tty

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin, termios.TCSANOW)  # what was typed ahead stays
        key = sys.stdin.read(1)
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
    return "" if key == "\x04" else key


def windows_key() -> str:
    """One key from a console of Windows."""
    import msvcrt  # Windows alone has it

    key = msvcrt.getwch()
    if key == "\x03":  # getwch hands Ctrl-C on as a key
        raise KeyboardInterrupt
    return "" if key in "\x04\x1a" else key
