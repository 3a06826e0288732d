"""The processes of a search: one that is killed is started again, one that fails ends the search, none is
left behind."""

import math
import os
import subprocess
import sys
import time

import pytest

from arianna.searching import crew

WORKER = """
import os, sys, time
folder, number = sys.argv[1:3]
with open(f"{folder}/{number}", "a") as f:
    f.write(os.environ["OMP_NUM_THREADS"])
starts = os.path.getsize(f"{folder}/{number}")
what = open(f"{folder}/what").read()
if what == "fails": sys.exit("broken")
if what == "killed" or (what == "killed once" and starts == 1 and number == "0"): os.kill(os.getpid(), 9)
if what == "stays": time.sleep(15); open(f"{folder}/over", "w")
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Run two workers that do what is asked; returns how often each started, and who died."""
    made: list[subprocess.Popen] = []

    def started(folder, number, of):
        command = [sys.executable, "-c", WORKER, str(folder), str(number)]
        made.append(subprocess.Popen(command, env={**os.environ, **crew.ONE_THREAD}))
        return made[-1]

    def run(what: str, until: float = math.inf):
        (tmp_path / "what").write_text(what)
        died = []
        try:
            crew.run(tmp_path, 2, lambda: time.time() < until, lambda *who: died.append(who))
        finally:
            assert all(process.poll() is not None for process in made)
        return [
            len((tmp_path / name).read_text()) if (tmp_path / name).exists() else 0 for name in "01"
        ], died

    monkeypatch.setattr(crew, "started", started)
    return run


def test_workers_have_one_thread_each_and_are_waited_for(work, tmp_path):
    assert work("ends") == ([1, 1], []) and (tmp_path / "0").read_text() == "1"


def test_a_worker_that_was_killed_is_told_and_started_again(work):
    assert work("killed once") == ([2, 1], [(0, 9)])


def test_workers_that_are_killed_again_and_again_end_the_search(work):
    with pytest.raises(OSError, match="a process of the search failed .signal 9 killed several"):
        work("killed")


def test_a_worker_that_fails_ends_the_search_and_is_not_started_again(work, tmp_path):
    with pytest.raises(OSError, match="what it said stands above.; the same command goes on from here"):
        work("fails")
    assert all(len((tmp_path / name).read_text()) == 1 for name in "01" if (tmp_path / name).exists())


def test_workers_that_are_late_are_ended(work, tmp_path):
    starts, died = work("stays", until=time.time() + 2)
    assert died == [] and max(starts) <= 1 and not (tmp_path / "over").exists()


def test_a_worker_needs_a_search_to_work_in(tmp_path):
    process = crew.started(tmp_path, 0, 1)
    assert process.wait() == 2
