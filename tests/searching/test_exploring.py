"""The trials of a search, with workers that are played: who does what next, who is given up, and that each counts once."""

import pytest

optuna = pytest.importorskip("optuna")
pytest.importorskip("scipy")

from optuna.trial import TrialState

from arianna.searching.budget import Cost
from arianna.searching.exploring import Exploration
from arianna.searching.folds import FOLDS
from arianna.searching.space import Space
from arianna.searching.study import line_up, open_study, trials_of

FIXED = {"max_iters": 10, "batch_size": 4, "loss_on": "all", "schedule": "cosine", "optimizer": "adamw"}
FIXED |= {"weight_decay": 0.1, "question_contrast": 0.0, "replay": 0.0}


class Pool:
    """Workers that answer at once, in the order that they were given work, each unit in a second."""

    def __init__(self, number: int, clock, answer):
        self.workers, self.clock, self.answer = [[] for _ in range(number)], clock, answer
        self.given, self.let_go_of = [], 0

    def idle(self):
        return [w for w in self.workers if not w]

    def at_work(self):
        return [w[0] for w in self.workers if w]

    def give(self, worker, name, unit):
        worker.append((name, unit))
        self.given.append(name)

    def wait(self, seconds):
        worker = next(w for w in self.workers if w)
        self.workers.append(self.workers.pop(self.workers.index(worker)))
        name, unit = worker.pop()
        self.clock.left -= 1.0 / len(self.workers)
        return name, {"seconds": 1.0, **self.answer(name[1], unit.settings)}

    def let_go(self):
        self.let_go_of = len(self.at_work())
        for worker in self.workers:
            worker.clear()


class Clock:
    def __init__(self, left: float):
        self.left, self.spent = left, 0.0


def gained(fold, settings):
    """The nearer to 1e-4, the better; folds differ much more."""
    loss = 4.0 + fold + abs(settings["learning_rate"] - 1e-4) * 1000
    return {
        "answers": loss,
        "base": 5.0 + fold,
        "forgetting": 0.0,
        "blend": 1.0,
        "points": [[4, loss + 0.1], [8, loss], [10, loss]],
    }


@pytest.fixture
def exploring(tmp_path):
    def make(left=40.0, workers=2, answer=gained) -> Exploration:
        clock = Clock(left)
        cost = Cost(rows=100, row_tokens=10.0, context=64, text_tokens=100)
        cost.learn(cost.fold_work({**FIXED, "learning_rate": 1e-4}), 1.0)
        cost.first_fold = 1.0
        study = open_study(None, tmp_path, {})
        ended = []
        parts = (study, Space(fixed=FIXED), Pool(workers, clock, answer), clock, cost, "here", None, 1337)
        found = Exploration(
            *parts, lambda: 0.0, lambda at, state: ended.append((at.trial.number, state)), lambda: None
        )
        found.told = ended
        return found

    return make


def test_each_trial_is_told_once_and_has_all_folds_or_was_given_up(exploring):
    night = exploring()
    night.run()
    done = trials_of(night.study, TrialState.COMPLETE, TrialState.PRUNED)
    assert len(done) >= 6 and len(night.told) == len(done) == len({number for number, _ in night.told})
    assert len(night.pool.given) == len(set(night.pool.given))
    for trial in done:
        seen = len(trial.intermediate_values)
        assert seen == FOLDS if trial.state == TrialState.COMPLETE else 2 <= seen < FOLDS
        assert trial.user_attrs["told"]["seen"] == seen
    assert not trials_of(night.study, TrialState.RUNNING)


def test_a_trials_value_is_the_mean_change_of_the_folds_and_its_stop_their_best(exploring):
    night = exploring(left=11.0)
    line_up(night.study, "best", {"learning_rate": 3e-4})
    night.run()
    trial = trials_of(night.study, TrialState.COMPLETE)[0]
    assert trial.value == pytest.approx(-0.8) and trial.user_attrs["told"]["stop"] == 0.8
    assert trial.user_attrs["told"]["base"] == pytest.approx(7.0) and trial.user_attrs["told"][
        "answers"
    ] == pytest.approx(6.2)


def test_a_trial_that_is_worse_on_its_first_folds_is_given_up(exploring):
    night = exploring(workers=1)
    line_up(night.study, "best", {"learning_rate": 1e-4})
    line_up(night.study, "gentle", {"learning_rate": 2e-3})
    night.run()
    best, worse = night.study.trials[:2]
    assert best.state == TrialState.COMPLETE and worse.state == TrialState.PRUNED
    assert len(worse.intermediate_values) == 2


def test_a_run_that_diverged_ends_its_trial_and_not_the_search(exploring):
    def answer(fold, settings):
        return gained(fold, settings) if settings["learning_rate"] < 1e-3 else {"diverged": "loss nan"}

    night = exploring(workers=1, answer=answer)
    line_up(night.study, "best", {"learning_rate": 2e-3})
    night.run()
    first = night.study.trials[0]
    assert first.state == TrialState.PRUNED and list(first.intermediate_values.values()) == [1.0]
    assert first.user_attrs["told"]["answers"] is None
    assert trials_of(night.study, TrialState.COMPLETE)


def test_a_trial_has_one_worker_until_it_has_proved_itself_then_all(exploring):
    night = exploring(left=1000.0, workers=4)
    line_up(night.study, "best", {"learning_rate": 1e-4})
    night.hand_out()
    assert [name[1] for name in night.pool.given] == [0, 0, 0, 0]  # a fold each of four trials
    for _ in range(8):
        night.take(*night.pool.wait(1.0))
        night.hand_out()
    firsts = [name for name in night.pool.given if name[0] == 0]
    assert [fold for _, fold in firsts][:2] == [0, 1] and len(firsts) > 2


def test_what_is_at_work_when_the_time_is_over_is_let_go_and_counts_as_failed(exploring):
    night = exploring(left=1000.0)

    def over():
        return 2000.0 if len(night.pool.given) > 12 else 0.0

    night.reserve = over
    night.run()
    assert night.pool.let_go_of and trials_of(night.study, TrialState.FAIL)
    assert not trials_of(night.study, TrialState.RUNNING)


def test_settings_that_do_not_fit_into_the_time_left_are_not_begun(exploring):
    night = exploring(left=10.0, workers=1)
    night.cost.learn(1.0, 10.0)  # now all is far too slow
    night.cost.first_fold = 0.1
    night.run()
    assert not night.pool.given and not trials_of(night.study, TrialState.COMPLETE)


def test_a_trial_that_another_machine_took_for_dead_is_dropped(exploring):
    night = exploring(workers=1)
    night.hand_out()
    number = next(iter(night.trials))
    night.study.tell(number, state=TrialState.FAIL)
    for _ in range(FOLDS):
        if number in night.trials:
            night.take(*night.pool.wait(1.0))
            night.hand_out()
    assert (number, "complete") not in night.told and number not in night.trials
