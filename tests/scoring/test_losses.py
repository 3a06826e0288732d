"""Losses on answers and on text, with models whose losses are known."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import CONVERSATIONS, SHORT, Stub, build, rows_of

from arianna.corpus.encoding import ANSWER, encode_turns
from arianna.scoring import losses
from arianna.scoring.losses import answer_loss, text_loss
from arianna_data import Rows
from tokenizer import BOS, EOS


@pytest.fixture
def rows(tokenizer, tmp_path) -> Rows:
    return rows_of(CONVERSATIONS, tokenizer, tmp_path)


def text_rows(tokens, folder: Path, context: int = 64) -> Rows:
    (folder / "text.bin").write_bytes(np.asarray(tokens, dtype="<u2").tobytes())
    return Rows(folder, "text", context, 4096)


# ---- of answers ----


def test_conversations_add_up_to_the_whole(rows):
    score = answer_loss(build(), rows)
    assert math.isclose(sum(score.conversation_nats), score.loss * score.tokens, rel_tol=1e-12)
    assert sum(score.conversation_tokens) == score.tokens and math.isclose(
        score.perplexity, math.exp(score.loss)
    )


def test_further_rows_belong_to_the_conversation_before(rows, tokenizer):
    assert len(rows) >= len(CONVERSATIONS) + 2, "the long one needs several rows"
    expected = [int((encode_turns(c, tokenizer)[1] & ANSWER > 0).sum()) for c in CONVERSATIONS]
    assert answer_loss(Stub(), rows).conversation_tokens == expected


def test_each_conversation_is_scored_by_itself(rows, tokenizer, tmp_path):
    model = build()
    together = answer_loss(model, rows)
    for i in (0, 4, 5):
        alone = answer_loss(model, rows_of([CONVERSATIONS[i]], tokenizer, tmp_path / str(i)))
        assert math.isclose(alone.loss * alone.tokens, together.conversation_nats[i], rel_tol=1e-5)


def test_the_end_of_an_answer_is_scored_apart(rows, tokenizer):
    end = (BOS, tokenizer.encode("a\n")[-1])
    score = answer_loss(Stub(lambda x, y: torch.where((y == end[0]) | (y == end[1]), 5.0, 2.0)), rows)
    assert (score.loss, score.terminator_loss) == (2.0, 5.0)


def test_at_most_so_many_rows_are_scored_always_the_same(rows):
    model, some = build(), 5
    score = answer_loss(model, rows, some)
    assert score.tokens < answer_loss(model, rows).tokens and len(score.conversation_nats) <= some
    assert score == answer_loss(model, rows, some)
    assert answer_loss(model, rows, 1000) == answer_loss(model, rows)


def test_a_score_is_plain_numbers(rows):
    score = dataclasses.asdict(answer_loss(build(), rows))
    assert {type(v) for v in score["conversation_nats"]} == {float} and {
        type(v) for v in score["conversation_tokens"]
    } == {int}
    assert [type(score[name]) for name in ("loss", "terminator_loss", "tokens")] == [float, float, int]


# ---- of text ----


def test_every_token_of_a_text_but_the_first_is_scored(tmp_path):
    rows = text_rows(np.arange(300, 500), tmp_path)
    score = text_loss(build(), rows)
    assert score.tokens == sum(score.row_tokens) == 199 and score.row_tokens == [64, 64, 64, 7]
    as_answers = answer_loss(build(), rows)
    assert math.isclose(score.loss, as_answers.loss, rel_tol=1e-6) and score.bits_per_byte is None
    assert math.isnan(as_answers.terminator_loss), "a text has no end that is scored apart"


def test_where_another_text_begins_is_not_scored_as_text(tmp_path):
    tokens = [BOS, 300, 301, BOS, 302, BOS]
    score = text_loss(Stub(lambda x, y: torch.where(y == BOS, 9.0, 1.0)), text_rows(tokens * 30, tmp_path))
    assert (score.loss, score.tokens) == (1.0, 90)


def test_questions_count_in_the_loss_on_text(tokenizer, tmp_path):
    tokens = sum(int((encode_turns(c, tokenizer)[0] != BOS).sum()) for c in SHORT)
    assert text_loss(Stub(), rows_of(SHORT, tokenizer, tmp_path)).tokens == tokens


def test_bits_a_byte_are_counted_in_bytes_of_the_text(tokenizer, tmp_path):
    text = "The café — at the harbour — was full of 31 £ fish \u2603."
    tokens = tokenizer.encode(text, bos=True)
    assert 3 < min(tokens[1:]) < 259, "the snowman is spelled in bytes"
    score = text_loss(
        Stub(lambda x, y: torch.full(y.shape, math.log(2))),
        text_rows([*tokens, EOS], tmp_path),
        tokenizer=tokenizer,
    )
    n_bytes = len(f" {text}".encode())  # the tokenizer begins a text with a space
    assert math.isclose(score.bits_per_byte, len(tokens) / n_bytes, rel_tol=1e-6)


def test_forgetting_is_the_rise_of_the_loss(tokenizer, tmp_path):
    rows = text_rows(np.arange(300, 300 + 64 * 9), tmp_path)
    base, tuned = (
        text_loss(Stub(lambda x, y, c=c: torch.full(y.shape, c)), rows, tokenizer=tokenizer)
        for c in (1.0, 1.25)
    )
    rise = losses.forgetting(base, tuned)
    assert [math.isclose(rise[name], 0.25) for name in ("value", "low", "high")] == [True] * 3
    assert (
        math.isclose(rise["bits_per_byte"], tuned.bits_per_byte - base.bits_per_byte)
        and rise["bits_per_byte"] > 0
    )
    few = losses.TextLoss(1.0, None, 10, [10.0], [10])
    assert losses.forgetting(few, few) == {"value": 0.0, "low": None, "high": None, "bits_per_byte": None}
