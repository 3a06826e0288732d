"""A whole search of a tiny model, by its own processes: what it leaves, that it goes on, and what it
refuses."""

import dataclasses
import json
import subprocess
import sys

import pytest
from helpers import ROOT
from nights import place, searched, settings, tried

from arianna import search
from arianna.formats import checkpoint
from arianna.reporting.scored_run import read_run, remember_job
from arianna.scoring import choose
from arianna.searching import night as nights
from arianna.searching import study
from arianna.searching.budget import Cost
from arianna.searching.night import Night
from arianna.searching.study import NAME
from arianna.system.config import UsageError
from arianna.system.files import sha256


@pytest.fixture
def quick(monkeypatch):
    """Whatever the clock says: all fits, and the search is over after so many trials."""

    def after(trials: int) -> None:
        monkeypatch.setattr(Cost, "of", lambda cost, work: 1e-9 * work)
        monkeypatch.setattr(Night, "is_late", lambda night: len(night.known) >= trials)

    return after


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder in which a search ran to its end, with all that was said."""
    folder, patch = place(tmp_path_factory.mktemp("night")), pytest.MonkeyPatch()
    patch.setattr(Cost, "of", lambda cost, work: 1e-9 * work)
    patch.setattr(Night, "is_late", lambda night: len(night.known) >= 4)
    patch.setattr(nights, "END", 0.3)
    before = {
        name: sha256(folder / name) for name in ("base.pt", "talk.jsonl", "out/ft/data", "out/ft/base_text")
    }
    assert searched(folder, workers=2) == 0
    patch.undo()
    assert before == {name: sha256(folder / name) for name in before}
    return folder


def test_a_search_leaves_what_a_run_of_the_trainer_leaves(done):
    run = done / "out/ft"
    points = choose.evaluations(run)
    choice = choose.recall({"max_forgetting": 0.1, "blend": None}, run)
    assert (
        [p.step for p in points] == [0, points[1].step]
        and choice.base == points[0]
        and choice.best == points[1]
    )
    state, weights = checkpoint.load(run / "ckpt.pt"), checkpoint.load(run / f"ckpt_{points[1].step:06d}.pt")
    assert state["iter_num"] == weights["iter_num"] == points[1].step
    assert state["run"]["config"]["max_iters"] == 5 and state["run"]["inputs"]["base"] == sha256(
        done / "base.pt"
    )
    assert choice.used.forgetting(choice.base) <= 0.1 and choice.used.answer_loss < choice.base.answer_loss


def test_search_json_tells_every_trial_once_with_its_settings(done):
    told = tried(done)
    numbers = [t["number"] for t in told["trials"]]
    assert told["finished"] and len(numbers) == len(set(numbers)) >= 4
    assert told["trials"][0]["preset"] == "best" and told["presets"]["best"] is not None
    complete = [t for t in told["trials"] if t["state"] == "complete"]
    best = min(complete, key=lambda t: t["value"])
    assert told["chosen"]["number"] == best["number"] and told["chosen"]["params"] == best["params"]
    assert told["expected_gain"] == pytest.approx(told["base"]["answers"] - best["value"])
    assert all(t["settings"]["batch_size"] == 2 and t["settings"]["max_iters"] == 5 for t in told["trials"])
    assert all(t["seen"] == 5 for t in complete) and told["chosen"]["seeds"] in (1, 4)


def test_each_better_trial_is_in_the_log_and_said(done):
    lines = [json.loads(line) for line in (done / "out/ft/log.jsonl").read_text().splitlines()]
    better = [line for line in lines if "trial" in line]
    values = [line["value"] for line in better]
    assert values == sorted(values, reverse=True) and values
    said = (done / "out/ft/train.log").read_text()
    assert "trials of 5 folds fit" in said and "the best so far: " in said and "nats a token gained: " in said
    assert any(line.get("search") == "soup" for line in lines)


def test_the_report_reads_what_a_search_leaves(done):
    run = done / "out/ft"
    paths = {
        name: str(done / "talk.jsonl") for name in ("conversations", "tokenizer", "checkpoint", "binary")
    }
    from arianna.reporting.scored_run import Paths

    remember_job(run, Paths(**paths, base=str(done / "base.pt")), 0)
    found = read_run(run)
    assert found.choice.used.step == found.points[-1].step and found.training


def test_a_finished_search_started_again_changes_nothing(done, capsys):
    before = {p: p.stat().st_mtime_ns for p in done.rglob("*") if p.is_file()}
    assert searched(done) == 0
    assert "is searched and trained; nothing to do" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in done.rglob("*") if p.is_file()}


def test_what_was_chosen_is_trained_by_the_next_start(tmp_path, quick, monkeypatch):
    quick(2)

    def killed(*given):
        raise KeyboardInterrupt

    folder = place(tmp_path)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Night, "do_units", killed)
        searched(folder)
    chosen = json.loads((folder / "out/ft/search/chosen.json").read_bytes())
    monkeypatch.setattr(Night, "explore", killed)
    assert searched(folder) == 0
    assert tried(folder)["chosen"]["number"] == chosen["number"]


def test_more_machines_find_each_others_trials(tmp_path, quick):
    quick(2)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    storage = f"sqlite:///{tmp_path}/night.db"
    first = place(tmp_path / "a")
    assert searched(first, storage=storage) == 0
    quick(4)
    second = place(tmp_path / "b")
    assert searched(second, storage=storage) == 0
    numbers = [[t["number"] for t in tried(folder)["trials"]] for folder in (first, second)]
    assert set(numbers[0]) <= set(numbers[1]) and len(numbers[1]) == len(set(numbers[1])) >= 4


def test_what_a_killed_start_left_half_written_is_removed(tmp_path, monkeypatch):
    folder = place(tmp_path)
    names = (".search.json.99.tmp", "search/.chosen.json.99.tmp", "search/end/.0_1337.json.99.tmp")
    (folder / "out/ft/search/end").mkdir(parents=True)
    for name in names:
        (folder / "out/ft" / name).write_text("{")

    def refused(*given):
        raise UsageError("refused")

    monkeypatch.setattr(nights.beginning, "prepare_folds", refused)
    with pytest.raises(UsageError, match="refused"):
        searched(folder)
    assert not any((folder / "out/ft" / name).exists() for name in names)


# ---- refused ----


def test_time_that_is_too_short_is_told_with_what_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(Cost, "of", lambda cost, work: 1e-3 * work)
    folder = place(tmp_path)
    with pytest.raises(
        UsageError, match=r"^--hours=0.001 is too short: a trial takes .*; give at least --hours=\d+\.\d\d\.$"
    ):
        searched(folder, hours=0.001)
    assert not (folder / "out/ft/ckpt.pt").exists()


@pytest.mark.parametrize("hours", [0.0, -1.0, float("nan"), float("inf")])
def test_hours_that_cannot_be_are_refused(hours):
    with pytest.raises(UsageError, match="hours is .*; it must be a number above 0"):
        search.check(hours)


def test_a_search_with_another_budget_in_the_same_folder_is_refused_by_name_and_kept(tmp_path, monkeypatch):
    folder, facts = place(tmp_path), {}

    def noted(url, run, known):
        facts.update(known)
        raise UsageError("noted")

    with monkeypatch.context() as patch, pytest.raises(UsageError, match="noted"):
        patch.setattr(study, "open_study", noted)
        searched(folder)
    assert facts["max_forgetting"] == 0.1
    study.open_study(None, folder / "out/ft/search", {**facts, "max_forgetting": 0.2})
    before = (folder / "out/ft/search/journal.log").read_bytes()
    with pytest.raises(UsageError, match="holds a search with other max_forgetting: begin anew with --fresh"):
        searched(folder)
    assert before and (folder / "out/ft/search/journal.log").read_bytes().startswith(before)


def test_several_processes_a_run_are_refused(tmp_path):
    folder = place(tmp_path)
    with pytest.raises(UsageError, match="nproc is 2; give --workers instead"):
        searched(folder, nproc=2)


@pytest.mark.parametrize("missing", ["optuna", "scipy"])
def test_a_missing_package_is_told_with_the_line_for_pip(missing, monkeypatch):
    real = search.importlib.util.find_spec
    monkeypatch.setattr(
        search.importlib.util, "find_spec", lambda name: None if name == missing else real(name)
    )
    with pytest.raises(
        UsageError, match=rf"--hours needs {missing}, not installed here: pip install optuna scipy"
    ):
        search.check(1.0)


def test_nothing_of_a_search_is_imported_before_it_is_asked_for():
    code = (
        "import sys, arianna_ft, arianna.search; "
        "print(sorted({'optuna', 'scipy', 'torch', 'numpy'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "optuna" not in told.stdout and "scipy" not in told.stdout


def test_a_setting_that_the_user_gave_is_in_the_final_run(done):
    config = checkpoint.load(done / "out/ft/ckpt.pt")["run"]["config"]
    assert config["batch_size"] == 2 and dataclasses.asdict(settings(done))["batch_size"] == 2 and NAME
