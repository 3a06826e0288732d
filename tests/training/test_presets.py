"""What the report of a default run says of the recipe that was found better."""

import dataclasses
import json

import pytest

from arianna.training import presets
from arianna.training.settings import TrainConfig

USUAL = dataclasses.asdict(TrainConfig(**presets.PRESETS["asked"]))


def line(recipe: str, gain: float, rise: float) -> dict:
    after = {"val_text": 3.0, "val_samples": 3.5 + rise}
    return {"recipe": recipe, "points": [[0, 4.0, {"val_text": 3.1, "val_samples": 3.5}]], "used": [9, 1.0, 4.0 - gain, after]}


def measured(folder, monkeypatch, *lines: dict) -> None:
    (folder / "runs.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    monkeypatch.setattr(presets, "MEASURED", folder / "runs.jsonl")


def test_a_run_with_the_defaults_is_told_what_the_other_recipe_reached(tmp_path, monkeypatch):
    lines = [line(presets.DEFAULT, 0.1, 0.08), line(presets.BEST, 0.2, 0.04), line(presets.BEST, 0.3, 0.06), line("another", 9.0, 9.0)]
    measured(tmp_path, monkeypatch, *lines)
    said = presets.note(USUAL)
    assert "held-out answers by -0.250 nats where these settings changed them by -0.100" in said
    assert "base text by +0.050 instead of +0.080 (means of 2 and 1 runs" in said
    assert "takes a 10th of the rows" in said


@pytest.mark.parametrize("other", [{"learning_rate": 2e-5}, {"max_iters": 999}, {"batch_size": 4}, {"replay": 0.1}, {"loss_on": "answers"}])
def test_a_run_with_other_settings_is_told_nothing(tmp_path, monkeypatch, other):
    measured(tmp_path, monkeypatch, line(presets.DEFAULT, 0.1, 0.08), line(presets.BEST, 0.2, 0.04))
    assert presets.note(USUAL) and not presets.note(USUAL | other)


def test_without_measurements_nothing_is_said(tmp_path, monkeypatch):
    measured(tmp_path, monkeypatch, line(presets.BEST, 0.2, 0.04))
    assert presets.note(USUAL) == ""
    monkeypatch.setattr(presets, "MEASURED", tmp_path / "nowhere.jsonl")
    assert presets.note(USUAL) == ""


def test_the_runs_that_are_shipped_tell_of_both_recipes_as_they_are_now():
    lines = [json.loads(text) for text in presets.MEASURED.read_text().splitlines()]
    asked = {name: value for name, value in presets.PRESETS["asked"].items() if name != "learning_rate"} | {"eval_interval": 100}
    for recipe, settings in {presets.BEST: presets.PRESETS["best"], presets.DEFAULT: asked}.items():
        runs = [x for x in lines if x["recipe"] == recipe]
        assert {x["fold"] for x in runs} == set(range(5)) and all(x["settings"] == settings for x in runs), recipe
    assert presets.note(USUAL)
