"""A worker's trials, with runs that are played: what it tells the study, who is given up, what is not
begun."""

import time

import pytest
from optuna.trial import TrialState

from arianna.searching.budget import Cost
from arianna.searching.folds import FOLDS
from arianna.searching.job import Job
from arianna.searching.study import line_up, open_study, trials_of
from arianna.searching.worker import Explorer, summary

FIXED = {"max_iters": 10, "batch_size": 4, "loss_on": "all", "schedule": "cosine", "optimizer": "adamw"}
FIXED |= {"weight_decay": 0.1, "question_contrast": 0.0, "replay": 0.0}


def gained(fold, settings):
    """The nearer to 1e-4, the better; folds differ much more."""
    loss = 4.0 + fold + abs(settings["learning_rate"] - 1e-4) * 1000
    points = [[4, loss + 0.1], [8, loss], [10, loss + 0.05]]
    return {"answers": loss, "base": 5.0 + fold, "forgetting": 0.01, "points": points, "step": 10}


class Bench:
    """Runs that take no time and say that they took a second each; no more than so many."""

    def __init__(self, answer, most):
        self.answer, self.left, self.done = answer, most, []

    def do(self, unit):
        self.left -= 1
        self.done.append((int(unit.data), unit.settings))
        return {**self.answer(int(unit.data), unit.settings), "seconds": 1.0}


@pytest.fixture
def explorer(tmp_path):
    def make(answer=gained, most=40, until=1e9, longest=1e9) -> Explorer:
        cost = Cost(rows=100, row_tokens=10.0, context=64, text_tokens=100)
        cost.learn(cost.fold_work({**FIXED, "learning_rate": 1e-4}), 1.0)
        facts = (FIXED, vars(cost), "here", time.time() + until, longest)
        job = Job("base.pt", {"seed": 1337}, 0.1, None, {}, *facts)
        bench = Bench(answer, most)
        worker = Explorer(job, bench, open_study(None, tmp_path, {}), "here 0")
        begin = worker.begin
        worker.begin = lambda: begin() if bench.left >= FOLDS else None
        return worker

    return make


def test_each_trial_is_told_once_and_has_all_folds_or_was_given_up(explorer):
    worker = explorer()
    worker.run()
    done = trials_of(worker.study, TrialState.COMPLETE, TrialState.PRUNED)
    assert len(done) >= 8 and not trials_of(worker.study, TrialState.RUNNING)
    for trial in done:
        told, seen = trial.user_attrs["told"], len(trial.intermediate_values)
        assert seen == FOLDS if trial.state == TrialState.COMPLETE else 2 <= seen < FOLDS
        assert told["seen"] == seen == told["seconds"] and trial.user_attrs["place"] == "here 0"
    assert sum(len(t.intermediate_values) for t in done) == len(worker.bench.done)


def test_a_trials_value_is_the_mean_change_of_the_folds_and_its_stop_their_best(explorer):
    worker = explorer(most=FOLDS)
    line_up(worker.study, "best", {"learning_rate": 3e-4})
    worker.run()
    (trial,) = worker.study.trials
    told = trial.user_attrs["told"]
    assert trial.value == pytest.approx(-0.8) and trial.user_attrs["preset"] == "best"
    assert (
        told["stop"] == 0.8 and told["base"] == pytest.approx(7.0) and told["answers"] == pytest.approx(6.2)
    )
    assert [fold for fold, _ in worker.bench.done] == list(range(FOLDS))


def test_a_trial_that_is_worse_on_its_first_folds_is_given_up(explorer):
    worker = explorer(most=2 * FOLDS)
    line_up(worker.study, "best", {"learning_rate": 1e-4})
    line_up(worker.study, "gentle", {"learning_rate": 2e-3})
    worker.run()
    best, worse = worker.study.trials[:2]
    assert best.state == TrialState.COMPLETE and worse.state == TrialState.PRUNED
    assert len(worse.intermediate_values) == 2


def test_a_run_that_diverged_ends_its_trial_and_not_the_search(explorer):
    def answer(fold, settings):
        return gained(fold, settings) if settings["learning_rate"] < 1e-3 else {"diverged": "loss nan"}

    worker = explorer(answer)
    line_up(worker.study, "best", {"learning_rate": 2e-3})
    worker.run()
    first = worker.study.trials[0]
    assert first.state == TrialState.PRUNED and list(first.intermediate_values.values()) == [1.0]
    assert first.user_attrs["told"]["answers"] is None
    assert trials_of(worker.study, TrialState.COMPLETE)


@pytest.mark.parametrize("bound", [{"until": 3.0}, {"longest": 3.0}])
def test_settings_that_take_too_long_are_not_begun_and_count_as_nothing(explorer, bound):
    worker = explorer(**bound)
    worker.run()
    assert not worker.bench.done
    assert {t.state for t in worker.study.trials} == {TrialState.FAIL}


def test_a_preset_may_take_longer_than_others_but_not_than_the_time_that_is_left(explorer):
    worker = explorer(most=FOLDS, longest=3.0)
    line_up(worker.study, "best", {"learning_rate": 1e-4})
    worker.run()
    assert worker.study.trials[0].state == TrialState.COMPLETE and len(worker.bench.done) == FOLDS
    late = explorer(until=3.0)
    line_up(late.study, "gentle", {"learning_rate": 1e-5})
    late.run()
    assert not late.bench.done


def test_what_a_run_takes_is_learned_from_those_before(explorer):
    worker = explorer(most=4 * FOLDS)
    before = worker.cost.trial_seconds({**FIXED, "learning_rate": 1e-4})
    worker.bench.do = lambda unit, do=worker.bench.do: {**do(unit), "seconds": 5.0}
    worker.run()
    assert worker.cost.trial_seconds({**FIXED, "learning_rate": 1e-4}) > 3 * before


def test_a_trial_that_was_ended_by_others_is_not_told_again(explorer):
    worker = explorer(most=FOLDS)
    trial, settings = worker.begin()
    worker.study.tell(trial.number, state=TrialState.FAIL)
    with pytest.raises(Exception, match="finished"):  # Optuna keeps what has ended
        worker.try_out(trial, settings)
    assert worker.study.trials[0].state == TrialState.FAIL


def test_a_summary_of_folds_of_which_one_diverged_has_no_means():
    settings = {**FIXED, "learning_rate": 1e-4}
    told = summary(
        settings, {0: {**gained(0, settings), "seconds": 1.0}, 1: {"diverged": "nan", "seconds": 2.0}}
    )
    assert told["answers"] is None and told["seen"] == 2 and told["seconds"] == 3.0 and told["stop"] == 0.8
