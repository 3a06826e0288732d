"""The fast forms of what a training step does, each against the plain formula beside it."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import random_numbers, random_tokens, with_ignored

from arianna import ops
from arianna.ops import causal_attention, head_loss, plain_head_loss, product
from tokenizer import IGNORE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("value", "finite"), [(1.0, True), (math.nan, False), (math.inf, False), (-math.inf, False)]
)
def test_one_number_that_is_not_finite_is_noticed_anywhere(dtype, value, finite):
    for place in (0, 500, 999):
        x = random_numbers(1000).to(dtype)
        x[place] = value
        assert ops.all_finite(x) is finite
    assert ops.all_finite(torch.zeros(0, dtype=dtype))


@pytest.mark.parametrize("length", [1, 7, 128, 129, 257])
@pytest.mark.parametrize("groups", [1, 3])
def test_causal_attention_is_the_librarys(length, groups):
    q = random_numbers(2, 6, length, 8)
    k, v = random_numbers(2, 2, 6 // groups, length, 8, seed=1)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(causal_attention(q, k, v), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [5, 256, 600])
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("taught", [False, True])
def test_the_loss_in_parts_is_the_plain_one(rows, ignored, taught, monkeypatch):
    monkeypatch.setattr(ops, "HEAD_LOGITS", 256 * 64)
    targets = random_tokens(rows, seed=1)
    targets = with_ignored(targets) if ignored else targets
    count = int((targets != IGNORE).sum())
    results, teacher = (
        [],
        (random_numbers(rows, 8, seed=3), random_numbers(64, 8, seed=4)) if taught else None,
    )
    for loss_of in (head_loss, plain_head_loss):
        x, weight = random_numbers(rows, 16).requires_grad_(), random_numbers(64, 16, seed=2).requires_grad_()
        loss = loss_of(x, weight, targets, count, teacher)
        (3 * loss).backward()
        results.append((loss.detach(), x.grad, weight.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_loss_against_a_teacher_is_cross_entropy_with_what_it_predicts():
    x, weight, targets = (
        random_numbers(20, 16),
        random_numbers(64, 16, seed=2),
        with_ignored(random_tokens(20, seed=1)),
    )
    teacher = (random_numbers(20, 8, seed=3), random_numbers(64, 8, seed=4))
    wanted, found = (teacher[0] @ teacher[1].T).softmax(-1), (x @ weight.T).log_softmax(-1)
    expected = -(wanted * found).sum(-1)[targets != IGNORE].sum() / 7
    torch.testing.assert_close(plain_head_loss(x, weight, targets, 7, teacher), expected)


@pytest.mark.skipif(not ops.X86, reason="oneDNN on x86 only")
def test_products_are_the_librarys_and_come_from_onednn(monkeypatch):
    asked = []
    monkeypatch.setattr(ops, "onednn", lambda *of, onednn=ops.onednn: asked.append(1) or onednn(*of))
    results = []
    for multiply in (product, F.linear):
        x, weight = (
            random_numbers(3, 50, 48).requires_grad_(),
            random_numbers(40, 48, seed=1).requires_grad_(),
        )
        out = multiply(x, weight)
        (out * random_numbers(3, 50, 40, seed=2)).sum().backward()
        results.append((out.detach(), x.grad, weight.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert len(asked) == 2, "forward, and for the gradient of x"
