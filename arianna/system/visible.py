"""Text from models and files, with the characters spelled out that a terminal or a page would obey instead
of showing.
"""

from __future__ import annotations

CONTROL = {*range(9), *range(11, 32), *range(127, 160)}  # all but tab and new line
DIRECTION = {
    0x061C,
    0x200E,
    0x200F,
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
}  # may show a text in another order than it has
UNSEEN = {
    0x200B,
    *range(0x2060, 0x2065),
    0x2028,
    0x2029,
    0xFEFF,
    *range(0xE0000, 0xE0080),
}  # not U+200C and U+200D, which scripts need
SURROGATES = range(0xD800, 0xE000)  # halves of characters, which no file can hold
SPELLED = {
    c: f"\\x{c:02x}" if c < 256 else f"\\u{c:04x}" for c in (*CONTROL, *DIRECTION, *UNSEEN, *SURROGATES)
}


def visible(text: str) -> str:
    r"""A text in which control characters, direction overrides and what nobody sees are spelled, such as
    \x1b or \u202e.
    """
    return text.translate(SPELLED)
