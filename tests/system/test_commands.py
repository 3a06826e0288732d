"""Printed commands: they run when they are pasted."""

import shlex
from pathlib import Path

import pytest
from helpers import ROOT

from arianna.system import commands


@pytest.fixture
def paths(tmp_path, monkeypatch) -> dict[str, str]:
    """The files of a run in a folder with a space and a quote, seen from the project's folder."""
    folder = tmp_path / "my runs' folder"
    folder.mkdir()
    monkeypatch.chdir(ROOT)
    names = {
        "conversations": "talk.jsonl",
        "base": "base",
        "tokenizer": "tok.model",
        "checkpoint": "ft.pt",
        "binary": "ft.bin",
    }
    for name in (*names.values(), "tok.bin"):
        (folder / name).write_text("")
    return {name: str(folder / file) for name, file in names.items()}


@pytest.mark.parametrize("better", [True, False])
def test_every_file_of_a_command_is_there_for_a_shell(paths, better):
    found = commands.next_commands(paths, better)
    words = [word.partition("=")[2] or word for _, line in found for word in shlex.split(line)]
    named = {
        word for word in words if Path(word).name in {Path(p).name for p in paths.values()} | {"tok.bin"}
    }
    assert all(Path(word).is_file() for word in named)
    used = (
        ("checkpoint", "base", "tokenizer", "binary")
        if better
        else ("checkpoint", "base", "tokenizer", "conversations")
    )
    assert {Path(paths[name]).name for name in used} <= {Path(word).name for word in named} | {"tok.model"}
    assert [what for what, _ in found][:1] == ["hear both side by side"] and len(found) == (
        4 if better else 2
    )


@pytest.mark.parametrize("gone", ["base", "checkpoint", "binary", "conversations", "tokenizer"])
def test_a_file_that_is_gone_is_in_no_command(paths, gone):
    name = Path(paths[gone]).name
    Path(paths[gone]).unlink()
    lines = [line for better in (True, False) for _, line in commands.next_commands(paths, better)]
    assert lines and not [line for line in lines if name in line]
    assert commands.next_commands(paths | {gone: None}, True) == commands.next_commands(paths, True)


def test_from_another_folder_the_scripts_are_named_by_their_place(paths, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _, line in commands.next_commands(paths, False):
        assert Path(shlex.split(line)[1]).resolve() in (ROOT / "sample.py", ROOT / "arianna_ft.py")
    assert not [line for _, line in commands.next_commands(paths, True) if "-m arianna" in line], (
        "found from the project alone"
    )


def test_the_shipped_files_need_no_flags(monkeypatch):
    monkeypatch.chdir(ROOT)
    paths = commands.DEFAULTS | {
        "base": "out/ckpt_v1_base.pt",
        "checkpoint": "out/ckpt_v1_base.pt",
        "binary": None,
    }
    found = dict(commands.next_commands(paths, False))
    assert (
        found["train anew with other settings"]
        == f"{commands.python()} arianna_ft.py --base=out/ckpt_v1_base.pt --fresh"
    )
    assert "--tokenizer" not in found["hear both side by side"]
    assert commands.typed("-odd") == "./-odd" and commands.typed("a b") == "'a b'"


def test_the_documents_draw_answers_at_the_temperature_of_the_programs():
    documents = [(ROOT / name).read_text() for name in ("README.md", "docs/formats.md")]
    shown = [text for document in documents for text in document.split("`") if text.startswith("./run ")]
    assert shown and all(f" -t {commands.TEMPERATURE} " in text for text in shown)
