"""The source that a file of conversations is, or a sentence why its conversations cannot be read.

Standard library only.
"""

from __future__ import annotations

import os
import re
import shlex
import zlib
from codecs import BOM_UTF8
from pathlib import Path

from arianna.corpus.cleaning import FOREIGN
from arianna.corpus.sources import HOW, MAX_LINE, VALUE, FaultyError, Source, container_of, unreadable

LINES_LOOKED_AT = 20  # lines of a file that may be no JSON at all
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
    """A sentence on a file with one byte a letter, or an encoding of Asia, in which most bytes are high."""
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
    if (template_mark := FOREIGN.search(text)) and not template_mark.start():
        return f"text in another template ({template_mark[0].strip()})"
    if re.match(r"(?:---|- |\w+:\s*$|\w+: \S)", text) and re.search(r"^\s*(?:- )?\w+:", text, re.MULTILINE):
        return f"YAML or a similar list ({first!r})"
    kinds = {",": "CSV", "\t": "a table with tabs", ";": "CSV with semicolons", "|": "a table with bars"}
    for separator, name in kinds.items():
        name_of_column = r' ?"?\w+(?: \w+)?"?'
        if re.fullmatch(rf"{name_of_column}(?:{re.escape(separator)}{name_of_column})+", first):
            columns = ", ".join(column.strip(' "') for column in first.split(separator))
            return f"{name} with the columns {columns}; save it as JSON lines"
    if re.match(r'"[^"\n]*",\s*"', text):
        return "CSV without names of columns; save it as JSON lines"
    if template_mark:
        return f"text in another template ({template_mark[0].strip()})"
    return f"no JSON but plain text, it seems (it begins with {first[:40]!r})"
