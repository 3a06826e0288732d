"""Texts for a base: which files, how they are split, and what is refused."""

import pytest
from helpers import ROOT

from arianna.corpus import parallel, texts
from arianna.corpus.texts import read_text, split_paragraphs, split_tail, text_files
from arianna_data import TextConfig, pretokenize

MODEL = str(ROOT / "data/tok4096.model")


@pytest.mark.parametrize("end", ["\n\n", "\n", ". ", " "])
def test_the_tail_is_cut_at_the_largest_end_there_is(end):
    text = end.join(f"word{n}" for n in range(100))
    train, tail = split_tail(text, 0.1)
    assert train + tail == text and 0.07 * len(text) < len(tail) <= 0.1 * len(text) + len(end)
    assert tail.startswith(end.replace(".", "")) and split_tail(text, 0.0) == (text, "")


def test_a_text_without_any_space_is_not_cut():
    assert split_tail("x" * 1000, 0.1) == ("x" * 1000, "")


def test_paragraphs_are_held_out_by_their_hash_and_lines_where_there_are_no_empty_ones():
    paragraphs = [f"Paragraph {n} tells of a stone." for n in range(400)]
    sides = {end: split_paragraphs(end.join(paragraphs), 0.1) for end in ("\n", "\n\n")}
    held = {end: {p.strip() for p in side[1].split("\n") if p.strip()} for end, side in sides.items()}
    assert held["\n"] == held["\n\n"] and 20 < len(held["\n"]) < 60
    assert {p.strip() for p in sides["\n"][0].split("\n")} == set(paragraphs) - held["\n"]


def test_a_text_that_is_no_prose_is_refused(tmp_path):
    for data, expected in (
        (b"caf\xe9", "is not UTF-8 \\(byte 4 is 0xE9\\) but Windows-1252 or Latin-1 perhaps"),
        (
            b'{"prompt": "why", "completion": "because"}\n',
            "holds JSON records, which would be learned as prose",
        ),
        (b'[\n {"prompt": "why", "completion": "because"}]\n', "holds JSON records"),
    ):
        (tmp_path / "a.txt").write_bytes(data)
        with pytest.raises(ValueError, match=expected):
            read_text(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_bytes(b"[1] A note.\r\n{not JSON}")
    assert read_text(tmp_path / "a.txt") == "[1] A note.\n{not JSON}"


def test_a_folder_without_texts_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no .txt or .md file"):
        text_files(tmp_path)


def test_many_texts_become_shards_in_parts(tmp_path, monkeypatch, tokenizer):
    for n in range(9):
        (tmp_path / "texts").mkdir(exist_ok=True)
        (tmp_path / f"texts/{n}.txt").write_text("\n\n".join(f"Paragraph {m} of {n}." for m in range(30)))
    cfg = TextConfig(data=str(tmp_path / "texts"), model=MODEL, out=str(tmp_path / "one"), val_tail=0.2)
    words = pretokenize(cfg)
    monkeypatch.setattr(texts, "PART", 2000)
    monkeypatch.setattr(parallel, "cores", lambda: 1)
    assert pretokenize(TextConfig(**{**vars(cfg), "out": str(tmp_path / "many")})) == words
    for split in ("train", "val"):
        many = sorted((tmp_path / "many").glob(f"{split}_*.bin"))
        assert (
            len(many) > 2
            and b"".join(p.read_bytes() for p in many) == (tmp_path / f"one/{split}.bin").read_bytes()
        )


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("A stone.".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        (bytes(range(256)), "is no text, it begins with the bytes 00 01 02"),
        ("un café".encode("latin-1"), "is not UTF-8 .byte 7 is 0xE9. but Windows-1252 or Latin-1 perhaps"),
    ],
)
def test_a_text_in_another_encoding_is_told_as_what_it_is(tmp_path, data, told):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(ValueError, match=told):
        texts.read_text(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="is an address; download the text"):
        texts.text_files("https://example.org/a.txt")
