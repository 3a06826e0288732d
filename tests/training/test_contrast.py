"""The question contrast: pairs of the batch, its formula, and that it is nothing where it is not asked
for."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import LONG, SHORT, TURNS, build, settings_for

from arianna.corpus.encoding import ANSWER, encode_turns, prepare_conversations
from arianna.system.files import write_missing
from arianna.training import contrast
from arianna.training.contrast import ContrastTask, pairs_of, question_and_answer, term
from arianna.training.devices import ProcessGroup, pick_precision
from arianna.training.optimizer import make_optimizer
from arianna.training.state import State
from arianna_data import Rows, Task
from tokenizer import IGNORE
from train_arianna import make_task, train_step


@pytest.fixture
def rows(tmp_path, tokenizer) -> Rows:
    talk = [*SHORT, LONG, TURNS]
    write_missing(prepare_conversations(talk, SHORT, tokenizer, 64, 64)[0], tmp_path / "talk")
    return Rows(tmp_path / "talk", "train", 64, 4096)


def test_each_first_answer_stands_behind_its_own_question_and_the_next_ones(rows):
    (own, other), *rest = pairs_of(rows, [0, 1, 2])
    question, answer = question_and_answer(rows, 0)
    another, _ = question_and_answer(rows, 1)
    assert len(rest) == 2
    assert own[0].tolist() == [*question, *answer[:-1]] and other[0].tolist() == [*another, *answer[:-1]]
    for inputs, targets in (own, other):
        assert targets[targets != IGNORE].tolist() == answer.tolist() and len(inputs) == len(targets)


def test_an_answers_tokens_are_those_that_are_scored(rows, tokenizer):
    tokens, flags = encode_turns(SHORT[3], tokenizer)
    question, answer = question_and_answer(rows, 3)
    assert answer.tolist() == tokens[(flags & ANSWER) > 0].tolist()
    assert [*question, *answer] == tokens[: len(question) + len(answer)].tolist()


def test_rows_that_go_on_and_questions_that_are_equal_make_no_pair(rows):
    first = next(n for n in range(len(rows)) if rows.row(n)[0].tolist()[:4] == encoded(rows, 8))
    assert question_and_answer(rows, first + 1) is None  # the second row of a long conversation
    assert pairs_of(rows, [2, 2]) == [] and pairs_of(rows, [2]) == [] and pairs_of(rows, []) == []
    turns = question_and_answer(rows, len(rows) - 1)
    assert turns is not None and len(turns[1]) < 10  # the first answer alone


def encoded(rows: Rows, conversation: int) -> list[int]:
    starts = [n for n, (s, first, _) in enumerate(rows.index) if not rows.masks[s][first] & 32]
    return rows.row(starts[conversation])[0].tolist()[:4]


def test_a_pair_that_is_too_long_is_cut_to_the_context(rows):
    long = next(n for n in range(len(rows)) if rows.lengths[n] == 64)
    for sides in pairs_of(rows, [long, len(rows) - 1, 0]):
        assert all(len(inputs) <= 64 for inputs, _ in sides)


def test_text_has_no_pairs(tmp_path):
    cfg = settings_for(tmp_path)
    assert pairs_of(Rows(cfg.data_dir, "train", 64, 4096), [0, 1]) == []


def test_the_term_is_softplus_of_the_others_log_likelihood_minus_the_own(rows):
    model = build()
    ((own, other),) = ContrastTask(rows, 4, 1, seed=1).batch(0).pairs
    nats = [model.nll(*side).sum(1) for side in (own, other)]
    assert torch.allclose(term(model, own, other, 100), F.softplus(nats[0] - nats[1]).sum() / 100, rtol=1e-5)


def test_batches_are_those_of_a_task_without_it_and_pairs_of_their_rows(rows):
    plain, paired = Task(rows, 3, 2, seed=5), ContrastTask(rows, 3, 2, seed=5)
    for step in range(6):
        a, b = plain.batch(step), paired.batch(step)
        assert np.array_equal(a.rows, b.rows) and a.n_targets == b.n_targets and not a.pairs
        assert sum(len(own[0]) for own, _ in b.pairs) == len(pairs_of(rows, b.rows))


def test_a_step_makes_own_questions_likelier_than_others(rows, tmp_path):
    cfg = settings_for(
        tmp_path, learning_rate=1e-3, question_contrast=5.0, data_dir=str(tmp_path / "talk"), warmup_ratio=0.0
    )
    cfg = dataclasses.replace(cfg, batch_size=8)
    model = build()
    task = make_task(cfg, model.args)
    state, precision = State(model, make_optimizer(model, cfg)), pick_precision("cpu", "float32")
    batch = task.batch(0)

    def margin() -> float:
        with torch.no_grad():
            return sum(float(term(model, own, other, 1)) for own, other in batch.pairs)

    before = margin()
    for _ in range(4):
        state.step = 0
        train_step(state, batch, cfg, model, precision, ProcessGroup.alone())
    assert margin() < before


def test_the_shares_of_two_processes_add_up_to_the_whole_gradient(rows):
    batch, precision = ContrastTask(rows, 8, 1, seed=1).batch(0), pick_precision("cpu", "float32")

    def gradient(*teams) -> torch.Tensor:
        model = build()
        for team in teams:
            contrast.backward(model, batch, 0.5, precision, team)
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    whole = gradient(ProcessGroup.alone())
    halves = [ProcessGroup.alone(), ProcessGroup.alone()]
    for rank, team in enumerate(halves):
        team.rank, team.size = rank, 2
    assert torch.allclose(gradient(*halves), whole, atol=1e-6) and whole.abs().sum() > 0


def test_it_is_off_unless_it_is_asked_for(rows, tmp_path):
    cfg = settings_for(tmp_path, data_dir=str(tmp_path / "talk"))
    assert cfg.question_contrast == 0 and type(make_task(cfg, build().args)) is Task
