"""The choice between two number formats: where it is made, that it is kept, and that it is told."""

import dataclasses

import pytest
import torch
from helpers import equal, settings_for, weights

import train_arianna
from arianna.formats import checkpoint
from arianna.training import devices, timing
from arianna.training.task import make_task
from train_arianna import train, train_step

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "there"),
    [
        ("flags : fpu avx512f avx512_bf16 amx_tile", True),
        ("flags : fpu amx_bf16", True),
        ("Features : fp asimd bf16", True),
        ("flags : fpu avx2 avx512f", False),
    ],
)
def test_a_processor_computes_with_bfloat16_if_it_says_so(tmp_path, flags, there):
    (tmp_path / "cpuinfo").write_text(flags)
    assert devices.has_bfloat16(CPU, tmp_path / "cpuinfo") is there
    assert devices.has_bfloat16(torch.device("cuda"), tmp_path / "cpuinfo")
    assert not devices.has_bfloat16(CPU, tmp_path / "missing")


def test_a_long_run_chooses_and_a_short_one_or_one_that_was_told_does_not(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "has_bfloat16", lambda device: True)
    cfg = settings_for(tmp_path, max_iters=1000)
    task = make_task(cfg, train_arianna.new_model(cfg).args)
    assert timing.chooses(cfg, task, CPU)
    assert not timing.chooses(dataclasses.replace(cfg, max_iters=8), task, CPU)
    assert not timing.chooses(dataclasses.replace(cfg, dtype="float32"), task, CPU)
    assert not timing.chooses(cfg, task, torch.device("cuda"))
    monkeypatch.setattr(timing, "has_bfloat16", lambda device: False)
    assert not timing.chooses(cfg, task, CPU)


def test_both_formats_are_timed_and_the_model_is_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "chooses", lambda *of: True)
    cfg = settings_for(tmp_path, learning_rate=1.0)
    model = train_arianna.new_model(cfg)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seconds = timing.time_formats(train_step, cfg, model, make_task(cfg, model.args))
    assert seconds.keys() == {"float32", "bfloat16"} and all(0 < s < 60 for s in seconds.values())
    assert equal(before, dict(model.state_dict()))


@pytest.mark.parametrize(("bfloat16", "chosen"), [(0.5, "bfloat16"), (0.95, "float32"), (2.0, "float32")])
def test_the_clearly_faster_format_is_taken_told_and_kept(tmp_path, monkeypatch, capsys, bfloat16, chosen):
    monkeypatch.setattr(train_arianna, "chooses", lambda *of: True)
    monkeypatch.setattr(train_arianna, "time_formats", lambda *of: {"float32": 1.0, "bfloat16": bfloat16})
    cfg = settings_for(tmp_path)
    train(cfg)
    told = f"1000 ms in float32, {1000 * bfloat16:.0f} ms in bfloat16: computing in {chosen}"
    assert told in capsys.readouterr().out
    assert checkpoint.load(tmp_path / "run/ckpt.pt")["run"]["dtype"] == chosen

    def never(*of):
        raise AssertionError("a run that goes on measures nothing")

    whole, run = weights(tmp_path / "run"), tmp_path / "run"
    (run / "ckpt_prev.pt").replace(run / "ckpt.pt")
    monkeypatch.setattr(train_arianna, "time_formats", never)
    train(cfg)
    assert equal(whole, weights(run)), "it goes on in the format that it began in"


@pytest.mark.parametrize("there", [True, False])
def test_a_format_that_the_processor_has_no_arithmetic_for_is_told(tmp_path, monkeypatch, capsys, there):
    monkeypatch.setattr(train_arianna, "has_bfloat16", lambda device: there)
    train(settings_for(tmp_path, dtype="bfloat16"))
    assert ("no bfloat16 arithmetic" in capsys.readouterr().out) is not there


def test_a_state_from_before_the_format_was_kept_goes_on_as_its_settings_say(tmp_path):
    cfg = settings_for(tmp_path)
    train(cfg)
    whole, run = weights(tmp_path / "run"), tmp_path / "run"
    state = checkpoint.load(run / "ckpt_prev.pt")
    del state["run"]["dtype"]
    checkpoint.save(run / "ckpt.pt", state)
    (run / "ckpt_prev.pt").unlink()
    train(cfg)
    assert equal(whole, weights(run))
