"""Whether answers listen, with models that do and models that do not."""

import itertools
import json
from dataclasses import asdict, replace

import pytest
import torch
from helpers import LONG, TURNS, Stub, build, talk

from arianna.scoring import listening as module
from arianna.scoring.listening import from_dict, improvement, listening, others

LONG_QUESTION = talk("Tell me " + "very " * 90 + "much.", "No.")
ECHOES = [
    talk(f"Say {w}.", f"{w} {w}")
    for w in ("house", "river", "stone", "bread", "window", "garden", "letter", "winter")
]


def seen_before(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """1 nat for a token that stands earlier in the row, else 4."""
    earlier = (x[:, None, :] == y[:, :, None]) & torch.ones(y.shape[1], y.shape[1], dtype=torch.bool).tril()
    return torch.where(earlier.any(-1), 1.0, 4.0)


def seen_elsewhere(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return 5.0 - seen_before(x, y)


def noise(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Nats that depend on the whole row, question included, and on nothing in particular."""
    return ((x.cumsum(-1) * 7919 + y * 104729) % 1009).float() / 1009


def test_a_model_that_ignores_questions_is_right_half_of_the_time(tokenizer):
    """Also under a question that is too long, and where an answer is cut: the same tokens are scored on
    both sides.
    """
    score = listening(Stub(lambda x, y: (y % 7).float()), [*ECHOES, LONG, TURNS, LONG_QUESTION], tokenizer)
    assert (score.share, score.low, score.high) == (0.5, 0.5, 0.5)
    assert (score.gain, score.gain_low, score.gain_high) == (0, 0, 0)
    assert {pair.nats for pair in score.pairs} == {0.0} and len(score.pairs) == 11 * 10


def test_a_model_that_listens_is_always_right_and_one_that_contradicts_never(tokenizer):
    right, wrong = (listening(Stub(loss), ECHOES, tokenizer) for loss in (seen_before, seen_elsewhere))
    assert (right.share, right.low, right.high) == (1, 1, 1) and right.gain_low > 0
    assert (wrong.share, wrong.low, wrong.high) == (0, 0, 0) and wrong.gain_high < 0
    assert right.gain == sum(p.nats for p in right.pairs) / sum(p.tokens for p in right.pairs)


def test_noise_has_chance_in_its_interval(tokenizer):
    score = listening(
        Stub(noise), [talk(f"What is at {i}?", f"There is house {i * i}.") for i in range(20)], tokenizer
    )
    assert score.low < 0.5 < score.high and score.high - score.low < 0.4


def test_only_answers_are_scored_and_all_of_an_answer_that_fits(tokenizer):
    score = listening(Stub(), ECHOES, tokenizer)
    assert [p.tokens for p in score.pairs if p.answer == 0] == [len(tokenizer.encode("house house"))] * 7


def test_only_first_turns_count(tokenizer):
    first = [talk(*c.turns[0], system=c.system) for c in [*ECHOES, TURNS]]
    assert listening(build(), [*ECHOES, TURNS], tokenizer) == listening(build(), first, tokenizer)


def test_answers_that_are_context_alone_are_not_scored(tokenizer):
    given = replace(talk("Say stone.", "stone"), given=frozenset({1}))
    assert listening(Stub(), [*ECHOES, given], tokenizer) == listening(Stub(), ECHOES, tokenizer)


def test_conversations_with_one_question_or_one_answer_are_not_paired(tokenizer):
    found = [talk("Say house.", "house"), talk("say house!", "home"), talk("Say home.", "home")]
    assert {p[:2] for p in listening(Stub(), found, tokenizer).pairs} == {(0, 2), (2, 0)}
    alone = listening(Stub(), found[:2], tokenizer)
    assert (alone.share, alone.gain, alone.pairs) == (None, None, [])


@pytest.mark.parametrize("n", [2, 17, 27])
def test_of_few_conversations_all_ordered_pairs_are_scored(n):
    assert sorted(others(n)) == sorted(itertools.permutations(range(n), 2))


@pytest.mark.parametrize("n", [28, 96])
def test_of_many_each_answer_stands_under_as_many_other_questions(n):
    found = list(others(n))
    each = module.MOST_ROWS // n - 1
    assert len(set(found)) == len(found) == n * each and n * (each + 1) <= module.MOST_ROWS
    assert all(sum(i == k for i, _ in found) == sum(j == k for _, j in found) == each for k in range(n))


def test_of_very_many_conversations_a_bounded_sample_is_scored(tokenizer, monkeypatch):
    monkeypatch.setattr(module, "MOST_ROWS", 40)
    score = listening(Stub(), [talk(f"What is at {i}?", f"House {i}.") for i in range(50)], tokenizer)
    assert score.conversations == 5 and len(score.pairs) == 5 * 4


def test_the_bases_context_holds_for_a_model_with_a_longer_one(tokenizer):
    assert listening(build(), [*ECHOES, LONG], tokenizer, context=32) != listening(
        build(), [*ECHOES, LONG], tokenizer
    )


def test_the_base_improves_on_itself_by_nothing_and_a_model_that_listens_improves_on_it(tokenizer):
    base, tuned = (listening(Stub(loss), ECHOES, tokenizer) for loss in (noise, seen_before))
    assert improvement(base, base) == {"value": 0, "low": 0, "high": 0}
    rise = improvement(base, tuned)
    assert rise["value"] == pytest.approx(tuned.share - base.share) and 0 < rise["low"] <= rise["value"]


def test_a_score_is_the_same_after_it_was_stored(tokenizer):
    score = listening(Stub(noise), ECHOES, tokenizer)
    assert from_dict(json.loads(json.dumps(asdict(score)))) == score
