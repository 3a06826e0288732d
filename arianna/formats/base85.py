"""Bytes as text that HTML and JSON leave as it is: base 85, longer by a quarter (base64: by a third)."""

from __future__ import annotations

import numpy as np

# the printable characters without those that HTML or JSON would take for their own
DIGITS = b"!#$%()*+,.0123456789:;=?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_abcdefghijklmnopqrstuvwxyz{|}~"
LINE = 500  # digits


def encode(data: bytes) -> str:
    """The text of bytes, of which each four become a little-endian number of five digits."""
    numbers = np.frombuffer(data, "<u4")
    digits = np.empty((len(numbers), 5), np.uint8)
    for place in range(4, -1, -1):
        numbers, digits[:, place] = np.divmod(numbers, np.uint32(85))
    text = np.frombuffer(DIGITS, np.uint8)[digits].tobytes().decode("ascii")
    return "\n".join(text[i : i + LINE] for i in range(0, len(text), LINE))


def decode(text: bytes) -> bytes:
    """The inverse of `encode`. Raises ValueError for what it does not write."""
    value = np.full(256, 85, np.uint8)
    value[np.frombuffer(DIGITS, np.uint8)] = np.arange(85)
    digits = value[np.frombuffer(text.replace(b"\n", b""), np.uint8)]
    if len(digits) % 5 or (digits == 85).any():
        raise ValueError("it is not in base 85")
    numbers = digits.reshape(-1, 5) @ (85 ** np.arange(4, -1, -1, dtype=np.uint64))
    if (numbers >> np.uint64(32)).any():
        raise ValueError("it is not in base 85")
    return numbers.astype("<u4").tobytes()
