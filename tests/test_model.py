"""The model: its shape, formulas, loss and gradients."""

import dataclasses
import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from helpers import GROUPED, SMALL, build, lively, random_numbers, random_tokens, with_ignored

import model as model_module
from arianna import ops
from model import ModelArgs, RMSNorm, Transformer, rotate
from model import rope_table as rope
from tokenizer import IGNORE

# ---- shape ----


def test_the_shipped_shape_has_its_parameters():
    assert sum(p.numel() for p in Transformer(ModelArgs()).parameters()) == 7_155_360
    assert ModelArgs().hidden == 768 and ModelArgs().head_dim == 48


@pytest.mark.parametrize(
    "wrong",
    [
        {"dim": 0},
        {"n_layers": 1.0},
        {"n_heads": 5},
        {"dim": 36, "n_heads": 4},
        {"n_kv_heads": 3},
        {"vocab_size": -4},
    ]
    + [{"max_seq_len": 0}, {"hidden_dim": 0}, {"hidden_dim": "768"}, {"norm_eps": 0.0}, {"norm_eps": "1e-5"}],
)
def test_a_shape_that_no_model_has_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ModelArgs(**{"dim": 32, "n_heads": 4, **wrong})


def test_new_weights_follow_the_seed_and_leave_the_global_generator_alone():
    models = [Transformer(SMALL) for _ in range(3)]
    before = torch.get_rng_state()
    for model, seed in zip(models, (1, 1, 2), strict=True):
        model.init_weights(seed)
    assert torch.equal(torch.get_rng_state(), before)
    a, b, c = (m.layers[0].attention.wq.weight for m in models)
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_new_weights_have_llama2c_spreads():
    model = Transformer(ModelArgs(dim=128, n_layers=2, n_heads=4, vocab_size=512))
    model.init_weights(0)
    layer = model.layers[1]
    for weight in (
        model.output.weight,
        layer.attention.wq.weight,
        layer.feed_forward.w1.weight,
        layer.feed_forward.w2.weight,
    ):
        assert weight.std().item() == pytest.approx(0.02, rel=0.03)
    for weight in (layer.attention.wo.weight, layer.feed_forward.w3.weight):
        assert weight.std().item() == pytest.approx(0.02 / math.sqrt(4), rel=0.03)
    assert torch.equal(layer.ffn_norm.weight, torch.ones(128))


# ---- formulas ----


def test_rmsnorm_is_its_formula():
    norm, x = RMSNorm(32, 1e-5), random_numbers(3, 5, 32) * 0.01  # small, so that eps counts
    norm.weight.data = random_numbers(32, seed=1)
    expected = x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5) * norm.weight
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize("compiling", [False, True])
def test_rotate_turns_each_pair_of_neighbours_by_its_angle(monkeypatch, compiling):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    x = random_numbers(2, 7, 3, 8)
    turned = rotate(x, *(table[:7] for table in rope(ModelArgs(dim=24, n_heads=3, max_seq_len=7))))
    for position in range(7):
        for pair in range(4):
            angle = position * 10000.0 ** (-2 * pair / 8)
            a, b = x[:, position, :, 2 * pair], x[:, position, :, 2 * pair + 1]
            torch.testing.assert_close(
                turned[:, position, :, 2 * pair], a * math.cos(angle) - b * math.sin(angle)
            )
            torch.testing.assert_close(
                turned[:, position, :, 2 * pair + 1], a * math.sin(angle) + b * math.cos(angle)
            )


def test_bfloat16_stays_near_float32():
    model, tokens = lively(GROUPED, tied=False), random_tokens(2, 32)
    with torch.autocast("cpu", torch.bfloat16):
        near = model(tokens)
    logits = model(tokens)
    assert ((near.float() - logits).norm() / logits.norm()).item() < 0.05


