"""A file of conversations as a whole: what it is, where its records lie, why it cannot be read.

JSON may come one record a line, as values over several lines, or as one array; plain or compressed by gzip.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from arianna.corpus.cleaning import FOREIGN

PART = 16 << 20  # bytes of a file that are read at a time
MAX_LINE = 1 << 20  # bytes of a conversation
LINES_LOOKED_AT = 20  # lines of a file that may be no JSON at all
HOW = 'one conversation a line is needed, such as {"prompt": "...", "completion": "..."}'
SEPARATORS = re.compile(r"[\s,]*")
VALUE = json.JSONDecoder()
BINARY = {  # first bytes of files that hold no conversations, and what to do with them
    b"PK\x03\x04": "a zip file (as documents and checkpoints are too); unpack it and give the .jsonl in it",
    b"PAR1": "a Parquet file; save it as JSON lines, with pandas: to_json(out, orient='records', lines=True)",
    b"ARROW1": "an Arrow file; save it as JSON lines, datasets.load_from_disk(...).to_json(out)",
    b"%PDF": "a PDF",
    b"SQLite format 3": "an SQLite database; export its conversations as JSON lines",
    b"GGUF": "a GGUF model, which belongs behind --base",
    b"BZh": "a bzip2 file; unpack it with bunzip2",
    b"\xfd7zXZ": "an xz file; unpack it with unxz",
    b"\x28\xb5\x2f\xfd": "a Zstandard file; unpack it with unzstd",
    b"7z\xbc\xaf": "a 7z archive; unpack it and give the .jsonl in it",
    b"\x1f\x8b": "compressed twice by gzip; unpack it once",
    b"\xd0\xcf\x11\xe0": "an old Office document; save it as JSON lines",
    b"{\\rtf": "an RTF document; save it as JSON lines",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself; fetch that with `git lfs pull`",
}
ENCODINGS = {  # of two or four bytes a character, with their marks of byte order, the longer first
    "UTF-32LE": b"\xff\xfe\0\0",
    "UTF-32BE": b"\0\0\xfe\xff",
    "UTF-16LE": b"\xff\xfe",
    "UTF-16BE": b"\xfe\xff",
}
CONTROL = bytes({*range(32)} - set(b"\t\n\v\f\r\x1b\x1e"))
BEGINS = re.compile(rb'\s*(?:(?:\[\s*)*\{\s*["}]|(?:\[\s*)+["\]])')  # of a file of JSON


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
        """How the records lie in the file, where it is not the usual way."""
        container = {"lines": "", "values": ", not one to a line", "array": ", in a JSON array"}[
            self.container
        ]
        return container + ", compressed by gzip" * self.zipped


# ---- recognised as a whole ----


def recognise(path: str | Path) -> Source:
    """The source that a file is. Raises FaultyError with one sentence if its conversations cannot be read."""
    check_path(str(path))
    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        source = Source(str(path), zipped=zipped)
        with source.open() as file:
            head = file.read(MAX_LINE)
            while head and not head.removeprefix(BOM_UTF8).strip() and (more := file.read(MAX_LINE)):
                head = more  # white space
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error) from None
    check_head(source, head)
    return Source(str(path), container_of(head), zipped)


def unreadable(path: str | Path, error: Exception) -> FaultyError:
    """The error of a file that the system, or gzip, cannot read."""
    if isinstance(error, (EOFError, zlib.error, gzip.BadGzipFile)):
        return FaultyError(f"{path} is a damaged gzip file ({error}); make or fetch it again.")
    return FaultyError(f"{path} cannot be read: {error.strerror}.")


def check_path(path: str) -> None:
    """Raise FaultyError unless a file can be there."""
    if path.lower().startswith("file://"):
        raise FaultyError(f"{path} is an address; give the path of the file, without file://.")
    if re.match(r"(?i)[a-z][a-z0-9+.-]+://", path):
        raise FaultyError(
            f"{path} is an address; nothing is fetched from the network here: "
            "download the file and give its path."
        )
    if os.path.isdir(path):
        inside = sorted(p.name for p in Path(path).iterdir() if p.suffix in (".jsonl", ".json", ".gz"))
        hint = f", such as {Path(path) / inside[0]}" if inside else ""
        raise FaultyError(f"{path} is a folder; give the file of conversations in it{hint}.")
    if not os.path.isfile(path):
        what = "not a file" if os.path.exists(path) else "missing"
        raise FaultyError(f"{path} is {what}; a file with one conversation a line is needed there.")


def check_head(source: Source, head: bytes) -> None:
    """Raise FaultyError for a file whose beginning shows that it holds no JSON."""
    for magic, what in BINARY.items():
        if head.startswith(magic):
            raise FaultyError(f"{source.path} is {what}; {HOW}.")
    text = head.removeprefix(BOM_UTF8)
    if not text.strip():
        what = "holds only white space" if text else "is empty"
        raise FaultyError(f"{source.path} {what}; it needs at least 20 conversations, one a line.")
    if encoding := wide_encoding(head):
        raise FaultyError(f"{source.path} is {encoding}; save it as UTF-8, {converted(source, encoding)}.")
    if head[257:262] == b"ustar":
        raise FaultyError(f"{source.path} is a tar archive; unpack it and give the .jsonl in it; {HOW}.")
    lines = [line for line in text.splitlines()[:400] if line.strip()][:LINES_LOOKED_AT]
    if BEGINS.match(text) or any(map(is_json, lines)):
        return
    if is_binary(head):
        raise FaultyError(f"{source.path} is no text, it begins with the bytes {head[:8].hex(' ')}; {HOW}.")
    raise FaultyError(f"{source.path} is {named_text(text.decode('utf-8', 'replace'))}; {HOW}.")


def wide_encoding(head: bytes) -> str | None:
    """The encoding of a text with two or four bytes a character."""
    for encoding, mark in ENCODINGS.items():
        if head.startswith(mark):
            return encoding.removesuffix("LE").removesuffix("BE")  # iconv takes the order from the mark
    start = head[: min(len(head), 2000) // 4 * 4]
    if start.count(0) > len(start) // 10:
        return next((encoding for encoding in ENCODINGS if is_text(start, encoding)), None)
    return None


def is_text(data: bytes, encoding: str) -> bool:
    text = data.decode(encoding, "replace")
    return "".join(text.split()).isprintable() and "\ufffd" not in text[:-1]


def is_binary(head: bytes) -> bool:
    """Whether bytes are neither UTF-8 nor mostly letters of some encoding with one byte a character."""
    start = head[:2000]
    return len(start) - len(start.translate(None, CONTROL)) > len(start) // 50


def converted(source: Source, encoding: str) -> str:
    """The command that makes a file UTF-8."""
    path = shlex.quote(source.path)
    unpacked = f"gunzip -c {path} | iconv" if source.zipped else "iconv"
    return (
        f"with `{unpacked} -f {encoding} -t UTF-8{'' if source.zipped else ' ' + path} > new.jsonl` for "
        "instance"
    )


def not_utf8(source: Source, where: str) -> str:
    """What to say of a file with one byte a letter, or an encoding of Asia: in those most bytes are high."""
    with source.open() as file:
        head = file.read(1 << 16)
    if len(head.translate(None, bytes(range(128)))) > len(head) // 6:
        return (
            f"{source.path} is not UTF-8 ({where}); save it as UTF-8, {converted(source, 'ENCODING')}, its "
            "own encoding (WINDOWS-1251, GBK, SHIFT_JIS ...) in place of ENCODING."
        )
    return (
        f"{source.path} is not UTF-8 but Windows-1252 or Latin-1, it seems ({where}); save it as UTF-8, "
        f"{converted(source, 'WINDOWS-1252')}."
    )


def is_json(line: bytes) -> bool:
    """Whether a line is an object or a list, also within quotes; a number or a word may stand in any file."""
    try:
        value = VALUE.decode(line.decode("utf-8", "replace").strip())
    except (ValueError, RecursionError):
        return False
    return (
        is_json(value.encode("utf-8", "replace"))
        if isinstance(value, str)
        else isinstance(value, (dict, list))
    )


def named_text(text: str) -> str:
    """The kind of a text that is no JSON, and its beginning, in words."""
    first = next(line.strip() for line in text.split("\n") if line.strip())[:80]
    if re.match(r"\s*(?:\{'|\[\s*\{')", text):
        return "no JSON but Python's notation, with single quotes; write it with json.dumps(conversation)"
    if re.match(r"\s*[{\[]\s*(?:[{\[]\s*)*\w+\s*:", text):
        return "no JSON but JavaScript's notation; every key needs double quotes"
    if text.lstrip().startswith("<") and not FOREIGN.match(text.lstrip()):
        return f"HTML or XML ({first!r})"
    if re.search(r"^Q:.*\n+\s*A:", text, re.MULTILINE):
        return "text in the form Q: and A:; make each pair an object with prompt and completion"
    if (found := FOREIGN.search(text)) and not found.start():
        return f"text in another template ({found[0].strip()})"
    if re.match(r"(?:---|- |\w+:\s*$|\w+: \S)", text) and re.search(r"^\s*(?:- )?\w+:", text, re.MULTILINE):
        return f"YAML or a similar list ({first!r})"
    for mark, name in (
        (",", "CSV"),
        ("\t", "a table with tabs"),
        (";", "CSV with semicolons"),
        ("|", "a table with bars"),
    ):
        name_of_column = r' ?"?\w+(?: \w+)?"?'
        if re.fullmatch(rf"{name_of_column}(?:{re.escape(mark)}{name_of_column})+", first):
            columns = ", ".join(column.strip(' "') for column in first.split(mark))
            return f"{name} with the columns {columns}; save it as JSON lines"
    if re.match(r'"[^"\n]*",\s*"', text):
        return "CSV without names of columns; save it as JSON lines"
    if found:
        return f"text in another template ({found[0].strip()})"
    return f"no JSON but plain text, it seems (it begins with {first[:40]!r})"


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
