"""A model's answers to questions, sampled, and their scores."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from arianna.corpus.template import NEXT_QUESTION, prompt
from arianna.generate import generate
from arianna.scoring import text_statistics
from arianna.scoring.bootstrap import ratio
from arianna.scoring.losses import tail
from arianna.system.commands import TEMPERATURE
from arianna.system.visible import visible
from model import Transformer
from tokenizer import Tokenizer

ASKED = ("Who are you?", "What is silence?", "What will tomorrow bring?")  # asked at each evaluation of a run
GLIMPSE = 64  # tokens of a question and its answer at an evaluation


@dataclass(frozen=True)
class Answer:
    """A model's answer to a question."""

    question: str
    text: str  # up to a line that begins with Q:
    stopped: bool  # ended by BOS or EOS, within the context and before such a line
    whole: bool  # False: the context's end cut it off, perhaps within a word
    tokens: int


def generate_answers(
    model: Transformer,
    tokenizer: Tokenizer,
    questions: Sequence[str],
    systems: Sequence[str] | None = None,
    samples_each: int = 5,
    temperature: float = TEMPERATURE,
    top_p: float = 0.9,
    top_k: int = 300,
    seed: int = 1337,
    rows_at_a_time: int = 64,
    context: int | None = None,
    greetings: Sequence[str] | None = None,
) -> list[Answer]:
    """`samples_each` answers to each question, question by question. Equal arguments give equal answers.

    `systems`, `greetings`: texts ahead of each question. `context`: the base's, where the model's is longer;
    of a question longer than 3/4 of it the end is taken.
    """
    limit = min(context or model.args.max_seq_len, model.args.max_seq_len)
    none = [""] * len(questions)
    rendered = map(prompt, questions, systems or none, greetings or none)
    prompts = [tail(tokenizer.encode(p, bos=True), limit * 3 // 4) for p in rendered]
    rows = np.repeat(sorted(range(len(prompts)), key=lambda i: len(prompts[i])), samples_each).astype(int)
    answers: dict[int, list[Answer]] = {i: [] for i in range(len(questions))}
    for number, first in enumerate(range(0, len(rows), rows_at_a_time)):
        asked = rows[first : first + rows_at_a_time]
        sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed + number}
        added = generate(model, [prompts[i] for i in asked], limit, **sampling)
        for i, tokens in zip(asked, added, strict=True):
            answers[i].append(to_answer(questions[i], tokens, limit - len(prompts[i]), tokenizer))
    return [answer for i in range(len(questions)) for answer in answers[i]]


def glimpse(model: Transformer, tokenizer: Tokenizer) -> dict[str, str]:
    """Short answers to ASKED by question, each on one line, control characters made visible.

    The same weights give the same answers, and no random state but their own is drawn from.
    """
    written = generate_answers(model, tokenizer, ASKED, samples_each=1, context=GLIMPSE)
    return {a.question: visible(" ".join(a.text.split())) for a in written}


def to_answer(question: str, tokens: list[int], room: int, tokenizer: Tokenizer) -> Answer:
    """The answer of the tokens up to BOS or EOS; `room`: how many the context has behind the prompt."""
    ended, tokens = len(tokens) < room, tokens[:room]
    text = tokenizer.decode(tokens)
    following = NEXT_QUESTION.search(text)
    if following is None:
        return Answer(question, text.strip(), ended, ended, len(tokens))

    def goes_on(n: int) -> bool:
        return NEXT_QUESTION.search(tokenizer.decode(tokens[:n])) is not None

    until = bisect_left(range(len(tokens)), True, key=goes_on)
    return Answer(question, text[: following.start()].strip(), False, True, until)


def generated_scores(answers: Sequence[Answer], looks: Sequence[text_statistics.Look]) -> dict[str, Any]:
    """Scores over answers; one with an interval is {value, low, high}, 95%, by a bootstrap over answers.

    stop_rate: share that ended by BOS or EOS. non_words: percent of words that are invented (`is_known`).
    copied: share of runs of eight words that stand in the training conversations; longest_copy: words.
    repeated: share of runs of four words that stood in the same answer before. distinct_2: `distinct`.
    words, tokens: mean length.
    """
    percent = ratio([100 * len(look.non_words) for look in looks], [look.judged for look in looks])
    return {
        "answers": len(answers),
        "empty": sum(not a.text for a in answers),
        "stop_rate": ratio([a.stopped for a in answers], [1] * len(answers)),
        "non_words": percent,
        "copied": ratio([look.copied for look in looks], [look.grams for look in looks]),
        "longest_copy": max((look.longest_copy for look in looks), default=0),
        "repeated": ratio([look.repeated for look in looks], [look.four_grams for look in looks]),
        "distinct_2": text_statistics.distinct([a.text for a in answers]),
        "words": ratio([look.words for look in looks], [1] * len(looks))["value"],
        "tokens": ratio([a.tokens for a in answers], [1] * len(answers))["value"],
    }
