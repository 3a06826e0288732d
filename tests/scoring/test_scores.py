"""All scores of a model together."""

import dataclasses
import math

import pytest
import torch
from helpers import CONVERSATIONS, SHORT, TINY, Stub, build, rows_of, talk

from arianna.scoring import answers, scores, text_statistics
from arianna_data import Rows


@pytest.fixture
def rows(tokenizer, tmp_path) -> Rows:
    return rows_of(CONVERSATIONS, tokenizer, tmp_path)


def test_scoring_takes_one_thread_and_leaves_as_many_as_before(rows, tokenizer):
    found = []

    def note(x, y):
        found.append(torch.get_num_threads())
        return torch.ones(y.shape)

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        scores.score_model(
            Stub(note),
            scores.make_inputs((SHORT, SHORT), rows, {}, [], frozenset(), tokenizer),
            samples_each=1,
        )
        assert set(found) == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_only_what_was_trained_on_can_have_been_copied(rows, tokenizer):
    train, held_out = (
        [talk("Q", "one two three four five six seven eight")],
        [talk("Z", "a b c d e f g h i j")],
    )
    inputs = scores.make_inputs((train, held_out), rows, {}, [], frozenset(), tokenizer)
    copied = [
        text_statistics.look_at(c.turns[0][1], (), inputs.source).copied for c in (train[0], held_out[0])
    ]
    assert copied == [1, 0]


def test_a_model_of_a_longer_context_is_scored_in_the_bases(rows, tokenizer):
    inputs = scores.make_inputs((SHORT, SHORT), rows, {}, ["Why?"], frozenset(), tokenizer)
    models = build(), build(dataclasses.replace(TINY, max_seq_len=96))
    found = [scores.score_model(model, inputs, samples_each=1) for model in models]
    assert [s.pop("times") for s in found] and found[0] == found[1]


def test_the_word_at_which_the_context_ended_is_not_called_a_non_word(rows, tokenizer, monkeypatch):
    said = [answers.Answer("Why?", "the surf", False, whole, 2) for whole in (False, True)]
    monkeypatch.setattr(scores, "generate_answers", lambda *a, **k: said)
    found = scores.score_model(
        Stub(), scores.make_inputs((SHORT, SHORT), rows, {}, [], frozenset(["the"]), tokenizer)
    )
    assert [s["non_words"] for s in found["samples"]] == [[], [[4, 8]]]
    assert found["generated"]["non_words"]["value"] == 100 / 3 and found["generated"]["words"] == 2


def test_a_model_whose_losses_are_no_numbers_is_refused(rows, tokenizer):
    inputs = scores.make_inputs((SHORT, SHORT), rows, {}, [], frozenset(), tokenizer)
    with pytest.raises(ValueError, match="not a number"):
        scores.score_model(Stub(lambda x, y: torch.full(y.shape, math.nan)), inputs)


def test_two_models_in_processes_of_their_own_have_the_same_scores(rows, tokenizer, monkeypatch):
    inputs = scores.make_inputs((SHORT, SHORT), rows, {}, ["Why?"], frozenset(), tokenizer)
    models = build(), build(seed=8)
    monkeypatch.setattr(scores, "cores", lambda: 2)
    alone = scores.score_models(models, inputs, samples_each=1)
    monkeypatch.setattr(scores, "WORTH_A_PROCESS", 1)
    apart = scores.score_models(models, inputs, samples_each=1)
    assert [s.pop("times") for s in (*alone, *apart)] and alone == apart
