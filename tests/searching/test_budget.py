"""The time of a search: spent over all its starts, and enough of it kept for the end."""

import pytest

from arianna.searching import budget
from arianna.searching.budget import ENDS, Clock, Cost
from arianna.searching.folds import FOLDS

SETTINGS = {"max_iters": 40, "batch_size": 16, "replay": 0.5, "question_contrast": 0.0}


@pytest.fixture
def cost() -> Cost:
    found = Cost(rows=100, row_tokens=60.0, context=256, text_tokens=8192)
    found.learn(2000.0, 1.0)
    return found


def test_time_already_spent_counts(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(budget, "clock", lambda: now[0])
    clock = Clock(1.0, tmp_path / "clock.json")
    now[0] += 600
    assert clock.spent == 600 and clock.left == 3000
    clock.keep(now=True)
    now[0] += 10_000  # between two starts
    again = Clock(2.0, tmp_path / "clock.json")
    now[0] += 50
    assert again.spent == 650 and again.left == 6550


@pytest.mark.parametrize("content", [b"", b"{}", b'{"seconds": "x"}', b'{"seco'])
def test_a_note_of_the_time_that_cannot_be_read_counts_as_none(tmp_path, content):
    (tmp_path / "clock.json").write_bytes(content)
    assert Clock(1.0, tmp_path / "clock.json").before == 0.0


def test_a_run_costs_more_with_replay_and_with_the_contrast(cost):
    plain = SETTINGS | {"replay": 0.0}
    dearer = (
        SETTINGS,
        plain | {"question_contrast": 0.1},
        plain | {"max_iters": 50},
        plain | {"batch_size": 32},
    )
    assert all(cost.trial_seconds(plain) < cost.trial_seconds(settings) for settings in dearer)


def test_the_cost_follows_what_was_measured(cost):
    before = cost.trial_seconds(SETTINGS)
    for _ in range(250):
        cost.learn(cost.fold_work(SETTINGS), 3 * before / FOLDS)
    assert cost.trial_seconds(SETTINGS) == pytest.approx(3 * before, rel=0.05)


def test_the_end_has_as_many_seeds_as_the_time_left_allows(cost):
    needed = [cost.end_seconds(SETTINGS, *end, workers=2) for end in ENDS]
    assert needed == sorted(needed, reverse=True)
    for end, seconds in zip(ENDS, needed, strict=True):
        assert cost.end_that_fits(SETTINGS, 2, seconds + 0.01) == end
    assert cost.end_that_fits(SETTINGS, 2, 0.0) == ENDS[-1]
