"""Muon beside torch's own, and what is taken from a checkpoint's moments."""

import copy

import pytest
import torch
from helpers import build, equal

from arianna.training import optimizer as optimizer_module
from arianna.training.optimizer import MUON_RATE, load_moments, make_optimizer, orthogonal
from arianna.training.settings import TrainConfig

SCRATCH = TrainConfig(init_from="scratch", learning_rate=1e-3)


def gradients(model, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


@pytest.mark.parametrize(("there", "numbers"), [(True, torch.bfloat16), (False, torch.float32)])
def test_matrices_are_made_orthogonal_in_numbers_that_the_processor_has(monkeypatch, there, numbers):
    # bfloat16 without such arithmetic takes some 15 s a step of InnerArianna, float32 0.4 s
    monkeypatch.setattr(optimizer_module, "has_bfloat16", lambda device: there)
    seen = []
    monkeypatch.setattr(optimizer_module, "orthogonal", lambda x: seen.append(x.dtype) or x)
    model = build()
    gradients(model, 0)
    make_optimizer(model, SCRATCH).step()
    assert set(seen) == {numbers}


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 16, 40), (2, 40, 16)])
def test_orthogonal_matrices_have_singular_values_near_1(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert ((torch.linalg.svdvals(orthogonal(x)) - 1).abs() < 0.4).all()
    assert torch.allclose(orthogonal(x), orthogonal(x.bfloat16()).float(), atol=0.05)


def test_muon_takes_the_steps_of_torchs_own_to_the_last_bit(monkeypatch):
    monkeypatch.setattr(optimizer_module, "has_bfloat16", lambda device: True)  # torch's are always bfloat16
    ours, theirs = build(), build()
    matrices = [p for name, p in theirs.named_parameters() if p.dim() >= 2 and name.startswith("layers.")]
    others = [p for p in theirs.parameters() if not any(p is m for m in matrices)]
    muon = torch.optim.Muon(matrices, lr=1e-3 * MUON_RATE, weight_decay=0.1 / MUON_RATE)
    adamw = torch.optim.AdamW(others, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    optimizer = make_optimizer(ours, SCRATCH)
    for step in range(3):
        gradients(ours, step)
        gradients(theirs, step)
        optimizer.step()
        muon.step()
        adamw.step()
    assert not equal(dict(ours.named_parameters()), dict(build().named_parameters()))
    assert equal(dict(ours.named_parameters()), dict(theirs.named_parameters()))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_loaded_moments_go_on_to_the_last_bit(name):
    cfg = TrainConfig(optimizer=name, learning_rate=1e-3)
    model = build()
    optimizer = make_optimizer(model, cfg)
    gradients(model, 0)
    optimizer.step()
    twin = copy.deepcopy(model)
    again = make_optimizer(twin, cfg)
    load_moments(again, copy.deepcopy(optimizer.state_dict()["state"]))
    for stepped, by in ((model, optimizer), (twin, again)):
        gradients(stepped, 1)
        by.step()
    assert equal(dict(model.named_parameters()), dict(twin.named_parameters()))


@pytest.mark.parametrize(
    ("name", "moment"), [("adamw", "exp_avg"), ("adamw", "exp_avg_sq"), ("muon", "momentum_buffer")]
)
@pytest.mark.parametrize("spoil", [lambda m: m[:-1], lambda m: m * float("nan")], ids=["shape", "nan"])
def test_moments_that_do_not_fit_are_refused(name, moment, spoil):
    model = build()
    optimizer = make_optimizer(model, TrainConfig(optimizer=name))
    gradients(model, 0)
    optimizer.step()
    moments = copy.deepcopy(optimizer.state_dict()["state"])
    moments[0][moment] = spoil(moments[0][moment])
    with pytest.raises(ValueError, match=f"{moment} of parameter 0 is not"):
        load_moments(optimizer, moments)
