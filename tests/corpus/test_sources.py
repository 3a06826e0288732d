"""A file as a whole: how its records lie, and one sentence for what is no file of conversations."""

import gzip
import json
import os
import subprocess
from pathlib import Path

import pytest
from helpers import line

from arianna.corpus import sources
from arianna.corpus.prepare import read_conversations, survey
from arianna.corpus.recognition import recognise
from arianna.corpus.sources import FaultyError, cut, read_part, records

RECORDS = [{"messages": line(f"Why {n}?", f"Because of é {n}.")} for n in range(30)]
LINES = "\n".join(map(json.dumps, RECORDS)).encode()
CONTAINERS = {  # the bytes of a file of these records, and what is told of how they lie
    "lines": (LINES, ""),
    "an array on one line": (json.dumps(RECORDS).encode(), ", in a JSON array"),
    "an array, indented": (json.dumps(RECORDS, indent=2, ensure_ascii=False).encode(), ", in a JSON array"),
    "an array, a record a line": (b"[\n" + LINES.replace(b"\n", b",\n") + b"\n]\n", ", in a JSON array"),
    "records over several lines": (
        "\n".join(json.dumps(r, indent=1) for r in RECORDS).encode(),
        ", not one to a line",
    ),
    "an old Mac's lines": (LINES.replace(b"\n", b"\r"), ", not one to a line"),
    "gzip": (gzip.compress(LINES), ", compressed by gzip"),
    "an array in gzip": (
        gzip.compress(json.dumps(RECORDS).encode()),
        ", in a JSON array, compressed by gzip",
    ),
    "a mark of byte order": (b"\xef\xbb\xbf" + LINES, ""),
    "an array behind a mark of byte order": (
        b"\xef\xbb\xbf \n" + json.dumps(RECORDS).encode(),
        ", in a JSON array",
    ),
    "commas at the ends": (LINES.replace(b"\n", b",\n") + b",", ""),
    "an array with a comma at its end": (
        b"[" + LINES.replace(b"\n", b",\n") + b"]",
        ", in a JSON array",
    ),
    "records behind one another": (LINES.replace(b"\n", b""), ", not one to a line"),
    "records with a space between": (LINES.replace(b"\n", b" "), ", not one to a line"),
    "an old Mac's line ends": (LINES.replace(b"\n", b"\r"), ", not one to a line"),
}


def quiet(text: str) -> None:
    pass


def file(folder: Path, data: bytes, name: str = "some.json") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def refusal(path: Path | str) -> str:
    with pytest.raises(FaultyError) as caught:
        survey(path, quiet, workers=1)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


@pytest.mark.parametrize("part", [1 << 24, 300])
@pytest.mark.parametrize("name", CONTAINERS)
def test_records_are_read_however_they_lie_and_that_is_told(tmp_path, monkeypatch, name, part):
    data, told = CONTAINERS[name]
    monkeypatch.setattr(sources, "PART", part)
    found = survey(file(tmp_path, data), quiet, workers=1)
    assert found.kind == f"object with messages{told}" and len(found.parts) == 1 or part == 300
    assert [c.turns[0] for c in read_conversations(found.path)] == [
        (f"Why {n}?", f"Because of é {n}.") for n in range(30)
    ]


def test_an_array_of_lists_of_messages_is_read(tmp_path):
    path = file(tmp_path, json.dumps([r["messages"] for r in RECORDS]).encode())
    assert survey(path, quiet, workers=1).kind == "list of role and content, in a JSON array"


@pytest.mark.parametrize("name", ["an array, indented", "records over several lines", "lines"])
def test_a_record_is_named_by_the_line_on_which_it_begins(tmp_path, monkeypatch, name):
    monkeypatch.setattr(sources, "PART", 300)
    source = recognise(file(tmp_path, CONTAINERS[name][0]))
    lines, numbers = 0, []
    for part in cut(source):
        data = read_part(source, *part)
        numbers += [lines + number for number, _ in records(data, source.container)]
        lines += sources.lines_in(data)
    texts = Path(source.path).read_text(encoding="utf-8").split("\n")
    begins = {"lines": '{"messages"', "an array, indented": "  {", "records over several lines": "{"}[name]
    assert numbers == [
        n for n, text in enumerate(texts, 1) if text.startswith(begins) and not text.startswith("    ")
    ]


