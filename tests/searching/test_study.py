"""The study: whole in a journal that is cut off, refused where it is another's, and no trial counted
twice."""

import json
import os

import optuna
import pytest
from optuna.trial import TrialState

from arianna.searching import study as studies
from arianna.searching.study import JOURNAL, NAME, bury, line_up, open_study, trials_of
from arianna.system.config import UsageError

FACTS = {"conversations": "abc", "base": "def", "max_forgetting": 0.1}


def test_a_study_is_found_again_with_its_trials(tmp_path):
    study = open_study(None, tmp_path, FACTS)
    study.tell(study.ask(), 1.5)
    again = open_study(None, tmp_path, FACTS)
    assert [t.value for t in again.trials] == [1.5] and studies.best_trial(again).value == 1.5


@pytest.mark.parametrize("cut", [1, 10, 30])
def test_half_a_line_that_a_killed_writer_left_is_cut_off(tmp_path, cut):
    study = open_study(None, tmp_path, FACTS)
    study.tell(study.ask(), 1.5)
    path = tmp_path / JOURNAL
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines(keepends=True)[-1][:-cut])
    again = open_study(None, tmp_path, FACTS)
    again.tell(again.ask(), 2.5)
    assert [t.value for t in open_study(None, tmp_path, FACTS).trials] == [1.5, 2.5]
    assert path.read_bytes().startswith(whole)
    assert all(json.loads(line) for line in path.read_bytes().splitlines())


def test_a_full_disk_is_told_and_costs_no_trial(tmp_path, monkeypatch):
    study = open_study(None, tmp_path, FACTS)
    study.tell(study.ask(), 1.5)
    trial = study.ask()

    def full(descriptor):
        with open(tmp_path / JOURNAL, "r+b") as file:  # half of what was to be written is there
            file.truncate((tmp_path / JOURNAL).stat().st_size - 5)
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"journal.log could not be written: No space left"):
            study.tell(trial, 2.5)
    again = open_study(None, tmp_path, FACTS)
    again.tell(again.ask(), 3.5)
    states = [t.state for t in open_study(None, tmp_path, FACTS).trials]
    assert states == [TrialState.COMPLETE, TrialState.RUNNING, TrialState.COMPLETE]


@pytest.mark.parametrize("name", FACTS)
def test_a_study_of_other_data_is_refused_and_named(tmp_path, name):
    open_study(None, tmp_path, FACTS)
    with pytest.raises(
        UsageError, match=f"journal.log holds a search with other {name}: begin anew with --fresh"
    ):
        open_study(None, tmp_path, FACTS | {name: "other"})


def test_a_study_of_another_version_or_program_is_refused(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/night.db"
    monkeypatch.setattr(studies, "FORMAT", 2)
    open_study(url, tmp_path, FACTS)
    monkeypatch.undo()
    with pytest.raises(
        UsageError, match=r"night.db holds a study of format 2; this program writes format 1: give another"
    ):
        open_study(url, tmp_path, FACTS)
    theirs = optuna.create_study(storage=f"sqlite:///{tmp_path}/theirs.db", study_name=NAME)
    theirs.tell(theirs.ask(), 1.0)
    with pytest.raises(UsageError, match=r"theirs.db holds a study of another program"):
        open_study(f"sqlite:///{tmp_path}/theirs.db", tmp_path, FACTS)


@pytest.mark.parametrize(
    "url", ["sqlite:////nowhere/at/all.db", "nonsense://x", "mysql+nodriver://h/x", "/dev/null/x"]
)
def test_a_storage_that_cannot_be_reached_is_told_in_one_sentence(tmp_path, url):
    with pytest.raises(UsageError) as error:
        open_study(url, tmp_path, FACTS)
    told = str(error.value)
    assert told.startswith(f"the search's storage {url} cannot be used (") and told.endswith(
        "); give another, or none."
    )
    assert "\n" not in told and len(told) < 300


def test_a_journal_that_is_none_is_told(tmp_path):
    (tmp_path / JOURNAL).write_text("not a journal\nat all\n")
    with pytest.raises(UsageError, match="cannot be used"):
        open_study(None, tmp_path, FACTS)


def test_what_this_place_left_behind_is_buried_and_others_work_on(tmp_path):
    study = open_study(None, tmp_path, FACTS)
    trials = ours, theirs, other, done = [study.ask() for _ in range(4)]
    for trial, place in zip(trials, ("here 1", "there 1", "here 10", "here 1"), strict=True):
        trial.set_user_attr("place", place)
    study.tell(done, 1.0)
    bury(study, "here 1")
    states = [TrialState.FAIL, TrialState.RUNNING, TrialState.RUNNING, TrialState.COMPLETE]
    assert [t.state for t in study.trials] == states
    bury(study, "here")
    assert study.trials[2].state == TrialState.FAIL and study.trials[1].state == TrialState.RUNNING


def test_a_preset_stands_in_line_once_until_it_is_lost(tmp_path):
    study = open_study(None, tmp_path, FACTS)
    for _ in range(2):
        line_up(study, "best", {"x": 1.0})
    assert len(trials_of(study, TrialState.WAITING)) == 1
    trial = study.ask()
    assert trial.suggest_float("x", 0.0, 2.0) == 1.0 and trial.user_attrs["preset"] == "best"
    line_up(study, "best", {"x": 1.0})
    assert not trials_of(study, TrialState.WAITING)
    assert studies.end(study, trial.number, TrialState.FAIL)
    line_up(study, "best", {"x": 1.0})
    assert len(trials_of(study, TrialState.WAITING)) == 1


def test_a_trial_that_has_ended_is_not_ended_again(tmp_path):
    study = open_study(None, tmp_path, FACTS)
    trial = study.ask()
    study.tell(trial, 1.0)
    assert not studies.end(study, trial.number, TrialState.FAIL)
    assert studies.best_trial(study).value == 1.0


@pytest.mark.parametrize(
    "told", ["table studies already exists", "UNIQUE constraint failed: alembic_version.version_num"]
)
def test_a_database_whose_tables_another_process_is_making_is_asked_again(monkeypatch, told):
    answers = iter([RuntimeError(told), "storage"])

    def opened(url: str) -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(studies.optuna.storages, "RDBStorage", opened)
    monkeypatch.setattr(studies.time, "sleep", lambda seconds: None)
    assert studies.database("sqlite:///night.db") == "storage"
    answers = iter([RuntimeError("no such host")])
    with pytest.raises(RuntimeError, match="no such host"):
        studies.database("sqlite:///night.db")
