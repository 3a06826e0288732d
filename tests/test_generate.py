"""Generation: the cache, the choice of a token, and the decoder's formulas by every library."""

import pytest
import torch
from helpers import GROUPED, SMALL, lively, random_numbers

from arianna import generate as generation
from arianna.generate import generate, new_cache, pick
from model import Transformer
from tokenizer import BOS, EOS

PROMPTS = [[5], [7, 8, 9, 10], [20, 21], [40, 41, 42]]


def greedy_without_cache(model: Transformer, prompt: list[int], n: int) -> list[int]:
    tokens = list(prompt)
    with torch.inference_mode():
        while len(tokens) < len(prompt) + n and len(tokens) < model.args.max_seq_len:
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


def greedy(model: Transformer, prompts: list[list[int]], n: int, **options) -> list[list[int]]:
    return generate(model, prompts, n, temperature=0, **{"stop": (), **options})


@pytest.mark.parametrize("args", [SMALL, GROUPED])
def test_the_cache_changes_no_greedy_token(args):
    model = lively(args, tied=False)
    expected = [greedy_without_cache(model, p, 20) for p in PROMPTS]
    assert greedy(model, PROMPTS, 20) == expected
    assert [greedy(model, [p], 20)[0] for p in PROMPTS] == expected
    assert len({token for row in expected for token in row}) > 8, (
        "the test says little if it generates few tokens"
    )


def test_each_row_gets_its_own_number_of_new_tokens():
    assert [len(row) for row in greedy(lively(SMALL, tied=False), PROMPTS, 6)] == [6] * 4
    assert greedy(lively(SMALL, tied=False), PROMPTS, 0) == [[]] * 4


def test_generation_ends_with_the_context():
    prompts = [[5], list(range(3, 31))]
    assert [len(row) for row in greedy(lively(SMALL, tied=False), prompts, 100)] == [31, 4]


@pytest.mark.parametrize("stop", [1, 2])
def test_generation_stops_at_bos_and_eos_and_leaves_them_out(stop):
    model = lively(SMALL, tied=False)
    before = greedy(model, [[5]], 20)[0]
    end = next(i for i, token in enumerate(before) if i > 2 and token not in before[:i])
    ids = list(range(64))
    ids[stop], ids[before[end]] = before[end], stop
    model.output.weight.data = model.output.weight.data[ids]  # now BOS or EOS is said where that token was
    assert stop not in before[:end]
    assert generate(model, [[5]], 20, temperature=0) == [before[:end]]


def test_a_row_that_stopped_does_not_stop_the_others():
    model = lively(SMALL, tied=False)
    expected = greedy(model, PROMPTS, 12)
    stop = expected[1][2]
    ends = [row.index(stop) if stop in row else len(row) for row in expected]
    assert len(set(ends)) > 1
    assert greedy(model, PROMPTS, 12, stop=(stop,)) == [
        row[:end] for row, end in zip(expected, ends, strict=True)
    ]


def test_rows_that_ended_are_computed_no_further_and_the_others_draw_the_same_numbers(monkeypatch):
    model, sampling, widths = lively(SMALL, tied=False), {"temperature": 1.0, "top_k": 0, "seed": 5}, []
    prompts = PROMPTS * 4
    whole = generate(model, prompts, 12, stop=(), **sampling)
    stop = tuple({row[n % 6] for n, row in enumerate(whole)})  # most end early
    expected = [row[: min([row.index(t) for t in stop if t in row], default=len(row))] for row in whole]
    decode = generation.Decoder.__call__
    monkeypatch.setattr(
        generation.Decoder,
        "__call__",
        lambda self, tokens, at: widths.append(len(tokens)) or decode(self, tokens, at),
    )
    assert generate(model, prompts, 12, stop=stop, **sampling) == expected
    assert widths[0] == 16 and widths[-1] <= 4 and widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("args", [SMALL, GROUPED])