def test_a_fault_in_an_array_is_named_by_its_line(tmp_path):
    broken = [*RECORDS[:3], {"messages": line("why", "")}, *RECORDS[3:]]
    data = json.dumps(broken, indent=2).encode()
    number = data[: data.index(b'"why"')].count(b"\n") + 1 - 4  # the record begins four lines before its text
    assert refusal(file(tmp_path, data)).startswith(f"{tmp_path}/some.json:{number}: the answer is empty")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (json.dumps(RECORDS).encode()[:-40], "the JSON record that begins here is broken"),
        (json.dumps(RECORDS).encode()[:-1], "the JSON breaks off"),
        (json.dumps(RECORDS, indent=1).encode() + b"{}", "the JSON goes on behind its end"),
        (gzip.compress(LINES)[:-30], "is a damaged gzip file"),
        (b"\x1f\x8b" + b"x" * 100, "is a damaged gzip file"),
    ],
)
def test_a_file_that_was_not_written_to_its_end_is_told(tmp_path, data, expected):
    assert expected in refusal(file(tmp_path, data))


CHINESE = "".join(f'{{"prompt": "石头{n}是什么颜色？", "completion": "灰色的，很冷。"}}\n' for n in range(30))
RUSSIAN = "".join(f'{{"prompt": "Какого цвета {n}?", "completion": "Серый, как туча."}}\n' for n in range(30))
NO_CONVERSATIONS = {
    "nothing": (b"", "is empty; it needs at least 20 conversations"),
    "a mark of byte order alone": (b"\xef\xbb\xbf", "is empty; it needs"),
    "white space": (b"\n \r\n\t\n", "holds only white space; it needs at least 20"),
    "a zip file": (
        b"PK\x03\x04" + b"\0" * 50,
        "is a zip file (as documents and checkpoints are too); unpack it",
    ),
    "Parquet": (b"PAR1" + b"\0" * 50, "is a Parquet file; save it as JSON lines"),
    "UTF-16": (
        LINES.decode().encode("utf-16"),
        "is UTF-16; save it as UTF-8, with `iconv -f UTF-16 -t UTF-8",
    ),
    "UTF-16 without a mark": (LINES.decode().encode("utf-16-le"), "is UTF-16LE; save"),
    "UTF-16 the other way": (LINES.decode().encode("utf-16-be"), "is UTF-16BE; save"),
    "UTF-16 of Chinese": (CHINESE.encode("utf-16-le"), "is UTF-16LE; save"),
    "UTF-32": (LINES.decode().encode("utf-32"), "is UTF-32; save"),
    "UTF-32 without a mark": (LINES.decode().encode("utf-32-be"), "is UTF-32BE; save"),
    "GBK": (
        CHINESE.encode("gbk"),
        "is not UTF-8 (30 lines, the first is line 1); save it as UTF-8, with `iconv",
    ),
    "Windows-1251": (
        RUSSIAN.encode("cp1251"),
        "its own encoding (WINDOWS-1251, GBK, SHIFT_JIS ...) in place of",
    ),
    "a tar archive": (
        b"talk.jsonl" + bytes(247) + b"ustar" + bytes(250) + LINES,
        "is a tar archive; unpack it",
    ),
    "gzip twice": (gzip.compress(gzip.compress(LINES)), "is compressed twice by gzip; unpack it once"),
    "RTF": (b"{\\rtf1\\ansi Q: why\\par A: so}", "is an RTF document"),
    "a pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "is a pointer of Git LFS, not the file itself; fetch that with `git lfs pull`",
    ),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is no text, it begins with the bytes 89 50 4e 47"),
    "a pickle": (b"\x80\x04\x95\x9e\0\0]\x94(}\x94", "is no text, it begins with the bytes 80 04 95"),
    "JavaScript": (b'{prompt: "why", completion: "so"}\n' * 30, "is no JSON but JavaScript's notation"),
    "an array in Python's notation": (b"[{'prompt': 'why'}]", "is no JSON but Python's notation"),
    "INI": (b"[section]\nkey = 1\n", "is no JSON but plain text, it seems (it begins with '[section]"),
    "TOML": (b'[[talk]]\nprompt = "why"\n', "is no JSON but plain text, it seems (it begins with '[[talk]]"),
    "subtitles": (b"1\n00:00:01,000 --> 00:00:02,000\nHi.\n", "is no JSON but plain text"),
    "names ahead": (b"User: why\nAssistant: so\n\n" * 30, "is text in another template (User:)"),
    "bars": (b"prompt|completion\nwhy|so\n", "is a table with bars with the columns prompt, completion"),
    "CSV without a head": (b'"why, then?","so, then"\n', "is CSV without names of columns"),
    "CSV of Python's lists": (b"messages\n\"[{'role': 'user'}]\"\n", "is no JSON but plain text"),
    "JSON within quotes": (
        b"".join(json.dumps(line).encode() + b"\n" for line in LINES.decode().splitlines()),
        "of the first, on line 1: the line is text, not a list of messages; it is JSON within quotes",
    ),
    "records under a key": (
        json.dumps({"version": 1, "data": RECORDS}, indent=1).encode(),
        "its records lie in the list 'data': write that alone, with jq -c '.data[]' for instance",
    ),
    "a request to an API": (
        b"".join(json.dumps({"id": 1, "body": r}).encode() + b"\n" for r in RECORDS),
        "its conversation lies under 'body': write that alone, with jq -c '.body' for instance",
    ),
    "conversations in conversations": (
        json.dumps({"conversations": RECORDS}).encode(),
        "'conversations' holds whole conversations; write that list alone into a file",
    ),
    "columns": (
        json.dumps({"prompt": {"0": "why", "1": "what"}, "completion": {"0": "so", "1": "it"}}).encode(),
        "'prompt' and 'completion' are whole columns; one record a line is needed, with pandas: to_json(",
    ),
    "columns of lists": (
        json.dumps({"prompt": ["why", "what"], "completion": ["so", "it"]}).encode(),
        "'prompt' and 'completion' are whole columns",
    ),
    "Latin-1": (
        LINES.replace(b"\\u00e9", b"\xe9"),
        "is not UTF-8 but Windows-1252 or Latin-1, it seems (30 lines, the first is line 1)",
    ),
    "CSV": (
        b"prompt,completion\r\nwhy,because\r\n",
        "is CSV with the columns prompt, completion; save it as JSON lines",
    ),
    "a table with tabs": (
        b"prompt\tcompletion\nwhy\tbecause\n",
        "is a table with tabs with the columns prompt, completion",
    ),
    "YAML": (b"- prompt: why\n  completion: because\n", "is YAML or a similar list ('- prompt: why')"),
    "our template": (
        b"Q: why\nA: because\n\nQ: why not\nA: so\n",
        "is text in the form Q: and A:; make each pair an object",
    ),
    "another template": (b"<|im_start|>user\nwhy<|im_end|>\n", "is text in another template (<|im_start|>)"),
    "HTML": (b"<!doctype html><p>why</p>", "is HTML or XML ('<!doctype html><p>why</p>')"),
    "prose": (
        b"A stone lies by the road, and a cart passed it at noon.\n" * 9,
        "is no JSON but plain text, it seems",
    ),
    "Python's notation": (
        b"{'prompt': 'why', 'completion': 'because'}\n" * 30,
        "is no JSON but Python's notation, with single quotes",
    ),
    "objects of another kind": (
        b'{"dialog": ["why", "because"]}\n' * 30,
        "its keys are 'dialog'); one conversation a line is needed",
    ),
    "pairs in lists": (
        b'["why", "because"]\n' * 30,
        "none of its 30 records can be read; of the first, on line 1: message 1 is text",
    ),
}


