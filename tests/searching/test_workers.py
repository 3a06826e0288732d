"""The processes of a search: one that dies is replaced, and a unit that ends its workers is told."""

import sys

import pytest

from arianna.searching.job import Unit
from arianna.searching.workers import Pool

ECHO = """
import json, os, sys
for line in sys.stdin:
    unit = json.loads(line)
    if unit["data"] == "deadly" or (unit["data"] == "once" and not os.path.exists(sys.argv[1])):
        open(sys.argv[1], "w").close()
        os.kill(os.getpid(), 9)
    print(json.dumps({"data": unit["data"], "threads": os.environ["OMP_NUM_THREADS"]}), flush=True)
"""


def pool(tmp_path, number: int) -> Pool:
    return Pool([sys.executable, "-c", ECHO, str(tmp_path / "died")], number)


def answers(workers: Pool, number: int) -> dict:
    found = {}
    while len(found) < number:
        if answer := workers.wait(10.0):
            found[answer[0]] = answer[1]
    return found


def test_units_are_answered_by_name_one_thread_each(tmp_path):
    with pool(tmp_path, 2) as workers:
        for name, worker in enumerate(workers.idle()):
            workers.give(worker, name, Unit(f"fold {name}"))
        assert not workers.idle() and sorted(workers.at_work()) == [0, 1]
        assert answers(workers, 2) == {n: {"data": f"fold {n}", "threads": "1"} for n in range(2)}
        assert len(workers.idle()) == 2


def test_a_worker_that_was_killed_is_replaced_and_its_unit_done_again(tmp_path):
    with pool(tmp_path, 1) as workers:
        (worker,) = workers.idle()
        workers.give(worker, "a", Unit("once"))
        assert answers(workers, 1)["a"]["data"] == "once" and workers.workers != [worker]


def test_a_unit_that_ends_its_workers_is_told(tmp_path):
    with pool(tmp_path, 1) as workers:
        workers.give(workers.idle()[0], "a", Unit("deadly"))
        with pytest.raises(
            OSError, match="ended with code -9, 2 times at the same work .it was killed, for want of memory"
        ):
            answers(workers, 1)


def test_no_worker_is_left_behind(tmp_path):
    with pool(tmp_path, 2) as workers:
        processes = [w.process for w in workers.workers]
        workers.give(workers.idle()[0], "a", Unit("x"))
        workers.let_go()
        assert len(workers.idle()) == 2
    assert all(p.poll() is not None for p in processes + [w.process for w in workers.workers])
