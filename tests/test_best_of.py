"""The best of several answers: its score, what goes before what, and where it is asked for."""

import numpy as np
import pytest
from helpers import ROOT, lively

from arianna import best_of, generate
from arianna.chat import Continuation, Sampling, complete
from arianna.corpus.template import prompt
from model import ModelArgs, Transformer
from sample import SampleConfig
from tokenizer import BOS, Tokenizer

TOKENIZER = Tokenizer(ROOT / "data/tok4096.model")
QUESTION = [BOS, *TOKENIZER.encode(prompt("Is it late?"))]


class Drawing:
    """A model of which the answers to a prompt, and the nats that each costs, are given."""

    def __init__(self, *answers: tuple[str, float], context: int = 256):
        self.args = ModelArgs(dim=16, n_layers=1, n_heads=1, vocab_size=4096, max_seq_len=context)
        self.answers = [(TOKENIZER.encode(text), cost) for text, cost in answers]
        self.asked: list[tuple[int, int]] = []  # prompts side by side, and the seed

    def generate(self, prompts, max_new_tokens, stop, seed, likelihoods=None, **sampling):
        self.asked.append((len(prompts), seed))
        drawn = [self.answers[i % len(self.answers)] for i in range(len(prompts))]
        if likelihoods is not None:
            likelihoods[:] = [-cost for _, cost in drawn]
        return [answer[:max_new_tokens] for answer, _ in drawn]


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    by_model = generate.generate

    def ask(model, *args, **options):
        return (
            model.generate(*args, **options)
            if isinstance(model, Drawing)
            else by_model(model, *args, **options)
        )

    monkeypatch.setattr(generate, "generate", ask)


def best(*answers: tuple[str, float], most: int = 50, **options) -> str:
    tokens = best_of.best(Drawing(*answers, **options), TOKENIZER, QUESTION, most, len(answers), seed=1)
    return TOKENIZER.decode(tokens).strip()


def test_the_likeliest_answer_wins():
    assert (
        best(("No, it is noon.", 9.0), ("Yes, it is late.", 7.5), ("Yes it dog.", 20.0)) == "Yes, it is late."
    )


def test_an_answer_that_the_contexts_end_cuts_off_goes_behind():
    cut, whole = "It is very late and I would like to", "Yes."
    context = len(QUESTION) + len(TOKENIZER.encode(cut))
    assert best((cut, 1.0), (whole, 50.0), context=context) == whole
    assert best((cut, 1.0), (whole, 50.0), context=context + 1) == cut


def test_a_question_that_the_model_asks_itself_ends_its_answer():
    asks, cut = "Yes, it is.\nQ: Is it? Is it not? Is it not?", "It is very late and I would"
    most = len(TOKENIZER.encode(asks))
    assert best((asks, 9.0), ("Dog it the.", 60.0), most=most) == asks
    assert best(("\nQ: And you? I am well.", 1.0), (cut, 9.0)) == cut


def test_an_answer_that_repeats_itself_goes_behind_the_others():
    assert best(("It is late. So it is late.", 1.0), ("It is. Is it?", 9.0)) == "It is. Is it?"
    assert (
        best(("It is late. It is late.", 1.0), ("is it late? is it late?", 9.0)) == "It is late. It is late."
    )


def test_an_answer_that_ended_goes_before_one_cut_off_and_that_before_none():
    cut, whole = "It is very late and I would like to", "Yes."
    most = len(TOKENIZER.encode(cut))
    assert best((cut, 1.0), (whole, 50.0), most=most) == whole
    assert best((cut, 1.0), ("", 0.1), most=most) == cut


def test_equal_arguments_give_equal_answers_and_other_seeds_others():
    model: Transformer = lively(ModelArgs(dim=32, n_layers=1, n_heads=2, vocab_size=4096, max_seq_len=48))
    ids = QUESTION[:20]

    def answer(seed: int) -> list[int]:
        return best_of.best(model, TOKENIZER, ids, 8, 4, temperature=1.0, seed=seed)

    assert answer(3) == answer(3)
    assert len({tuple(answer(seed)) for seed in range(6)}) > 1


# ---- where it is asked for ----


def test_several_answers_are_drawn_warmer_than_one_unless_a_temperature_is_given():
    assert Sampling().settings()["temperature"] < Sampling().settings(several=True)["temperature"]
    given = Sampling(temperature=0.3)
    assert given.settings()["temperature"] == given.settings(several=True)["temperature"] == 0.3
    assert SampleConfig(best_of=3).sampling.best_of == 3


def test_answers_are_chosen_and_other_text_is_drawn_once(monkeypatch):
    monkeypatch.setattr(generate, "stream", lambda model, *args, **options: iter([[300], [BOS]]))
    model = Drawing(("No.", 9.0), ("Yes.", 2.0))
    answered = Continuation(model, TOKENIZER, QUESTION, Sampling(best_of=4, seed=6), 2)
    assert "".join(answered) == " Yes." and model.asked == [(4, 8)]
    told = Continuation(model, TOKENIZER, [BOS, *TOKENIZER.encode("Once")], Sampling(best_of=4))
    assert list(told) and model.asked == [(4, 8)]
    for sampling in (Sampling(), Sampling(best_of=4, temperature=0)):
        assert list(Continuation(model, TOKENIZER, QUESTION, sampling)) and model.asked == [(4, 8)]


def test_texts_to_compare_are_chosen_prompt_by_prompt():
    model = Drawing(("No.", 9.0), ("Yes.", 2.0))
    prose = [BOS, *TOKENIZER.encode("Once")]
    assert complete(model, TOKENIZER, [QUESTION, prose, QUESTION], Sampling(best_of=3, seed=1)) == [
        " Yes.",
        " No.",
        " Yes.",
    ]
    assert model.asked == [(3, 1), (3, 2), (1, 1)]
    assert np.shape(complete(model, TOKENIZER, [QUESTION] * 2, Sampling())) == (2,)
    assert model.asked[3:] == [(2, 1337)]
