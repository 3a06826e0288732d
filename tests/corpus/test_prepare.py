"""Files too large for memory: the same faults, split and rows as when they are read whole, and a preparation that goes on."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from arianna.corpus.shards import Plan, examine
from helpers import ROOT

from arianna.corpus import conversations, encoding, parallel, shards
from arianna.corpus.conversations import Faulty
from arianna_data import Rows

MODEL = str(ROOT / "data/tok4096.model")


def line(question: str, answer: str) -> str:
    return json.dumps([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def talk(tmp_path, monkeypatch) -> Path:
    """90 conversations in parts of a thousand bytes, some twice, some of one question, some longer than a row."""
    monkeypatch.setattr(shards, "PART", 1000)
    monkeypatch.setattr(parallel, "cores", lambda: 1)
    lines = [line(f"What is {n % 70}?", "It is a number… " + "and so on, " * (n % 40)) for n in range(85)]
    return write(tmp_path / "talk.jsonl", [*lines, "", *lines[:3], line("Q: ß?", "A: ß\nA: yes"), line("last", "one")])


def quiet(text: str) -> None:
    pass


def rows_of(folder: Path, split: str) -> list[list[int]]:
    rows = Rows(folder, split, 64, 4096)
    return [[*x.tolist(), *y.tolist(), *flags.tolist()] for x, y, flags in map(rows.row, range(len(rows)))]


# ---- conversations ----


def test_parts_end_at_lines_and_are_the_whole_file(talk):
    pieces = [shards.read_part(str(talk), *part) for part in shards.cut(talk)]
    assert len(pieces) > 5 and b"".join(pieces) == talk.read_bytes()
    assert all(piece.endswith(b"\n") for piece in pieces)


def test_what_is_found_is_what_reading_the_whole_finds(talk):
    whole, found = conversations.read(talk), examine(talk, quiet)
    for name in ("number", "kind", "joined", "duplicates"):
        assert getattr(found, name) == getattr(whole, name)
    assert (found.duplicates, found.joined) == (3, 1)
    assert found.held_out == len(conversations.split(whole.conversations)[1])


def test_the_rows_are_those_of_the_whole_in_order(talk, tokenizer, tmp_path):
    halves = conversations.split(conversations.read(talk).conversations)
    files, expected = encoding.prepare_conversations(*halves, tokenizer, 64, 48)
    encoding.write_prepared(files, tmp_path / "whole")
    prepared = Plan(examine(talk, quiet), MODEL, (64, 48)).make(tmp_path / "parts", quiet)
    assert prepared == expected and prepared.longer > 10 and prepared.spelled == expected.spelled
    assert len(list((tmp_path / "parts").glob("train_*.bin"))) > 5
    for split in ("train", "val"):
        assert rows_of(tmp_path / "parts", split) == rows_of(tmp_path / "whole", split)


def test_several_processes_make_the_same_files(talk, tmp_path):
    found = examine(talk, quiet, workers=2)
    assert found == examine(talk, quiet, workers=1)
    for workers in (1, 2):
        Plan(found, MODEL, (64, 64)).make(tmp_path / str(workers), quiet, workers)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in "12")
    assert one == two


def test_all_faults_are_told_as_for_a_small_file(talk):
    lines = talk.read_text().splitlines()
    for number in (4, 30, 31, 60):
        lines[number] = '{"prompt": "another format", "completion": "here"}'
    lines[50] = "[nothing"
    write(talk, lines)
    told = []
    for check in (conversations.read, lambda path: examine(path, quiet)):
        with pytest.raises(Faulty) as error:
            check(talk)
        told.append(str(error.value))
    assert told[0] == told[1] and told[0].count("\n") == 4 and f"{talk}:51: " in told[0]


def test_faults_beyond_the_first_are_counted(talk):
    write(talk, [line("good", "yes"), *["bad"] * 300])
    with pytest.raises(Faulty, match="280 more lines of .* are faulty") as error:
        examine(talk, quiet)
    assert str(error.value).count("\n") == 20 and f"{talk}:21: " in str(error.value)


def test_too_few_questions_to_hold_some_out_are_refused(talk):
    write(talk, [line("always the same?", f"yes {n}") for n in range(60)])
    with pytest.raises(Faulty, match="60 conversations begin with only 1 different questions"):
        examine(talk, quiet)


def test_a_file_that_changes_under_way_is_refused(talk, tmp_path):
    plan = Plan(examine(talk, quiet), MODEL, (64, 64))
    talk.write_bytes(b"x" + talk.read_bytes()[1:])
    with pytest.raises(ValueError, match="has changed since it was checked"):
        plan.make(tmp_path / "data", quiet)


def test_some_of_many_come_from_every_part_and_the_right_side(talk):
    halves = conversations.split(conversations.read(talk).conversations)
    some = shards.some(examine(talk, quiet), (20, 6))
    for picked, half, count in zip(some, halves, (20, 6), strict=True):
        assert len(picked) <= count and {c.turns for c in picked} <= {c.turns for c in half}
    assert len(some[0]) == 20 and some[0][-1].turns[0][0] != "What is 19?"


# ---- going on ----


def stop_after(monkeypatch, number: int) -> list[int]:
    """Let the part after so many fail; returns where the numbers of those made are kept."""
    made: list[int] = []

    def make_part(folder, n, *rest, original=parallel.make_part):
        if len(made) == number:
            raise KeyboardInterrupt
        made.append(n)
        original(folder, n, *rest)

    monkeypatch.setattr(parallel, "make_part", make_part)
    return made


def test_a_stopped_preparation_goes_on_behind_the_parts_it_has(talk, tmp_path, monkeypatch):
    plan = Plan(examine(talk, quiet), MODEL, (64, 64))
    expected = plan.make(tmp_path / "whole", quiet, 1)
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        stop_after(m, 3)
        plan.make(tmp_path / "data", quiet, 1)
    with pytest.raises(ValueError, match="is not complete"):
        Rows(tmp_path / "data", "train", 64, 4096)
    made = stop_after(monkeypatch, 100)
    assert plan.make(tmp_path / "data", quiet, 1) == expected
    assert made == list(range(3, len(plan.found.parts)))
    assert {p.name for p in (tmp_path / "data").iterdir()} == {p.name for p in (tmp_path / "whole").iterdir()}
    assert plan.is_made(tmp_path / "data") and plan.make(tmp_path / "data", quiet, 1) == expected
    assert made == list(range(3, len(plan.found.parts))), "nothing is made twice"


def test_shards_of_something_else_are_made_anew(talk, tmp_path):
    found = examine(talk, quiet)
    Plan(found, MODEL, (64, 64)).make(tmp_path / "data", quiet, 1)
    assert shards.recall(talk, tmp_path / "data") == found
    other = Plan(found, MODEL, (32, 32))
    assert not other.is_made(tmp_path / "data")
    other.make(tmp_path / "data", quiet, 1)
    assert max(Rows(tmp_path / "data", "train", 32, 4096).lengths) == 32
    write(talk, talk.read_text().splitlines()[1:])
    assert shards.recall(talk, tmp_path / "data") is None


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_workers_end_with_the_process_that_started_them():
    job = ("import time; print('at work', flush=True); time.sleep(600)",)
    code = f"import sys; sys.path.insert(0, sys.argv[1]); import parts; list(parts.each(exec, [{job}, {job}], 2))"
    child = subprocess.Popen([sys.executable, "-c", code, str(ROOT)], stdout=subprocess.PIPE, text=True)
    assert [child.stdout.readline() for _ in range(2)] == ["at work\n"] * 2
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert child.stdout.read() == "", "the pipe has come to its end: nobody holds it any more"
    child.stdout.close()


def test_a_worker_that_is_killed_is_told():
    with pytest.raises(OSError, match="a process that prepares data was killed"):
        list(parallel.each(os._exit, [(1,), (1,)], 2))
    assert not multiprocessing.active_children()


def test_progress_is_said_every_few_seconds(monkeypatch):
    clock, said = iter([0.0, 1.0, 6.0, 7.0, 12.0]), []
    monkeypatch.setattr(parallel.time, "monotonic", lambda: next(clock))
    progress = parallel.Progress("preparing", 40_000_000, said.append)
    for _ in range(4):
        progress.add(6_000_000)
    assert said == ["preparing: 30%, 2.0 MB/s, 14 s left", "preparing: 60%, 2.0 MB/s, 8 s left"]


