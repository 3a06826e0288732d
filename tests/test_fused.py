"""The forward and backward passes by hand, each against autograd's of the plain formula."""

import pytest
import torch
from helpers import GROUPED, SMALL, lively, random_numbers, random_tokens, with_ignored

from arianna import fused, ops
from tokenizer import IGNORE


@pytest.fixture(params=[torch.float32, torch.bfloat16])
def numbers(request, monkeypatch):
    """Either format of the products by hand; the plain ones are always of float32."""
    monkeypatch.setattr(fused, "NUMBERS", request.param)
    return request.param


def gradients(out, *inputs):
    return torch.autograd.grad((out * random_numbers(*out.shape, seed=9)).sum(), inputs)


def assert_near(found, expected, numbers):
    """Equal in float32; in bfloat16 as near as its eight bits let them be."""
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        if numbers == torch.float32:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        else:
            assert (one - other).norm() < 0.03 * other.norm() + 1e-4  # of one token wq has no gradient


@pytest.mark.parametrize("shape", [SMALL, GROUPED])
@pytest.mark.parametrize("length", [1, 5, 8, 29])
def test_a_layer_is_the_plain_one(shape, length, numbers, monkeypatch):
    for module in (fused, ops):
        monkeypatch.setattr(module, "QUERY_ROWS", 8)
    model = lively(shape)
    layer, x = model.layers[1], random_numbers(3, length, shape.dim).requires_grad_()
    cos, sin = model.freqs_cos[:length], model.freqs_sin[:length]
    inputs = [x, *layer.parameters()]
    by_hand = layer.forward_fused(x, torch.complex(cos, sin))
    monkeypatch.setattr(fused, "applies", lambda x: False)
    plain = layer(x, cos, sin)
    assert_near([by_hand, *gradients(by_hand, *inputs)], [plain, *gradients(plain, *inputs)], numbers)


@pytest.mark.parametrize("rows", [64, 100, 7])
@pytest.mark.parametrize("taught", [False, True])
def test_the_loss_is_the_plain_one(rows, taught, numbers, monkeypatch):
    monkeypatch.setattr(fused, "HEAD_LOGITS", rows * 40)
    x, weight = random_numbers(64, 16).requires_grad_(), random_numbers(40, 16, seed=1).requires_grad_()
    teacher = (random_numbers(64, 8, seed=3), random_numbers(40, 8, seed=4)) if taught else None
    targets = with_ignored(random_tokens(64, seed=2) % 40)
    count = int((targets != IGNORE).sum()) + 3
    plain = ops.plain_head_loss(x, weight, targets, count, teacher)
    by_hand = fused.head_loss(x, weight, targets, count, teacher)
    found, expected = gradients(by_hand, x, weight), gradients(plain, x, weight)
    assert_near([by_hand, *found], [plain, *expected], numbers)


def test_a_loss_of_nothing_has_gradients_of_nothing():
    x, weight = random_numbers(4, 16).requires_grad_(), random_numbers(40, 16, seed=1).requires_grad_()
    loss = fused.head_loss(x, weight, torch.full((4,), IGNORE), 5)
    assert loss.item() == 0 and not any(grad.any() for grad in gradients(loss, x, weight))


def test_a_sure_target_keeps_its_digits_in_bfloat16():
    x, weight = torch.tensor([[8.0]]).requires_grad_(), torch.tensor([[1.0], [0.0]]).requires_grad_()
    fused.head_loss(x, weight, torch.zeros(1, dtype=torch.long), 1).backward()
    chance = 1 / (1 + torch.tensor(8.0).exp())  # of the other token
    torch.testing.assert_close(x.grad[0, 0], -chance, rtol=0.01, atol=0)


def test_a_step_in_bfloat16_on_a_cpu_is_by_hand_and_scoring_is_not(monkeypatch):
    model, tokens = lively(SMALL), random_tokens(2, 16)
    taken = []
    for function in (fused.AttentionHalf, fused.FeedForwardHalf, fused.HeadLoss):
        monkeypatch.setattr(function, "apply", lambda *of, call=function.apply: taken.append(1) or call(*of))
    model(tokens, tokens).backward()
    model.nll(tokens, tokens)
    assert not taken
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(tokens, tokens)
    loss.backward()
    assert len(taken) == 2 * SMALL.n_layers + 1
