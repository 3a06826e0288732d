"""Answers that models write, and where they end."""

import dataclasses
import re

import pytest
import torch
from helpers import TINY, build

from arianna import generate
from arianna.scoring import answers
from arianna.scoring.answers import generate_answers
from model import Transformer
from tokenizer import BOS, EOS


class Scripted(Transformer):
    """A model that says what it is told to, question by question, and then one word for ever."""

    def __init__(
        self, tokenizer, says: dict[str, str], then: dict[str, int], context: int = 64, end: int | None = None
    ):
        super().__init__(dataclasses.replace(TINY, max_seq_len=context))
        self.tokenizer, self.says, self.then, self.end, self.batches = tokenizer, says, then, end, []

    def script(self, prompts, max_new_tokens, stop, **sampling):
        self.batches.append((prompts, sampling))
        lengths = [len(p) for p in prompts]
        lines = []
        for prompt in prompts:
            asked = re.match(r"Q: (.*)\nA:$", self.tokenizer.decode(prompt[1:]))[1]
            lines.append([*prompt, *self.tokenizer.encode(self.says[asked]), *[self.then[asked]] * 200])
        going = dict.fromkeys(range(len(lines)), True)
        for position in range(min(lengths), min(max(lengths) + max_new_tokens, self.args.max_seq_len)):
            tokens = [BOS if position == self.end else line[position] for line in lines]
            yield [token if going[i] else -1 for i, token in enumerate(tokens)]
            going = {i: going[i] and (position < lengths[i] or tokens[i] not in stop) for i in going}


WORD = 300


@pytest.fixture(autouse=True)
def scripts_are_read(monkeypatch) -> None:
    """A scripted model's tokens come from its script, all others' from their weights."""
    real = generate.stream

    def spoken(model, *a, **k):
        return model.script(*a, **k) if isinstance(model, Scripted) else real(model, *a, **k)

    monkeypatch.setattr(generate, "stream", spoken)


def said(tokenizer, text: str, then: int, **how) -> answers.Answer:
    (answer,) = generate_answers(
        Scripted(tokenizer, {"Why?": text}, {"Why?": then}), tokenizer, ["Why?"], samples_each=1, **how
    )
    return answer


@pytest.mark.parametrize("stop", [BOS, EOS])
def test_an_answer_that_ends_by_itself_is_stopped(tokenizer, stop):
    found = said(tokenizer, "Because it is so.\n", stop)
    assert found == answers.Answer(
        "Why?", "Because it is so.", True, True, len(tokenizer.encode("Because it is so.\n"))
    )


def test_an_answer_that_reaches_the_context_is_neither_stopped_nor_whole(tokenizer):
    found = said(tokenizer, "Because", WORD)
    assert (found.stopped, found.whole) == (False, False)
    assert found.tokens + len(tokenizer.encode("Q: Why?\nA:", bos=True)) == 64


@pytest.mark.parametrize("turn", ["\nQ: And then? He", "\n  Q:"])
def test_an_answer_is_cut_at_a_line_that_asks_and_does_not_count_as_stopped(tokenizer, turn):
    found = said(tokenizer, f"Because.{turn}", BOS)
    assert (found.text, found.stopped, found.whole) == ("Because.", False, True)
    cut = f"Because.{turn}"
    assert found.tokens == len(tokenizer.encode(cut[: cut.index("Q:") + 2]))


def test_a_question_within_a_line_cuts_nothing(tokenizer):
    assert said(tokenizer, "He wrote Q: and A: on it.", BOS).text == "He wrote Q: and A: on it."


@pytest.mark.parametrize(("end", "stopped"), [(63, True), (64, False)])
def test_the_bases_context_holds_for_a_model_with_a_longer_one(tokenizer, end, stopped):
    prompt = len(tokenizer.encode("Q: Why?\nA:", bos=True))
    model = Scripted(tokenizer, {"Why?": "Because"}, {"Why?": WORD}, context=96, end=end)
    (found,) = generate_answers(model, tokenizer, ["Why?"], samples_each=1, context=64)
    assert (found.stopped, found.tokens) == (stopped, end - prompt if stopped else 64 - prompt)


def test_answers_come_in_the_order_of_their_questions_whatever_the_batches(tokenizer):
    questions = ["What is a very long question good for, if anything?", "Why?", "What now?"]
    model = Scripted(tokenizer, {q: f"{q.upper()} Yes." for q in questions}, dict.fromkeys(questions, BOS))
    found = generate_answers(model, tokenizer, questions, samples_each=3, rows_at_a_time=2)
    assert [(a.question, a.text) for a in found] == [
        (q, f"{q.upper()} Yes.") for q in questions for _ in range(3)
    ]
    assert [len(prompts) for prompts, _ in model.batches] == [2, 2, 2, 2, 1]
    lengths = [len(p) for prompts, _ in model.batches for p in prompts]
    assert lengths == sorted(lengths), "questions of like length are answered together"
    assert len({sampling["seed"] for _, sampling in model.batches}) == 5, (
        "no two batches draw the same numbers"
    )


def test_no_questions_have_no_answers(tokenizer):
    assert generate_answers(build(), tokenizer, []) == []


def test_sampled_answers_are_the_same_twice_and_others_with_another_seed(tokenizer):
    questions = ["Why?", "What is a river?"]
    first, again, other = (generate_answers(build(), tokenizer, questions, seed=seed) for seed in (1, 1, 2))
    assert first == again != other and len(first) == 10
    assert len({a.text for a in first}) == 10, "samples of one question differ"


def test_a_question_that_is_too_long_keeps_its_end(tokenizer, monkeypatch):
    model = build()
    prompts = []
    real = answers.generate
    monkeypatch.setattr(answers, "generate", lambda m, p, *a, **k: prompts.extend(p) or real(m, p, *a, **k))
    (found,) = generate_answers(model, tokenizer, ["word " * 100 + "at last?"], samples_each=1)
    assert (
        prompts[0][0] == BOS
        and len(prompts[0]) == 48
        and tokenizer.decode(prompts[0]).endswith("at last?\nA:")
    )
    assert found.tokens <= 16


def test_the_system_text_stands_ahead_of_the_question(tokenizer, monkeypatch):
    model, prompts = build(), []
    monkeypatch.setattr(answers, "generate", lambda m, p, *a, **k: prompts.extend(p) or [[] for _ in p])
    generate_answers(model, tokenizer, ["Why?", "How?"], ["Be brief.", ""], samples_each=1)
    assert sorted(tokenizer.decode(p) for p in prompts) == ["Be brief.\nQ: Why?\nA:", "Q: How?\nA:"]


def test_a_glimpse_is_three_short_answers_on_a_line_each_and_always_the_same(tokenizer, monkeypatch):
    model, other = build(), build(seed=8)
    state = torch.get_rng_state()
    found = answers.glimpse(model, tokenizer)
    assert tuple(found) == answers.ASKED and found == answers.glimpse(model, tokenizer) != answers.glimpse(
        other, tokenizer
    )
    assert torch.equal(torch.get_rng_state(), state)
    asked = []
    said = tokenizer.encode("a\n\x1b[31mb\tc")
    monkeypatch.setattr(answers, "generate", lambda m, p, most, **k: asked.append(most) or [said for _ in p])
    model.args = dataclasses.replace(TINY, max_seq_len=256)
    assert set(answers.glimpse(model, tokenizer).values()) == {"a \\x1b[31mb c"} and asked == [
        answers.GLIMPSE
    ]
