"""The model: its formulas, its loss and gradients, generation."""

import dataclasses
import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from helpers import build

import model as model_module
from arianna import generate, ops
from arianna.generate import pick
from arianna.ops import causal_attention, head_loss, plain_head_loss, product
from model import ModelArgs, RMSNorm, Transformer, rotate, weight_shapes
from model import rope_table as rope
from tokenizer import IGNORE

SMALL = ModelArgs(dim=32, n_layers=2, n_heads=4, vocab_size=64, max_seq_len=32)
GROUPED = ModelArgs(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=64, max_seq_len=32)


def lively(args: ModelArgs, tied: bool = False) -> Transformer:
    """A model whose layers count for more than its embedding, so that it does not only repeat its last token, and whose norms differ."""
    model = build(args, tied)
    for layer in model.layers:
        for p in layer.parameters():
            p.data *= 5.0 if p.dim() > 1 else 1.0
    for i, p in enumerate(p for p in model.parameters() if p.dim() == 1):
        p.data *= torch.linspace(0.3, 1.7, args.dim).roll(7 * i)
    return model


def random_tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 64, shape, generator=torch.Generator().manual_seed(seed))


def random_numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("value", "finite"), [(1.0, True), (math.nan, False), (math.inf, False), (-math.inf, False)])
def test_one_number_that_is_not_finite_is_noticed_anywhere(dtype, value, finite):
    for place in (0, 500, 999):
        x = random_numbers(1000).to(dtype)
        x[place] = value
        assert ops.all_finite(x) is finite
    assert ops.all_finite(torch.zeros(0, dtype=dtype))


# ---- shape ----


def test_the_shipped_shape_has_its_parameters():
    shapes = weight_shapes(ModelArgs())
    assert sum(math.prod(s) for name, s in shapes.items() if name != "output.weight") == 7_155_360
    assert ModelArgs().hidden == 768 and ModelArgs().head_dim == 48


@pytest.mark.parametrize("args", [SMALL, GROUPED, ModelArgs(dim=32, n_layers=1, n_heads=2, vocab_size=64, hidden_dim=40)])
def test_weight_shapes_are_the_models(args):
    assert {k: tuple(v.shape) for k, v in Transformer(args).state_dict().items()} == weight_shapes(args)


