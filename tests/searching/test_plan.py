"""What a search plans and counts, without its processes: what is lined up, what a run takes, what is told."""

import json
import time
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState

from arianna.searching import crew
from arianna.searching.budget import END, Cost
from arianna.searching.folds import FOLDS
from arianna.searching.job import Wanted
from arianna.searching.night import Night
from arianna.searching.study import open_study, trials_of
from arianna.system.config import UsageError
from arianna.training.settings import TrainConfig


@pytest.fixture
def night(tmp_path):
    """Make a search of so many hours whose folder names it "here", with all that it says and records."""

    def make(hours: float = 8.0) -> Night:
        cost = Cost(rows=154, row_tokens=100.0, context=256, text_tokens=8192)
        cost.learn(2000.0, 1.0)
        seconds = 3600 * hours
        clock = SimpleNamespace(total=seconds, left=seconds, spent=0.0, keep=lambda: None)
        log = SimpleNamespace(said=[], record=lambda **facts: None)
        log.say = log.said.append
        folder = tmp_path / f"{hours}"
        study = open_study(None, folder, {})
        (folder / "place").write_text("here")
        parts = (folder, study, 2, clock, cost, {}, {}, log)
        return Night(Wanted(hours), TrainConfig(base="base.pt"), *parts)

    return make


def planned(night: Night) -> tuple[float, list[str]]:
    """The seconds that a trial may take, and the presets in line."""
    usual = night.recipe("best")
    end = night.cost.end_seconds(usual, 1, 0, night.workers)
    return night.plan(usual, night.clock.left - end, end), in_line(night)


def in_line(night: Night) -> list[str]:
    waiting = trials_of(night.study, TrialState.WAITING)
    return [t.user_attrs["preset"] for t in sorted(waiting, key=lambda t: t.number)]


def test_the_presets_are_first_in_line(night):
    longest, line = planned(night())
    assert line == ["best", "gentle"] and longest >= night().cost.trial_seconds(night().recipe("gentle"))


def test_a_preset_that_takes_long_is_tried_where_its_first_folds_are_a_quarter_of_the_time(night):
    takes = night().cost.trial_seconds(night().recipe("gentle"))
    middle, short = night(3.0 * takes / 3600), night(1.3 * takes / 3600)
    longest, line = planned(middle)
    assert longest < takes and line == ["best", "gentle"] and len(middle.log.said) == 1
    _, line = planned(short)
    assert line == ["best"] and short.log.said[-1].startswith("--preset=gentle is not tried: ")


def test_time_for_no_trial_is_refused_before_any_is_lined_up(night):
    short = night(0.5 * night().cost.trial_seconds(night().recipe("best")) / 3600)
    with pytest.raises(UsageError, match="is too short: a trial takes .*; give at least --hours="):
        planned(short)
    assert not short.study.trials


def begun(night: Night, *places: str, preset: str | None = None) -> list:
    """Trials that these places are at."""
    trials = [night.study.ask() for _ in places]
    for trial, place in zip(trials, places, strict=True):
        trial.set_user_attr("place", place)
        trial.set_user_attr("preset", preset)
    return trials


def states(night: Night) -> list[TrialState]:
    return [t.state for t in night.study.get_trials(deepcopy=False)]


@pytest.fixture
def explore(monkeypatch):
    """Let a search explore, with something else in place of its workers."""
    monkeypatch.setattr(Night, "time_steps", lambda night, usual: None)

    def explore(night: Night, meanwhile=lambda: None) -> None:
        monkeypatch.setattr(crew, "run", lambda *given: meanwhile())
        night.explore()

    return explore


def test_the_workers_are_to_end_while_there_is_time_for_the_end(night, explore):
    search = night()
    explore(search)
    end = search.cost.end_seconds(search.recipe("best"), 4, FOLDS, 2)
    until = json.loads((search.folder / "job.json").read_bytes())["until"] - time.time()
    assert until == pytest.approx(search.clock.total - end, abs=60) and end > 120
    assert search.late - time.time() < search.clock.total - end / 3


def test_what_a_killed_start_left_is_lost_and_its_preset_is_tried_again(night, explore):
    search = night()
    begun(search, "here 0", preset="best")
    begun(search, "there 0")
    explore(search)
    assert states(search)[:2] == [TrialState.FAIL, TrialState.RUNNING]
    assert in_line(search) == ["best", "gentle"]


def test_trials_that_are_late_are_let_go(night, explore):
    search = night()
    explore(search, lambda: begun(search, "here 1", "there 1"))
    assert states(search).count(TrialState.FAIL) == states(search).count(TrialState.RUNNING) == 1


def test_the_trial_of_a_worker_that_was_killed_is_lost_alone(night):
    search = night()
    begun(search, "here 0", "here 1", "there 0")
    search.mourn(0, 9)
    assert states(search) == [TrialState.FAIL, TrialState.RUNNING, TrialState.RUNNING]


def test_trials_of_an_earlier_start_are_not_told_again(night, explore):
    ended(night(), "here 0", 60.0)
    again = night()
    explore(again)
    assert again.known == {0} and not [line for line in again.log.said if line.startswith("trial")]


def test_each_look_notes_the_time_and_tells_whether_it_is_late(night):
    search, kept = night(), []
    search.clock.keep = lambda: kept.append(1)
    assert search.look() and kept == [1]
    search.late = time.time() - 1
    assert not search.look()


def ended(night: Night, place: str, seconds: float, value: float = -0.1) -> float:
    """Tell of a trial whose folds took so many seconds; returns those that the next is thought to take."""
    settings = night.recipe("best")
    (trial,) = begun(night, place)
    facts = {"settings": settings, "seen": FOLDS, "seconds": seconds, "stop": 0.8, "time": 0.0}
    trial.set_user_attr("told", {**facts, "answers": 3.9, "base": 4.0, "forgetting": 0.0})
    night.study.tell(trial, value)
    night.look()
    return night.cost.trial_seconds(settings)


def test_what_trials_of_this_machine_took_counts_for_the_end(night):
    search = night()
    before = search.cost.trial_seconds(search.recipe("best"))
    assert ended(search, "there 0", 9 * before) == before
    assert ended(search, "here 1", 2 * before) == pytest.approx(2 * before, rel=0.01)


def test_a_trial_is_told_once(night):
    search = night()
    for _ in range(3):
        ended(search, "here 0", 1.0)
        search.look()
    assert [line.split(" |")[0] for line in search.log.said if line.startswith("trial")] == [
        f"trial {number}" for number in range(3)
    ]


def test_the_end_takes_no_more_seeds_than_the_time_left_allows(night):
    search = night()
    ended(search, "here 0", 60.0)
    many = search.choose()
    search.clock.left = 1.0
    few = search.choose()
    assert (many.seeds, many.folds) == (4, FOLDS) and (few.seeds, few.folds) == (1, 0)
    left = END * search.clock.total
    assert search.cost.end_seconds(search.recipe("best"), many.seeds, many.folds, 2) <= left
