"""The best of several answers to one question, drawn side by side: the likeliest of them.

Of many answers that a small model draws, a few are good sense, and its own likelihood of a whole answer tells
which. docs/base.md has what readers found, of this score and of others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from arianna import generate
from arianna.corpus.template import NEXT_QUESTION
from tokenizer import BOS, EOS, Tokenizer

if TYPE_CHECKING:
    from model import Transformer

RUN = 3  # words in a row that make a repetition


def best(
    model: Transformer, tokenizer: Tokenizer, ids: Sequence[int], max_new_tokens: int, number: int, **sampling
) -> list[int]:
    """The tokens that a model adds to a prompt (its tokens), of `number` draws the likeliest.

    One that repeats itself goes behind the others, as does one that was cut off, and one without a word. A
    line that begins with Q: ends an answer. `sampling` as for `arianna.generate.stream`: equal arguments
    give equal answers.
    """
    likelihoods = [0.0] * number
    ends = (BOS, EOS)
    answers = generate.generate(
        model, [ids] * number, max_new_tokens, ends, likelihoods=likelihoods, **sampling
    )
    room = min(max_new_tokens, model.args.max_seq_len - len(ids))

    def score(i: int) -> tuple[bool, bool, bool, float]:
        whole = tokenizer.decode(answers[i])
        text = NEXT_QUESTION.split(whole, maxsplit=1)[0]
        ended = len(answers[i]) < room or text != whole
        return bool(text.strip()), ended, not repeats(text), likelihoods[i]

    return answers[max(range(number), key=score)]


def repeats(text: str) -> bool:
    """Whether RUN words in a row stand in a text twice."""
    words = re.findall(r"[\w']+", text.lower())
    runs = list(zip(*(words[i:] for i in range(RUN)), strict=False))
    return len(set(runs)) < len(runs)