def test_nothing_attends_to_what_comes_later():
    model, tokens = lively(GROUPED, tied=False), random_tokens(1, 32)
    changed = tokens.clone()
    changed[:, 20:] = random_tokens(1, 12, seed=1)
    torch.testing.assert_close(model(tokens)[:, :20], model(changed)[:, :20])
    assert not torch.allclose(model(tokens)[:, 20:], model(changed)[:, 20:])


def test_a_longer_context_keeps_the_logits_of_the_first_positions():
    short, tokens = lively(SMALL, tied=False), random_tokens(2, 32)
    long = Transformer(dataclasses.replace(SMALL, max_seq_len=80), tied=False)
    long.load_state_dict(short.state_dict())
    assert torch.equal(long(tokens), short(tokens))
    assert long(random_tokens(2, 80)).shape == (2, 80, 64)


# ---- loss ----


def test_a_model_that_is_its_own_teacher_has_nothing_to_learn():
    model, tokens = build(), random_tokens(2, 12)
    model(tokens, tokens, teacher=model.as_teacher(tokens)).backward()
    assert max(p.grad.abs().max() for p in model.parameters()) < 1e-6
    model(tokens, tokens).backward()
    assert max(p.grad.abs().max() for p in model.parameters()) > 1e-3


def test_every_gradient_of_the_model_is_that_of_the_plain_loss(monkeypatch):
    model, tokens, targets = (
        lively(GROUPED, tied=False),
        random_tokens(3, 32),
        with_ignored(random_tokens(3, 32, seed=1)),
    )
    monkeypatch.setattr(ops, "HEAD_LOGITS", 20 * 64)  # in five parts
    model(tokens, targets).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    monkeypatch.setattr(ops, "X86", False)  # all products as torch takes them
    monkeypatch.setattr(
        model_module, "rms_norm", lambda x, weight, eps: F.rms_norm(x, weight.shape, weight, eps)
    )
    loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
    loss.backward()
    torch.testing.assert_close(model(tokens, targets), loss)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens, targets), loss)
    for name, p in model.named_parameters():
        torch.testing.assert_close(
            found[name], p.grad, rtol=1e-5, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a compiler")
@pytest.mark.parametrize("logits", [1 << 23, 20 * 64])
def test_compiled_it_is_the_same(monkeypatch, logits):
    monkeypatch.setattr(ops, "HEAD_LOGITS", logits)
    model = lively(GROUPED, tied=False)
    compiled = torch.compile(model)
    for width in (32, 16, 24):
        tokens, targets = random_tokens(3, width), with_ignored(random_tokens(3, width, seed=1))
        results = []
        for forward in (model, compiled):
            model.zero_grad()
            loss = forward(tokens, targets)
            loss.backward()
            results.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_parts_of_a_batch_add_up_to_the_whole(tied):
    tokens, targets = random_tokens(8, 32), random_tokens(8, 32, seed=1)
    for row in range(8):
        targets[row, : 4 * row] = IGNORE  # rows of unlike weight: the mean of means would be another number
    count = int((targets != IGNORE).sum())
    gradients, losses = [], []
    for rows in (8, 1):
        model = lively(SMALL, tied)
        parts = zip(tokens.split(rows), targets.split(rows), strict=True)
        total = 0.0
        for x, y in parts:
            loss = model(x, y, count)
            loss.backward()
            total += loss.item()
        losses.append(total)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    whole, added = gradients
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert ((whole - added).norm() / whole.norm()).item() < 1e-6


def test_the_loss_of_each_token_is_told_apart():
    model, tokens, targets = (
        lively(SMALL, tied=False),
        random_tokens(11, 32),
        with_ignored(random_tokens(11, 32, seed=1)),
    )
    nats = model.nll(tokens, targets)
    assert nats.shape == targets.shape
    assert (nats[targets == IGNORE] == 0).all() and (nats[targets != IGNORE] > 0).all()
    torch.testing.assert_close(nats.sum() / (targets != IGNORE).sum(), model(tokens, targets).detach())
