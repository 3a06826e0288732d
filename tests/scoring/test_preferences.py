"""What readers preferred, from the file of `sample.py --blind`."""

import json

import pytest

from arianna.scoring import preferences


def write(path, *preferred: str) -> None:
    path.write_text("".join(json.dumps({"question": "Why?", "preferred": side}) + "\n" for side in preferred))


def test_choices_are_counted_and_equal_ones_do_not_enter_the_share(tmp_path):
    write(tmp_path / "p.jsonl", *["tuned"] * 6, *["base"] * 2, "equal")
    found = preferences.summary(tmp_path / "p.jsonl")
    assert {name: found[name] for name in ("choices", "tuned", "base", "equal", "value")} == {
        "choices": 9,
        "tuned": 6,
        "base": 2,
        "equal": 1,
        "value": 0.75,
    }
    assert found["low"] == pytest.approx(0.4093, abs=1e-4) and found["high"] == pytest.approx(
        0.9285, abs=1e-4
    )
    assert preferences.sentence(found) == (
        "9 answers compared without names: tuned preferred in 6, base in 2, neither in 1 (75% for tuned, "
        "95%: 41% to 93%)."
    )


def test_lines_that_are_cut_off_or_something_else_are_left_out(tmp_path):
    write(tmp_path / "p.jsonl", "tuned", "neither")
    with open(tmp_path / "p.jsonl", "a") as file:
        file.write('[]\n{"question": "Why?"}\n{"preferred": ["tuned"]}\n{"preferred": "ba')
    assert preferences.summary(tmp_path / "p.jsonl")["choices"] == 1


def test_without_a_choice_there_is_nothing_to_tell(tmp_path):
    assert preferences.summary(tmp_path / "p.jsonl") is None
    write(tmp_path / "p.jsonl", "equal")
    found = preferences.summary(tmp_path / "p.jsonl")
    assert found["value"] is None and preferences.sentence(found).endswith("neither in 1.")
