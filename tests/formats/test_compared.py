"""The table of formats: sizes and losses."""

import dataclasses
import sys

import pytest
from helpers import CONVERSATIONS, ROOT, TINY, lively, rows_of

from arianna import export
from arianna.formats import checkpoint, compared
from arianna.scoring.losses import answer_loss
from arianna.system import config


@pytest.fixture
def rows(tokenizer, tmp_path):
    return rows_of(CONVERSATIONS, tokenizer, tmp_path / "data")


def test_sizes_are_those_of_the_files_and_losses_those_of_what_is_computed(tmp_path, rows, tokenizer):
    pytest.importorskip("gguf")
    model = lively(TINY)
    lines = {line["format"]: line for line in compared.compare(model, tokenizer, rows)}
    assert list(lines) == [kind.name for kind in compared.KINDS] and not any(line["note"] for line in lines.values())
    for kind in compared.KINDS:
        out = tmp_path / f"a{export.FORMATS[kind.format].suffix}"
        options = {"tokenizer": tokenizer, "gguf_type": kind.gguf_type}
        computed = export.export_model(model, out, kind.format, **options)
        size = sum(p.stat().st_size for p in (out.iterdir() if out.is_dir() else [out]))
        assert (lines[kind.name]["bytes"], lines[kind.name]["answers"]) == (size, answer_loss(computed, rows).loss), kind
    exact = lines["llama2c"]["answers"]
    assert lines["hf"]["answers"] == lines["gguf F32"]["answers"] == exact
    assert all(0 < abs(lines[name]["answers"] - exact) < 0.1 for name in ("llama2c-int8", "gguf F16", "gguf Q8_0"))
    assert sorted(lines, key=lambda name: lines[name]["bytes"])[0] == "llama2c-int8"


def test_at_most_so_many_rows_are_scored(rows, tokenizer):
    model = lively(TINY)
    assert compared.compare(model, tokenizer, rows, most=3)[0]["answers"] == answer_loss(model, rows, 3).loss


def test_what_cannot_be_written_says_why(rows, tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    lines = compared.compare(lively(dataclasses.replace(TINY, hidden_dim=100)), tokenizer, rows)
    notes = [line["note"] for line in lines]
    assert notes[0] == notes[2] == "" and "not multiples of 8" in notes[1]
    assert all("pip install gguf" in note for note in notes[3:])
    assert [len(row) for row in compared.cells(lines)] == [5, 3, 5, 3, 3, 3]


def test_the_command_prints_the_table(rows, tmp_path, capsys):
    checkpoint.save(tmp_path / "a.pt", checkpoint.pack(lively(TINY)))
    flags = [f"--checkpoint={tmp_path / 'a.pt'}", f"--tokenizer={ROOT / 'data/tok4096.model'}", f"--data_dir={tmp_path / 'data'}"]
    assert compared.main(flags) == 0
    head, _, first, *_ = lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(compared.KINDS) and len({line.count("|") for line in lines}) == 1
    assert head == "| format | opens in | size | held-out answers | change |" and first.startswith("| llama2c | llama2.c's run | 0.6 MB | ")
    with pytest.raises(config.UsageError, match="none.pt is missing"):
        compared.main([*flags, f"--checkpoint={tmp_path / 'none.pt'}"])
