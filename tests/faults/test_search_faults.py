"""A search that is killed, alone or among several: the same command ends it, and no trial is lost twice or
counted twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults import ENVIRONMENT, children_of, inputs_kept, kill_after, leftovers, times
from helpers import ROOT

sys.path.insert(0, str(ROOT / "tests/searching"))
pytest.importorskip("optuna")
pytest.importorskip("scipy")

from nights import place, tried  # noqa: E402

from arianna.formats import checkpoint  # noqa: E402

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and process groups of POSIX")

SEARCH = f"""
import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}, {str(ROOT / "tests/searching")!r}]
from pathlib import Path
from arianna.searching.budget import Cost
from arianna.searching.night import Night
from arianna.system import processes
from nights import searched

Cost.of = lambda cost, work: 1e-9 * work  # all fits, whatever the machine does beside
Night.is_late = lambda night: len(night.known) >= int(sys.argv[2])
try:
    with processes.stoppable(), processes.lock(Path(sys.argv[1])):
        sys.exit(searched(Path(sys.argv[1]), workers=2, storage=sys.argv[3] if sys.argv[3:] else None))
except processes.StoppedError as stopped:
    sys.exit(stopped.exit_code)
"""


def start(folder: Path, trials: int, *storage: str) -> subprocess.Popen:
    words = [sys.executable, "-c", SEARCH, str(folder), str(trials), *storage]
    group = {"start_new_session": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(words, env=ENVIRONMENT, **group)


def ended(process: subprocess.Popen) -> str:
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said
    return said


def numbers(folder: Path) -> list[int]:
    return [trial["number"] for trial in tried(folder)["trials"]]


def journal(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "out/ft/search/journal.log").read_text().splitlines()]


def check(folder: Path, trials: int) -> None:
    """The search is done, has each trial once, and left nothing half-written."""
    told = tried(folder)
    assert told["finished"] and len(set(numbers(folder))) == len(numbers(folder)) >= trials
    assert all(t["seen"] == 5 for t in told["trials"] if t["state"] == "complete")
    assert not leftovers(folder) and checkpoint.load(folder / "out/ft/ckpt.pt")["iter_num"] > 0


def test_a_search_killed_again_and_again_is_ended_by_the_same_command(tmp_path):
    folder, trials, before = place(tmp_path), 4, []
    with inputs_kept(folder):
        for n in times("SIGKILL at a random time over a search", 1, 30):
            if tried(folder).get("finished"):
                check(folder, trials)
                (tmp_path / str(n)).mkdir()
                folder, before = place(tmp_path / str(n)), []
            kill_after(start(folder, trials), random.Random(n).uniform(4.0, 30.0))
            assert set(before) <= set(numbers(folder)), "a trial that had ended is lost"
            before = numbers(folder)
        ended(start(folder, trials))
    check(folder, trials)
    assert set(before) <= set(numbers(folder)) and journal(folder)


def test_of_two_searches_on_one_storage_one_may_be_killed(tmp_path):
    storage = f"sqlite:///{tmp_path}/night.db"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = place(tmp_path / "a"), place(tmp_path / "b")
    for n in times("one of two searches on one storage killed", 1, 5):
        with inputs_kept(first), inputs_kept(second):
            one, other = start(first, 4, storage), start(second, 4, storage)
            killed = kill_after(one, random.Random(n).uniform(8.0, 20.0))
            ended(other)
            check(second, 4)
            if killed:
                ended(start(first, 4, storage))
            check(first, 4)
        assert set(numbers(second)) & set(numbers(first))


def test_a_worker_that_is_killed_costs_its_trial_alone(tmp_path):
    folder = place(tmp_path)
    for _ in times("one worker of a search killed", 1, 5):
        process = start(folder, 3)
        while not (workers := [p for p in children_of(process.pid)]) and process.poll() is None:
            time.sleep(0.2)
        time.sleep(3)
        if workers and process.poll() is None:
            os.kill(workers[0], signal.SIGKILL)
        ended(process)
        check(folder, 3)
