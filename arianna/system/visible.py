"""Text from models and files, with those characters spelled out that a terminal or a page would not show."""

from __future__ import annotations

CONTROL = {*range(9), *range(11, 32), *range(127, 160)}  # all but tab and new line
# characters that may show a text in another order than it has
DIRECTION = {0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}
# characters that nobody sees, without U+200C and U+200D, which some scripts need
UNSEEN = {0x200B, *range(0x2060, 0x2065), 0x2028, 0x2029, 0xFEFF, *range(0xE0000, 0xE0080)}
SURROGATES = range(0xD800, 0xE000)  # halves of characters, which no file can hold
SPELLED = {
    c: f"\\x{c:02x}" if c < 256 else f"\\u{c:04x}" for c in (*CONTROL, *DIRECTION, *UNSEEN, *SURROGATES)
}


def visible(text: str) -> str:
    r"""A text in which control characters, direction overrides and unseen ones are spelled, as \x1b."""
    return text.translate(SPELLED)


def one_line(error: Exception) -> str:
    """What another package's error says, on one line and short, without SQLAlchemy's link behind it."""
    text = " ".join(str(error).split()).split(" (Background on this error")[0]
    return text[:300].rstrip(".") or type(error).__name__
