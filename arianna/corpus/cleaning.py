"""Clean one text of a conversation for the template; what is removed or changed is counted."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from arianna.corpus.template import ASSISTANT, USER, join_lines

NOT_TEXT = {  # tab and the two characters that end lines are text
    "a control character": re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"),
    "half of a surrogate pair": re.compile(r"[\ud800-\udfff]"),
}
NEW_LINE = re.compile("\r\n?|[\u2028\u2029]")
# zero width, marks and overrides of direction; joiners (U+200C, U+200D) are part of emoji and of some scripts
INVISIBLE = re.compile(
    "[\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]|(?<![^\x00-\x7f])[\u200c\u200d]"
)
FOREIGN = re.compile(
    r"###|<[|\uff5c][\w ]+[|\uff5c]>|\[/?INST\]|</?s>|<(?:start|end)_of_turn>|</?(?:think|tool_\w+)>|<image>"
    r"|\A(?i:user|human|assistant|bot|ai|question|answer|instruction|response): "
    r"|\b(?i:user|human|assistant|answer|output|response):\Z"
)
DAMAGED = re.compile("\ufffd|[\u00c2\u00c3][\x80-\xbf]|\u00e2\u20ac|&(?:quot|amp|lt|gt|nbsp|#\\d+);")
OTHER_LETTERS = re.compile(r"^\s*B:", re.MULTILINE)  # a list of A:, B:, C: is no template

JOINED = "lines of content began with Q: or A: and were joined to the line before"
STRIPPED = "marks Q: and A: of the template stood in the data already and were taken away"
REMOVED = "invisible characters were removed"
MARKED = (
    "texts hold marks of another template ({}), which are trained as they stand; "
    "take them out if they are not meant"
)
SPOILED = (
    "texts hold signs of a damaged encoding or of HTML ({}), which are trained as they stand; mend them if "
    "they are not meant"
)


class LineError(ValueError):
    """One line or record is faulty; the sentence does not name its place."""


def clean(text: str, name: str, counts: Counter[str]) -> str:
    """A text without space at its ends, its lines ended by new lines and none like a turn.

    `name` is what a fault calls it. What was changed is added to `counts`.
    """
    if not text.replace("\n", "").isprintable():  # by far the most are, and need no closer look
        text = plain_characters(text, name, counts)
    text = text.strip()
    if text.startswith((USER, ASSISTANT)) or text.endswith(ASSISTANT):
        text = without_template(text, name, counts)
    marked = "<" in text or "#" in text or "[" in text or ": " in text[:13] or text.endswith(":")
    if marked and (mark := FOREIGN.search(text)):
        counts[f"mark {mark[0].strip()}"] += 1
    if ("&" in text or not text.isascii()) and (damage := DAMAGED.search(text)):
        counts[f"damage {damage[0]}"] += 1
    text, joined = join_lines(text)
    if joined:
        counts[JOINED] += joined
    return text


def plain_characters(text: str, name: str, counts: Counter[str]) -> str:
    """A text with plain line ends, nothing invisible in it. Raises LineError for a control character."""
    for what, pattern in NOT_TEXT.items():
        if bad := pattern.search(text):
            raise LineError(
                f"{name} has U+{ord(bad[0]):04X}, {what}, as its character {bad.start() + 1}; delete it"
            )
    visible, removed = INVISIBLE.subn("", NEW_LINE.sub("\n", text))
    if removed and not visible.strip():
        raise LineError(f"{name} holds only invisible characters (U+{ord(INVISIBLE.search(text)[0]):04X})")
    counts[REMOVED] += removed
    return visible


def without_template(text: str, name: str, counts: Counter[str]) -> str:
    """A question or answer without the Q: and A: that its writer put around it: the template adds them."""
    if name.startswith("the system"):
        return text
    bare = text
    if name.startswith("the question"):
        while bare.startswith(USER):
            bare = bare.removeprefix(USER).lstrip()
        bare = bare.removesuffix(f"\n{ASSISTANT}").rstrip()
    elif text.startswith(ASSISTANT) and not OTHER_LETTERS.search(text):
        while bare.startswith(ASSISTANT):
            bare = bare.removeprefix(ASSISTANT).lstrip()
    counts[STRIPPED] += bare != text
    return bare


def json_kind(value: Any) -> str:
    """The kind of a JSON value in words."""
    words = {type(None): "null", bool: "true or false", str: "text", list: "a list", dict: "an object"}
    return words.get(type(value), "a number")


def shown(text: str) -> str:
    """A text from a file as an error may print it: short, one line, no half characters."""
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
