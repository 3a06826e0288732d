"""Other configurations that llama2.c trains: each is fine-tuned, exported, read back and sampled; tiny
versions of them."""

import dataclasses
import math

import pytest
import torch
from helpers import ROOT, TINY, build, settings_for

import sample
from arianna import formats
from arianna.formats import checkpoint
from arianna.formats.write import write_model
from train_arianna import train

SHAPES = {
    "stories110M's": (
        dataclasses.replace(TINY, dim=48, n_layers=3, n_heads=12, n_kv_heads=12, max_seq_len=128),
        True,
    ),
    "grouped heads": (dataclasses.replace(TINY, n_heads=4, n_kv_heads=2), True),
    "output of its own": (TINY, False),
    "one key head, output and width of their own": (
        dataclasses.replace(TINY, n_heads=4, n_kv_heads=1, hidden_dim=40),
        False,
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_another_shape_is_fine_tuned_exported_and_sampled(tmp_path, name, capsys):
    args, tied = SHAPES[name]
    base = tmp_path / "base.pt"
    checkpoint.save(base, checkpoint.pack(build(args, tied)))
    result = train(settings_for(tmp_path, base, max_iters=4, eval_interval=2, learning_rate=1e-3))
    assert result.step == 4 and math.isfinite(result.best_loss)
    tuned = formats.open_model(tmp_path / "run/ckpt.pt")
    assert tuned.args == args and tuned.tied is tied
    assert all(
        not torch.equal(p, q) for p, q in zip(tuned.parameters(), build(args, tied).parameters(), strict=True)
    ), "all learn"
    write_model(tuned, tmp_path / "model.bin")
    words = ["--start=Q: Who?", "--max_new_tokens=8", f"--tokenizer={ROOT / 'data/tok4096.model'}"]
    capsys.readouterr()
    said = []
    for file in ("run/ckpt.pt", "model.bin"):
        assert sample.main([f"--checkpoint={tmp_path / file}", *words]) == 0
        said.append(capsys.readouterr().out.replace(file, ""))
    assert said[0] == said[1] and said[0].startswith("Q: Who?")


def test_grouped_heads_are_trained_from_scratch_by_their_flags(tmp_path):
    shape = {"dim": 48, "n_layers": 3, "n_heads": 12, "n_kv_heads": 3, "max_seq_len": 32, "multiple_of": 16}
    assert train(settings_for(tmp_path, max_iters=2, **shape)).step == 2
    made = formats.open_model(tmp_path / "run/ckpt.pt").args
    assert {key: getattr(made, key) for key in shape} == shape
