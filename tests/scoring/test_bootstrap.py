"""Intervals, on numbers whose spread is known."""

import dataclasses
import math

import numpy as np
import pytest

from arianna.scoring import bootstrap


def conversations_of(
    difference: float, scatter: float = 0.05, n: int = 17, seed: int = 0
) -> tuple[list[float], list[int]]:
    """Nats and tokens of n conversations, `difference` nats a token over those of seed 0 without one."""
    tokens = np.random.default_rng(1).integers(40, 250, n)
    base = np.random.default_rng(2).normal(3.4, 0.4, n)
    own = difference + scatter * np.random.default_rng([3, seed]).normal(size=n) if difference or seed else 0
    return (tokens * (base + own)).tolist(), tokens.tolist()


BASE = conversations_of(0)


def test_the_base_against_itself_differs_by_nothing():
    found = bootstrap.bootstrap(BASE, {100: BASE, 200: BASE})
    assert dataclasses.astuple(found) == (100, 0.0, 0.0, 0.0, 0.0)


def test_noise_around_the_base_has_zero_in_its_interval():
    found = bootstrap.bootstrap(BASE, {step: conversations_of(0, 0.2, seed=step) for step in range(1, 11)})
    assert found.low < 0 < found.high


def test_a_clear_gain_excludes_zero_and_a_clear_loss_too():
    better = bootstrap.bootstrap(BASE, {100: conversations_of(-0.5, seed=1)})
    worse = bootstrap.bootstrap(BASE, {100: conversations_of(0.5, seed=1)})
    assert better.low < better.value < better.high < 0 < worse.low


def test_the_bootstrap_says_the_same_twice():
    checkpoints = {step: conversations_of(-0.1, seed=step) for step in (100, 200)}
    assert bootstrap.bootstrap(BASE, checkpoints) == bootstrap.bootstrap(
        BASE, dict(reversed(checkpoints.items()))
    )


def test_the_difference_is_one_of_sums_and_the_lowest_is_taken():
    """The second is worse on each short conversation and has the worse mean of means, but the lower loss a
    token.
    """
    tokens = [10] * 4 + [40] * 4
    base, first, second = [30.0] * 4 + [120.0] * 4, [25.0] * 4 + [100.0] * 4, [35.0] * 4 + [88.0] * 4
    found = bootstrap.bootstrap((base, tokens), {100: (first, tokens), 200: (second, tokens)})
    assert found.step == 200 and math.isclose(found.value, (4 * 35 + 4 * 88) / 200 - 3)


def test_the_choice_is_made_again_on_each_resample_and_scored_on_the_others():
    """Twenty checkpoints of pure noise: the best seems better than the base, on conversations left out of
    the choice it is not.
    """
    checkpoints = {step: conversations_of(0, 0.3, seed=step) for step in range(1, 21)}
    found = bootstrap.bootstrap(BASE, checkpoints)
    alone = bootstrap.bootstrap(BASE, {found.step: checkpoints[found.step]})
    assert found.value == alone.value < -0.08
    assert found.unseen > 0.5 * found.value and found.high > alone.high
    assert abs(alone.unseen - alone.value) < 0.02, "without a choice there is nothing to be too kind about"


@pytest.mark.parametrize(("n", "told"), [(7, False), (8, True)])
def test_too_few_conversations_have_no_interval(n, told):
    assert (
        bootstrap.bootstrap(conversations_of(0, n=n), {1: conversations_of(-1, n=n, seed=1)}) is not None
    ) == told


def test_conversations_without_a_scored_token_do_not_count():
    nats, tokens = conversations_of(-1, n=8, seed=1)
    assert (
        bootstrap.bootstrap(
            (nats[:-1] + [0.0], tokens[:-1] + [0]), {1: (nats[:-1] + [0.0], tokens[:-1] + [0])}
        )
        is None
    )


def test_other_conversations_cannot_be_compared():
    with pytest.raises(ValueError, match="same conversations"):
        bootstrap.bootstrap(BASE, {1: conversations_of(0, n=16)})
    with pytest.raises(ValueError, match="0 checkpoints"):
        bootstrap.bootstrap(BASE, {})


def test_a_ratio_is_one_of_sums_with_an_interval_around_it():
    found = bootstrap.ratio([1, 0, 3, 2, 0, 1, 1, 0, 5], [10, 10, 40, 20, 5, 10, 10, 0, 0])
    assert found == {"value": 8 / 105, "low": None, "high": None}, "two have nothing to be divided by"
    found = bootstrap.ratio([1, 0, 3, 2, 0, 1, 1, 0], [10, 10, 40, 20, 5, 10, 10, 10])
    assert found["value"] == 8 / 115 and 0 < found["low"] < 8 / 115 < found["high"] < 0.15
    assert bootstrap.ratio([0.0], [0]) == {"value": None, "low": None, "high": None}
