"""Where the records of a file of conversations lie. Standard library only.

JSON may come one record a line, as values over several lines, or as one array; plain or compressed by gzip.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

PART = 16 << 20  # bytes of a file that are read at a time
MAX_LINE = 1 << 20  # bytes of a conversation
HOW = 'one conversation a line is needed, such as {"prompt": "...", "completion": "..."}'
SEPARATORS = re.compile(r"[\s,]*")
VALUE = json.JSONDecoder()


class FaultyError(ValueError):
    """A file or a list of conversations cannot be used: one sentence, or several, each on a line."""


@dataclass(frozen=True)
class Source:
    """A file whose records can be read, and how they lie in it."""

    path: str
    container: str = "lines"  # one record a line; "values" over several lines; or an "array"
    zipped: bool = False

    def open(self) -> BinaryIO:
        return gzip.open(self.path, "rb") if self.zipped else open(self.path, "rb")

    @property
    def words(self) -> str:
        """The way in which the records lie in the file, in words, if it is not the usual one."""
        container = {"lines": "", "values": ", not one to a line", "array": ", in a JSON array"}[
            self.container
        ]
        return container + ", compressed by gzip" * self.zipped


def unreadable(path: str | Path, error: Exception) -> FaultyError:
    """The error of a file that the system, or gzip, cannot read."""
    if isinstance(error, (EOFError, zlib.error, gzip.BadGzipFile)):
        return FaultyError(f"{path} is a damaged gzip file ({error}); make or fetch it again.")
    return FaultyError(f"{path} cannot be read: {error.strerror}.")


# ---- where the records lie ----


def container_of(head: bytes) -> str:
    """The way in which records lie in a file that begins so."""
    text = head.removeprefix(BOM_UTF8).strip().decode("latin-1")  # a character a byte
    line, _, rest = text.partition("\n")
    value, end = first_value(line, 0)
    if end == len(line.rstrip()):
        return "array" if is_array_of_records(value) and not rest.strip() else "lines"
    if text.startswith("["):
        record, _ = first_value(text, SEPARATORS.match(text, 1).end())
        if is_array_of_records([record]):
            return "array"
    value, end = first_value(text, 0)
    several = (
        "\n" in text[:end]
        or text[end:].lstrip(" ,")[:1] == text[:1]  # the next one stands on the same line
        or ("\n" not in text and text[end : end + 1] == "\r")  # an old Mac's line end
    )
    return "values" if isinstance(value, (dict, list)) and several else "lines"


def holds_records(head: bytes) -> bool:
    """Whether a file that begins so holds JSON records and no prose."""
    text = head.removeprefix(BOM_UTF8).strip().decode("latin-1")
    if text[:1] not in ("{", "["):
        return False
    value, _ = first_value(text, 0)
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], (dict, list))
    )


def is_array_of_records(value: Any) -> bool:
    """Whether a list holds conversations, not the messages of one."""
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, list) or (isinstance(first, dict) and not first.keys() & {"role", "from"})


def first_value(text: str, at: int) -> tuple[Any, int]:
    """The JSON value that begins there and where it ends; (None, -1) if there is none."""
    try:
        return VALUE.raw_decode(text, at)
    except (ValueError, RecursionError):
        return None, -1


def cut(source: Source) -> list[list[int]]:
    """First and last+1 byte of each part of a file: PART bytes or a little more, up to a record's end."""
    try:
        with source.open() as file:
            size = file.seek(0, os.SEEK_END)
            return cut_lines(file, size) if source.container == "lines" else cut_values(source, file, size)
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(source.path, error) from None


def cut_lines(file: BinaryIO, size: int) -> list[list[int]]:
    parts, start = [], 0
    while start < size:
        file.seek(min(start + PART, size))
        while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
            pass
        parts.append([start, file.tell()])
        start = file.tell()
    return parts


def cut_values(source: Source, file: BinaryIO, size: int) -> list[list[int]]:
    """The parts of a file whose records do not end with their line. Raises FaultyError for a broken one."""
    file.seek(0)
    head = file.read(MAX_LINE)
    start = len(head) - len(head.removeprefix(BOM_UTF8).lstrip())
    start += source.container == "array"
    parts, lines = [], lines_in(head[:start])
    while start < size:
        file.seek(start)
        data = file.read(PART + MAX_LINE)
        text, end = data.decode("latin-1"), 0
        while end < PART and (at := SEPARATORS.match(text, end).end()) < len(text) and text[at] != "]":
            _, last = first_value(text, at)
            if last < 0:
                line = lines + lines_in(data[:at]) + 1
                raise FaultyError(
                    f"{source.path}:{line}: the JSON record that begins here is broken, "
                    f"or longer than {MAX_LINE:,} bytes."
                )
            end = last
        if not end:
            break
        parts.append([start, start + end])
        lines, start = lines + lines_in(data[:end]), start + end
    file.seek(start)
    if (rest := file.read(PART).strip(b" \t\r\n,")) != (b"]" if source.container == "array" else b""):
        what = "goes on behind its end" if rest else "breaks off"
        raise FaultyError(
            f"{source.path}:{lines + 1}: the JSON {what}; "
            "it was not written to its end, or changed afterwards."
        )
    return parts


def lines_in(data: bytes) -> int:
    """The number of line ends in a part."""
    return data.count(b"\n") or data.count(b"\r")


def read_part(source: Source, start: int, end: int) -> bytes:
    try:
        with source.open() as file:
            file.seek(start)
            return file.read(end - start)
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(source.path, error) from None


def records(data: bytes, container: str) -> Iterator[tuple[int, bytes]]:
    """The records of a part that are not blank, each with the number of its line in the part, from 1.

    Of a line that is longer than MAX_LINE only the first MAX_LINE + 1 bytes are given.
    """
    if container == "lines":
        for number, raw in enumerate(BytesIO(data), 1):
            if raw.removeprefix(BOM_UTF8).strip():
                yield number, raw[: MAX_LINE + 1]
        return
    text, end, number = data.decode("latin-1"), 0, 1
    while (at := SEPARATORS.match(text, end).end()) < len(text):
        number += lines_in(data[end:at])
        _, last = first_value(text, at)
        if last < 0:  # the file has changed since it was cut
            last = len(text)
        yield number, data[at:last]
        number, end = number + lines_in(data[at:last]), last