@pytest.mark.parametrize(
    "wrong",
    [{"dim": 0}, {"n_layers": 1.0}, {"n_layers": 5000}, {"n_heads": 5}, {"dim": 36, "n_heads": 4}, {"n_kv_heads": 3}, {"vocab_size": -4}]
    + [{"max_seq_len": 1 << 21}, {"hidden_dim": 0}, {"hidden_dim": "768"}, {"norm_eps": 0.0}, {"norm_eps": "1e-5"}],
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
    for weight in (model.output.weight, layer.attention.wq.weight, layer.feed_forward.w1.weight, layer.feed_forward.w2.weight):
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
            torch.testing.assert_close(turned[:, position, :, 2 * pair], a * math.cos(angle) - b * math.sin(angle))
            torch.testing.assert_close(turned[:, position, :, 2 * pair + 1], a * math.sin(angle) + b * math.cos(angle))


@pytest.mark.parametrize("length", [1, 7, 128, 129, 257])
@pytest.mark.parametrize("groups", [1, 3])
def test_causal_attention_is_the_librarys(length, groups):
    q = random_numbers(2, 6, length, 8)
    k, v = random_numbers(2, 2, 6 // groups, length, 8, seed=1)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(causal_attention(q, k, v), expected, rtol=1e-5, atol=1e-6)


def test_bfloat16_stays_near_float32():
    model, tokens = lively(GROUPED), random_tokens(2, 32)
    with torch.autocast("cpu", torch.bfloat16):
        near = model(tokens)
    logits = model(tokens)
    assert ((near.float() - logits).norm() / logits.norm()).item() < 0.05


def test_nothing_attends_to_what_comes_later():
    model, tokens = lively(GROUPED), random_tokens(1, 32)
    changed = tokens.clone()
    changed[:, 20:] = random_tokens(1, 12, seed=1)
    torch.testing.assert_close(model(tokens)[:, :20], model(changed)[:, :20])
    assert not torch.allclose(model(tokens)[:, 20:], model(changed)[:, 20:])


def test_a_longer_context_keeps_the_logits_of_the_first_positions():
    short, tokens = lively(SMALL), random_tokens(2, 32)
    long = Transformer(dataclasses.replace(SMALL, max_seq_len=80), tied=False)
    long.load_state_dict(short.state_dict())
    assert torch.equal(long(tokens), short(tokens))
    assert long(random_tokens(2, 80)).shape == (2, 80, 64)


# ---- loss ----


def with_ignored(targets: torch.Tensor, seed: int = 5) -> torch.Tensor:
    drop = torch.rand(targets.shape, generator=torch.Generator().manual_seed(seed)) < 0.4
    return targets.masked_fill(drop, IGNORE)


@pytest.mark.parametrize("rows", [5, 256, 600])
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("taught", [False, True])
def test_the_loss_in_parts_is_the_plain_one(rows, ignored, taught, monkeypatch):
    monkeypatch.setattr(ops, "HEAD_LOGITS", 256 * 64)
    targets = random_tokens(rows, seed=1)
    targets = with_ignored(targets) if ignored else targets
    count = int((targets != IGNORE).sum())
    results, teacher = [], (random_numbers(rows, 8, seed=3), random_numbers(64, 8, seed=4)) if taught else None
    for loss_of in (head_loss, plain_head_loss):
        x, weight = random_numbers(rows, 16).requires_grad_(), random_numbers(64, 16, seed=2).requires_grad_()
        loss = loss_of(x, weight, targets, count, teacher)
        (3 * loss).backward()
        results.append((loss.detach(), x.grad, weight.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_loss_against_a_teacher_is_cross_entropy_with_what_it_predicts():
    x, weight, targets = random_numbers(20, 16), random_numbers(64, 16, seed=2), with_ignored(random_tokens(20, seed=1))
    teacher = (random_numbers(20, 8, seed=3), random_numbers(64, 8, seed=4))
    wanted, found = (teacher[0] @ teacher[1].T).softmax(-1), (x @ weight.T).log_softmax(-1)
    expected = -(wanted * found).sum(-1)[targets != IGNORE].sum() / 7
    torch.testing.assert_close(plain_head_loss(x, weight, targets, 7, teacher), expected)


def test_a_model_that_is_its_own_teacher_has_nothing_to_learn():
    model, tokens = build(), random_tokens(2, 12)
    model(tokens, tokens, teacher=model.as_teacher(tokens)).backward()
    assert max(p.grad.abs().max() for p in model.parameters()) < 1e-6
    model(tokens, tokens).backward()
    assert max(p.grad.abs().max() for p in model.parameters()) > 1e-3


@pytest.mark.skipif(not ops.X86, reason="oneDNN on x86 only")
def test_products_are_the_librarys_and_come_from_onednn(monkeypatch):
    asked = []
    monkeypatch.setattr(ops, "onednn", lambda *of, onednn=ops.onednn: asked.append(1) or onednn(*of))
    results = []
    for multiply in (product, F.linear):
        x, weight = random_numbers(3, 50, 48).requires_grad_(), random_numbers(40, 48, seed=1).requires_grad_()
        out = multiply(x, weight)
        (out * random_numbers(3, 50, 40, seed=2)).sum().backward()
        results.append((out.detach(), x.grad, weight.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert len(asked) == 2, "forward, and for the gradient of x"


def test_every_gradient_of_the_model_is_that_of_the_plain_loss(monkeypatch):
    model, tokens, targets = lively(GROUPED), random_tokens(3, 32), with_ignored(random_tokens(3, 32, seed=1))
    monkeypatch.setattr(ops, "HEAD_LOGITS", 20 * 64)  # in five parts
    model(tokens, targets).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    monkeypatch.setattr(ops, "X86", False)  # all products as torch takes them
    monkeypatch.setattr(model_module, "rms_norm", lambda x, weight, eps: F.rms_norm(x, weight.shape, weight, eps))
    loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
    loss.backward()
    torch.testing.assert_close(model(tokens, targets), loss)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens, targets), loss)
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-5, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a compiler")
@pytest.mark.parametrize("logits", [1 << 23, 20 * 64])
def test_compiled_it_is_the_same(monkeypatch, logits):
    monkeypatch.setattr(ops, "HEAD_LOGITS", logits)
    model = lively(GROUPED)
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
    model, tokens, targets = lively(SMALL), random_tokens(11, 32), with_ignored(random_tokens(11, 32, seed=1))
    nats = model.nll(tokens, targets)
    assert nats.shape == targets.shape
    assert (nats[targets == IGNORE] == 0).all() and (nats[targets != IGNORE] > 0).all()
    torch.testing.assert_close(nats.sum() / (targets != IGNORE).sum(), model(tokens, targets).detach())


# ---- generation ----

PROMPTS = [[5], [7, 8, 9, 10], [20, 21], [40, 41, 42]]


def greedy_without_cache(model: Transformer, prompt: list[int], n: int) -> list[int]:
    tokens = list(prompt)
    with torch.inference_mode():
        while len(tokens) < len(prompt) + n and len(tokens) < model.args.max_seq_len:
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


def greedy(model: Transformer, prompts: list[list[int]], n: int, **options) -> list[list[int]]:
    return model.generate(prompts, n, temperature=0, **{"stop": (), **options})


@pytest.mark.parametrize("args", [SMALL, GROUPED])
def test_the_cache_changes_no_greedy_token(args):
    model = lively(args)
    expected = [greedy_without_cache(model, p, 20) for p in PROMPTS]
    assert greedy(model, PROMPTS, 20) == expected
    assert [greedy(model, [p], 20)[0] for p in PROMPTS] == expected
    assert len({token for row in expected for token in row}) > 8, "the test says little if it generates few tokens"


def test_each_row_gets_its_own_number_of_new_tokens():
    assert [len(row) for row in greedy(lively(SMALL), PROMPTS, 6)] == [6] * 4
    assert greedy(lively(SMALL), PROMPTS, 0) == [[]] * 4


def test_generation_ends_with_the_context():
    prompts = [[5], list(range(3, 31))]
    assert [len(row) for row in greedy(lively(SMALL), prompts, 100)] == [31, 4]


@pytest.mark.parametrize("stop", [1, 2])
def test_generation_stops_at_bos_and_eos_and_leaves_them_out(stop):
    model = lively(SMALL)
    before = greedy(model, [[5]], 20)[0]
    end = next(i for i, token in enumerate(before) if i > 2 and token not in before[:i])
    ids = list(range(64))
    ids[stop], ids[before[end]] = before[end], stop
    model.output.weight.data = model.output.weight.data[ids]  # now BOS or EOS is said where that token was
    assert stop not in before[:end]
    assert model.generate([[5]], 20, temperature=0) == [before[:end]]


def test_a_row_that_stopped_does_not_stop_the_others():
    model = lively(SMALL)
    expected = greedy(model, PROMPTS, 12)
    stop = expected[1][2]
    ends = [row.index(stop) if stop in row else len(row) for row in expected]
    assert len(set(ends)) > 1
    assert greedy(model, PROMPTS, 12, stop=(stop,)) == [row[:end] for row, end in zip(expected, ends, strict=True)]


def test_rows_that_ended_are_computed_no_further_and_the_others_draw_the_same_numbers(monkeypatch):
    model, sampling, widths = lively(SMALL), {"temperature": 1.0, "top_k": 0, "seed": 5}, []
    prompts = PROMPTS * 4
    whole = model.generate(prompts, 12, stop=(), **sampling)
    stop = tuple({row[n % 6] for n, row in enumerate(whole)})  # most end early
    expected = [row[: min([row.index(t) for t in stop if t in row], default=len(row))] for row in whole]
    decode = generate.Decoder.__call__
    monkeypatch.setattr(generate.Decoder, "__call__", lambda self, tokens, at: widths.append(len(tokens)) or decode(self, tokens, at))
    assert model.generate(prompts, 12, stop=stop, **sampling) == expected
    assert widths[0] == 16 and widths[-1] <= 4 and widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("args", [SMALL, GROUPED])
@pytest.mark.parametrize(("rows", "x86"), [(1, True), (3, True), (3, False)])
def test_the_decoder_says_what_the_forward_pass_does_by_every_library(args, rows, x86, monkeypatch):
    if x86 and rows > 1 and not generate.X86:
        pytest.skip("oneDNN is there on x86 only")
    monkeypatch.setattr(generate, "X86", x86)
    model, tokens = lively(args), torch.randint(3, 64, (rows, 12), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        cache = model.new_cache(rows, 12)
        model.hidden_states(tokens[:, :4], cache)
        decode, expected = generate.Decoder(model, cache), model(tokens)
        for position in range(4, 12):
            torch.testing.assert_close(decode(tokens[:, position], position), expected[:, position], rtol=1e-4, atol=1e-4)


def test_the_same_seed_gives_the_same_tokens_and_the_global_generator_is_left_alone():
    model = lively(SMALL)
    before = torch.get_rng_state()
    first, again, other = (model.generate(PROMPTS, 12, seed=seed) for seed in (3, 3, 4))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("prompts", [[[]], [[5], []], [[3] * 32]])
def test_a_prompt_that_leaves_no_room_is_refused(prompts):
    with pytest.raises(ValueError, match="at least 1 and at most 31 in a context of 32"):
        lively(SMALL).generate(prompts, 4)


# ---- one token ----


def frequencies(logits: torch.Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, draws: int = 20_000) -> torch.Tensor:
    """How often each token is picked when `chance` takes evenly spread values: its probability to 1 / draws."""
    chance = (torch.arange(draws) + 0.5) / draws
    picked = pick(logits.expand(draws, -1), temperature, top_k, top_p, chance)
    return picked.bincount(minlength=len(logits)) / draws


LOGITS = torch.tensor([0.5, 2.0, -1.0, 1.0, 0.0, -3.0, 1.9])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_picked_with_their_probability(temperature):
    torch.testing.assert_close(frequencies(LOGITS, temperature), (LOGITS / temperature).softmax(-1), rtol=0, atol=1e-4)


def test_temperature_0_and_top_k_1_take_the_likeliest():
    logits = random_numbers(50, 64)
    chance = torch.rand(50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(pick(logits, 0, 300, 1.0, chance), logits.argmax(-1))
    assert torch.equal(pick(logits, 1.0, 1, 1.0, chance), logits.argmax(-1))


def test_top_k_keeps_the_k_likeliest():
    expected = LOGITS.softmax(-1)
    expected[[0, 2, 4, 5]] = 0
    torch.testing.assert_close(frequencies(LOGITS, top_k=3), expected / expected.sum(), rtol=0, atol=1e-4)
    torch.testing.assert_close(frequencies(LOGITS, top_k=100), LOGITS.softmax(-1), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("top_p", "kept"), [(0.0, 1), (0.1, 1), (0.4, 2), (0.7, 2), (0.72, 3), (0.9, 4), (0.999, 7)])
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p, kept):
    order = LOGITS.argsort(descending=True)
    p = LOGITS.softmax(-1)
    cumulative = p[order].cumsum(-1)
    assert kept == 1 or cumulative[kept - 2] < top_p <= cumulative[kept - 1], f"{cumulative=}"
    expected = torch.zeros_like(p)
    expected[order[:kept]] = p[order[:kept]]
    torch.testing.assert_close(frequencies(LOGITS, top_p=top_p), expected / expected.sum(), rtol=0, atol=1e-4)


def test_top_p_counts_within_the_top_k():
    found = frequencies(LOGITS, top_k=2, top_p=0.5)
    assert found[1] == 1.0, "1 has 52% of the two likeliest, though 36% of all"