@pytest.mark.parametrize("name", NO_CONVERSATIONS)
def test_what_is_no_file_of_conversations_is_refused_in_one_sentence(tmp_path, name):
    data, expected = NO_CONVERSATIONS[name]
    sentence = refusal(file(tmp_path, data))
    assert expected in sentence and sentence.startswith(str(tmp_path / "some.json"))


def test_a_missing_file_a_folder_and_an_address_are_refused(tmp_path):
    assert (
        refusal(tmp_path / "no.jsonl")
        == f"{tmp_path}/no.jsonl is missing; a file with one conversation a line is needed there."
    )
    assert refusal(tmp_path) == f"{tmp_path} is a folder; give the file of conversations in it."
    file(tmp_path, LINES, "talk.jsonl")
    assert refusal(tmp_path).endswith(f"in it, such as {tmp_path}/talk.jsonl.")
    assert refusal(f"file://{tmp_path}/talk.jsonl").endswith("give the path of the file, without file://.")
    assert "is an address; nothing is fetched from the network here" in refusal(
        "https://example.org/talk.jsonl"
    )


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(tmp_path):
    path = file(tmp_path, LINES)
    path.chmod(0)
    assert refusal(path) == f"{path} cannot be read: Permission denied."


def test_an_error_while_reading_is_told(tmp_path, monkeypatch):
    def fails(source):
        raise OSError(5, "Input/output error")

    path = file(tmp_path, LINES)
    monkeypatch.setattr(sources.Source, "open", fails)
    assert refusal(path) == f"{path} cannot be read: Input/output error."


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-32-le", "cp1252"])
def test_the_command_in_a_refusal_can_be_pasted(tmp_path, encoding, zipped):
    data = LINES.replace(b"\\u00e9", "é".encode()).decode().encode(encoding)
    sentence = refusal(file(tmp_path, gzip.compress(data) if zipped else data, "my talks.jsonl"))
    done = subprocess.run(["sh", "-c", sentence.split("`")[1]], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(read_conversations(tmp_path / "new.jsonl")) == 30
