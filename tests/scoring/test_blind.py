"""Two models' answers without names, and what a reader chose."""

import io
import json
import random
import sys

import pytest
from helpers import ROOT, Scripted

from arianna.chat import Sampling
from arianna.scoring import blind, preferences
from arianna.scoring.blind import Pair
from arianna.system.config import UsageError
from tokenizer import BOS, Tokenizer

TOKENIZER = Tokenizer(ROOT / "data/tok4096.model")
PAIRS = [Pair(f"Question {n}?", f"tuned {n}", f"base {n}") for n in range(6)]
ABOUT = {"seed": 1}


def typing(monkeypatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def kept(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_choice_is_kept_by_the_side_that_was_meant_whatever_the_order(monkeypatch, tmp_path, capsys):
    typing(monkeypatch, "1\n2\n=\n1\n2\n1\n")
    path = tmp_path / "ft" / "preferences.jsonl"
    assert blind.judge(PAIRS, path, ABOUT, random.Random(3)) == 0
    shown = capsys.readouterr().out
    for pair, choice, key in zip(PAIRS, kept(path), "12=121", strict=True):
        first, second = sorted((pair.tuned, pair.base), key=shown.index)
        meant = {"1": first, "2": second, "=": None}[key]
        assert choice["preferred"] == {pair.tuned: "tuned", pair.base: "base", None: "equal"}[meant]
        assert (choice["question"], choice["tuned"], choice["base"], choice["seed"]) == (
            pair.question,
            pair.tuned,
            pair.base,
            1,
        )
    orders = {shown.index(pair.tuned) < shown.index(pair.base) for pair in PAIRS}
    assert orders == {True, False}, "the order says nothing about whose answer it is"


def test_no_name_is_shown_before_the_end(monkeypatch, tmp_path, capsys):
    typing(monkeypatch, "1\n" * 6)
    blind.judge(
        [Pair("Q?", "yes", "no")],
        tmp_path / "p.jsonl",
        ABOUT | {"tuned_file": "ckpt_ft.pt"},
        random.Random(1),
    )
    shown = capsys.readouterr().out
    assert "yes" in shown and "tuned" not in shown and "ckpt_ft" not in shown and "base" not in shown


def test_other_keys_are_asked_again_and_q_and_the_end_leave(monkeypatch, tmp_path):
    for typed in ("x\n3\n2\nq\n", "x\n\n2\n"):
        path = tmp_path / f"{len(typed)}.jsonl"
        typing(monkeypatch, typed)
        assert blind.judge(PAIRS, path, ABOUT, random.Random(3)) == 0
        assert len(kept(path)) == 1


def test_ctrl_c_keeps_what_was_said(monkeypatch, tmp_path):
    keys = iter(["1", "="])

    def pressed(_):
        try:
            return next(keys)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(blind, "one_key", pressed)
    assert blind.judge(PAIRS, tmp_path / "p.jsonl", ABOUT, random.Random(3)) == 130
    assert len(kept(tmp_path / "p.jsonl")) == 2


def test_what_was_said_before_is_never_rewritten_and_a_line_that_was_cut_off_stays_by_itself(tmp_path):
    path = tmp_path / "p.jsonl"
    before = '{"question": "a", "preferred": "base"}\n{"question": "b", "pref'
    path.write_text(before)
    blind.keep({"question": "c", "preferred": "tuned"}, path)
    blind.keep({"question": "d", "preferred": "equal"}, path)
    assert (
        path.read_text()
        == before + '\n{"question": "c", "preferred": "tuned"}\n{"question": "d", "preferred": "equal"}\n'
    )
    assert preferences.read_preferences(path) == {"base": 1, "tuned": 1, "equal": 1}


def test_what_was_judged_and_what_is_the_same_is_not_asked_again(tmp_path):
    path = tmp_path / "p.jsonl"
    blind.keep({"question": "Question 0?", "preferred": "base", "tuned": "tuned 0", "base": "base 0"}, path)
    assert blind.pairs_to_judge([*PAIRS[:2], Pair("Same?", "so", "so")], path) == [PAIRS[1]]
    with pytest.raises(UsageError, match="another --seed gives others"):
        blind.pairs_to_judge(PAIRS[:1], path)


def test_held_out_questions_come_first_then_everyday_ones_none_twice_and_twenty_at_most(
    tmp_path, monkeypatch
):
    samples = [{"question": f"Held {n}?", "held_out": True} for n in (1, 1, 2)] + [
        {"question": "Trained?", "held_out": False}
    ]
    (tmp_path / "report.json").write_text(json.dumps({"scores": {"tuned": {"samples": samples}}}))
    asked = blind.questions(tmp_path)
    assert asked[:2] == ["Held 1?", "Held 2?"] and len(asked) == blind.MOST == len(set(asked))
    assert "Trained?" not in asked
    (tmp_path / "report.json").write_text("{}")
    assert asked[2:] == blind.questions(tmp_path)[:18]
    monkeypatch.setattr(blind, "EVERYDAY", tmp_path / "none.txt")
    with pytest.raises(UsageError, match="nothing to ask"):
        blind.questions(tmp_path)


def test_the_run_folder_and_its_base_are_found(tmp_path):
    base = tmp_path / "base.pt"
    base.touch()
    assert blind.folder_of(tmp_path / "ckpt_ft.pt") == tmp_path / "ft"
    assert blind.base_of(tmp_path / "ft") == blind.SHIPPED_BASE
    (tmp_path / "ft").mkdir()
    (tmp_path / "ft/job.json").write_text(json.dumps({"paths": {"base": str(base)}}))
    assert blind.folder_of(tmp_path / "ft/ckpt_000100.pt") == tmp_path / "ft"
    assert blind.base_of(tmp_path / "ft") == str(base)
    base.unlink()
    assert blind.base_of(tmp_path / "ft") == blind.SHIPPED_BASE


@pytest.mark.usefixtures("scripted_generation")
def test_the_whole_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(blind, "questions", lambda folder: ["One?", "Two?"])
    typing(monkeypatch, "=\n=\n")
    tuned, base = (
        Scripted(*[[*TOKENIZER.encode(f"{word}.\nQ: And?"), BOS] for word in words])
        for words in (("yes", "no"), ("perhaps", "never"))
    )
    names = []
    code = blind.run(
        str(tmp_path / "t.pt"),
        "b.pt",
        lambda given: names.extend(given) or (TOKENIZER, [tuned, base]),
        Sampling(),
    )
    assert code == 0 and names == [str(tmp_path / "t.pt"), "b.pt"]
    path = tmp_path / "ft/preferences.jsonl"
    assert [(c["tuned"], c["base"], c["preferred"]) for c in kept(path)] == [
        ("yes.", "perhaps.", "equal"),
        ("no.", "never.", "equal"),
    ]
    assert (
        f"2 answers compared without names: tuned preferred in 0, base in 0, neither in 2. Kept in {path}."
        in capsys.readouterr().out
    )
    assert (
        tuned.prompts == base.prompts == [[BOS, *TOKENIZER.encode(f"Q: {q}\nA:")] for q in ("One?", "Two?")]
    )


def test_a_model_that_cannot_be_opened_is_a_wrong_argument():
    def fail(_):
        raise ValueError("x.pt is damaged.")

    with pytest.raises(UsageError, match="x.pt is damaged"):
        blind.run("x.pt", None, fail, Sampling())