@pytest.mark.parametrize(("rows", "x86"), [(1, True), (3, True), (3, False)])
def test_the_decoder_says_what_the_forward_pass_does_by_every_library(args, rows, x86, monkeypatch):
    if x86 and rows > 1 and not generation.X86:
        pytest.skip("oneDNN is there on x86 only")
    monkeypatch.setattr(generation, "X86", x86)
    model, tokens = (
        lively(args, tied=False),
        torch.randint(3, 64, (rows, 12), generator=torch.Generator().manual_seed(2)),
    )
    with torch.inference_mode():
        cache = new_cache(model, rows, 12)
        model.hidden_states(tokens[:, :4], cache)
        decode, expected = generation.Decoder(model, cache), model(tokens)
        for position in range(4, 12):
            torch.testing.assert_close(
                decode(tokens[:, position], position), expected[:, position], rtol=1e-4, atol=1e-4
            )


def test_the_same_seed_gives_the_same_tokens_and_the_global_generator_is_left_alone():
    model = lively(SMALL, tied=False)
    before = torch.get_rng_state()
    first, again, other = (generate(model, PROMPTS, 12, seed=seed) for seed in (3, 3, 4))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("prompts", [[[]], [[5], []], [[3] * 32]])
def test_a_prompt_that_leaves_no_room_is_refused(prompts):
    with pytest.raises(ValueError, match="at least 1 and at most 31 in a context of 32"):
        generate(lively(SMALL, tied=False), prompts, 4)


# ---- one token ----


def frequencies(
    logits: torch.Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, draws: int = 20_000
) -> torch.Tensor:
    """How often each token is picked when `chance` takes evenly spread values: its probability to 1 /
    draws."""
    chance = (torch.arange(draws) + 0.5) / draws
    picked = pick(logits.expand(draws, -1), temperature, top_k, top_p, chance)
    return picked.bincount(minlength=len(logits)) / draws


LOGITS = torch.tensor([0.5, 2.0, -1.0, 1.0, 0.0, -3.0, 1.9])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_picked_with_their_probability(temperature):
    torch.testing.assert_close(
        frequencies(LOGITS, temperature), (LOGITS / temperature).softmax(-1), rtol=0, atol=1e-4
    )


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


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.0, 1), (0.1, 1), (0.4, 2), (0.7, 2), (0.72, 3), (0.9, 4), (0.999, 7)]
)
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


def test_likelihoods_are_those_of_the_plain_formula_with_the_end():
    model, likelihoods = lively(SMALL), [0.0] * len(PROMPTS)
    added = generate(model, PROMPTS, 12, temperature=1.5, top_k=0, seed=2, likelihoods=likelihoods)
    ended = [len(answer) < 12 for answer in added]
    assert any(ended) and not all(ended)
    for ids, answer, end, value in zip(PROMPTS, added, ended, likelihoods, strict=True):
        row = [*ids, *answer]
        with torch.inference_mode():
            logs = model(torch.tensor([row]))[0].log_softmax(-1)
        expected = sum(float(logs[i - 1, row[i]]) for i in range(len(ids), len(row)))
        ends = [expected + float(logs[-1, stop]) for stop in (BOS, EOS)] if end else [expected]
        assert any(value == pytest.approx(each, abs=1e-4) for each in ends)


def test_equal_prompts_are_read_once_and_go_on_as_each_would_alone(monkeypatch):
    model, read = lively(SMALL, tied=False), []
    hidden_states = model.hidden_states
    monkeypatch.setattr(
        model, "hidden_states", lambda *args: read.append(len(args[0])) or hidden_states(*args)
    )
    prompts = [PROMPTS[1], PROMPTS[3][:2] + [9, 8, 7], PROMPTS[1]]
    rows = greedy(model, prompts, 10)
    assert read == [2]
    assert rows == [greedy_without_cache(model, prompt, 10) for prompt in prompts]
