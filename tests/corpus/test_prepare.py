"""Two passes over a file in parts: faults, split and rows are those of the whole, and a preparation goes
on."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

import arianna_data
from arianna.corpus import encoding, parallel, prepare, recognition, sources
from arianna.corpus.prepare import (
    are_written,
    iter_conversations,
    read_conversations,
    recall,
    survey,
    write_corpus,
    write_shards,
)
from arianna.corpus.sources import FaultyError
from arianna.corpus.split import split_sides
from arianna.corpus.template import corpus_text
from arianna_data import Rows

MODEL = str(ROOT / "data/tok4096.model")
CONTEXTS = (64, 48)


def line(question: str, answer: str) -> str:
    return json.dumps([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def talk(tmp_path, monkeypatch) -> Path:
    """90 conversations in parts of a thousand bytes, some twice, some of one question, some longer than a
    row."""
    monkeypatch.setattr(sources, "PART", 1000)
    monkeypatch.setattr(parallel, "cores", lambda: 1)
    lines = [line(f"What is {n % 70}?", "It is a number… " + "and so on, " * (n % 40)) for n in range(85)]
    return write(
        tmp_path / "talk.jsonl", [*lines, "", *lines[:3], line("Q: ß?", "A: ß\nA: yes"), line("last", "one")]
    )


def quiet(text: str) -> None:
    pass


def rows_of(folder: Path, split: str) -> list[list[int]]:
    rows = Rows(folder, split, 64, 4096)
    return [[*x.tolist(), *y.tolist(), *flags.tolist()] for x, y, flags in map(rows.row, range(len(rows)))]


# ---- the parts and the whole ----


def test_parts_end_at_lines_and_are_the_whole_file(talk):
    source = recognition.recognise(talk)
    pieces = [sources.read_part(source, *part) for part in sources.cut(source)]
    assert len(pieces) > 5 and b"".join(pieces) == talk.read_bytes()
    assert all(piece.endswith(b"\n") for piece in pieces)


def whole(talk: Path, monkeypatch) -> prepare.Survey:
    with monkeypatch.context() as m:
        m.setattr(sources, "PART", 1 << 24)
        return survey(talk, quiet, workers=1)


def test_what_is_found_in_parts_is_what_is_found_in_the_whole(talk, monkeypatch):
    one, many = whole(talk, monkeypatch), survey(talk, quiet)
    assert len(one.parts) == 1 and len(many.parts) > 5
    assert vars(many) | {"parts": 0} == vars(one) | {"parts": 0}
    assert (many.conversations, many.duplicates, many.joined) == (90, 3, 1)
    assert [*iter_conversations(many)] == [*iter_conversations(one)]
    assert [c.line for c in iter_conversations(many)][-2:] == [90, 91], "counted over the whole file"


def test_each_side_is_that_of_the_split(talk):
    found, (train, held_out) = survey(talk, quiet), split_sides(read_conversations(talk))
    assert [*iter_conversations(found, False)] == train and [*iter_conversations(found, True)] == held_out
    assert found.held_out == len(held_out)


def test_a_file_of_one_part_keeps_its_plain_names_and_the_rows_are_those_of_its_conversations(
    talk, tokenizer, tmp_path, monkeypatch
):
    prepared = write_shards(whole(talk, monkeypatch), MODEL, CONTEXTS, tmp_path / "data", quiet)
    files, expected = encoding.prepare_conversations(
        *split_sides(read_conversations(talk)), tokenizer, *CONTEXTS
    )
    assert prepared == expected and prepared.longer > 10 and prepared.spelled == expected.spelled
    assert {p.name: p.read_bytes() for p in (tmp_path / "data").iterdir() if p.name != parallel.NOTE} == files


def test_the_rows_of_many_parts_are_those_of_the_whole_in_order(talk, tmp_path, monkeypatch):
    expected = write_shards(whole(talk, monkeypatch), MODEL, CONTEXTS, tmp_path / "whole", quiet)
    assert write_shards(survey(talk, quiet), MODEL, CONTEXTS, tmp_path / "parts", quiet) == expected
    assert len(list((tmp_path / "parts").glob("train_*.bin"))) > 5
    for split in ("train", "val"):
        assert rows_of(tmp_path / "parts", split) == rows_of(tmp_path / "whole", split)


def test_several_processes_make_the_same_files(talk, tmp_path):
    found = survey(talk, quiet, workers=2)
    assert found == survey(talk, quiet, workers=1)
    for workers in (1, 2):
        write_shards(found, MODEL, CONTEXTS, tmp_path / str(workers), quiet, workers)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in "12")
    assert one == two


def test_all_faults_are_told_as_for_a_small_file(talk, monkeypatch):
    lines = talk.read_text().splitlines()
    for number in (4, 30, 31, 60):
        lines[number] = line(f"What is {number}?", "")
    lines[50] = "[nothing"
    write(talk, lines)
    told = []
    for check in (lambda: whole(talk, monkeypatch), lambda: survey(talk, quiet)):
        with pytest.raises(FaultyError) as error:
            check()
        told.append(str(error.value))
    assert told[0] == told[1] and told[0].count("\n") == 1 and f"{talk}:51: " in told[0]
    assert "needs an answer; the same on lines 31, 32, 61." in told[0]


def test_a_file_of_several_kinds_of_records_is_told_in_one_sentence(talk, monkeypatch):
    lines = talk.read_text().splitlines()
    for number in (4, 30, 31, 60):
        lines[number] = '{"prompt": "another format", "completion": "here"}'
    lines[70], lines[80] = '{"messages": [{"role": "user", "content": "why"}]}', "[nothing"
    lines[71] = lines[70].replace("}]", '}, {"role": "assistant", "content": "so"}]')
    write(talk, lines)
    expected = (
        f"{talk} mixes 3 kinds of records: 83 of 'list of role and content' (from line 1), 4 of 'object with "
        "prompt and completion' (from line 5), 1 of 'object with messages' (from line 72); a file has one "
        "format: write all of them in one of these, or leave the others out."
    )
    for check in (lambda: whole(talk, monkeypatch), lambda: survey(talk, quiet)):
        with pytest.raises(FaultyError) as error:
            check()
        assert str(error.value) == expected


def test_faults_beyond_the_first_are_counted(talk):
    write(talk, [line("good", "yes"), *[f"bad {'x' * n}" for n in range(300)]])
    with pytest.raises(FaultyError, match="280 more lines of .* are faulty") as error:
        survey(talk, quiet)
    assert f"{talk}:2: " in str(error.value) and ", 20, 21." in str(error.value)


def test_a_kind_of_data_that_cannot_be_learned_is_told_alone_and_with_its_line(talk):
    lines = talk.read_text().splitlines()
    lines[3], lines[60] = "bad", '[{"role": "user", "content": "x"}, {"role": "tool", "content": "x"}]'
    write(talk, lines)
    with pytest.raises(FaultyError) as error:
        survey(talk, quiet)
    assert str(error.value).startswith(f"{talk}:61: message 2 is from 'tool'") and "\n" not in str(
        error.value
    )


def test_a_file_that_changes_under_way_is_refused(talk, tmp_path):
    found = survey(talk, quiet)
    talk.write_bytes(b"x" + talk.read_bytes()[1:])
    with pytest.raises(ValueError, match="has changed since it was checked"):
        write_shards(found, MODEL, CONTEXTS, tmp_path / "data", quiet)


def test_some_of_many_come_from_every_part_and_the_right_side(talk):
    found, halves = survey(talk, quiet), split_sides(read_conversations(talk))
    for side, count in ((False, 20), (True, 6)):
        some = [*iter_conversations(found, side, count)]
        assert len(some) <= count and {c.turns for c in some} <= {c.turns for c in halves[side]}
    assert len([*iter_conversations(found, False, 20)]) == 20
    assert [*iter_conversations(found, False, 20)][-1].line > 60


def test_the_readable_corpus_is_the_text_of_all_conversations(talk, tmp_path):
    write_corpus(survey(talk, quiet), tmp_path / "data/corpus.txt")
    assert (tmp_path / "data/corpus.txt").read_text(encoding="utf-8") == corpus_text(read_conversations(talk))


def test_a_split_that_was_mended_is_told_and_kept_by_both_passes(talk, tmp_path):
    write(
        talk,
        [line("Hello!", f"Yes {n}, I hear you.") for n in range(60)]
        + [line(f"What is {n}?", f"It is {n}.") for n in range(40)],
    )
    found = survey(talk, quiet)
    (note,) = found.notes
    assert (
        note.startswith("many conversations begin with the same question, which would have held out")
        and "10 are held out" in note
    )
    assert (
        write_shards(found, MODEL, CONTEXTS, tmp_path / "data", quiet).held_out
        == 10
        == len([*iter_conversations(found, True)])
    )


def test_the_share_of_characters_that_are_spelled_in_bytes_is_counted(talk, tmp_path):
    write(talk, [line(f"笔 {n:02}?", "灰色的。" * 5) for n in range(40)])
    prepared = write_shards(survey(talk, quiet), MODEL, CONTEXTS, tmp_path / "data", quiet)
    assert (prepared.characters, prepared.bytes_spelled) == (40 * 25, 40 * 21)
    assert prepared.foreign == 21 / 25


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
    found = survey(talk, quiet)
    expected = write_shards(found, MODEL, CONTEXTS, tmp_path / "whole", quiet, 1)
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        stop_after(m, 3)
        write_shards(found, MODEL, CONTEXTS, tmp_path / "data", quiet, 1)
    with pytest.raises(ValueError, match="is not complete"):
        Rows(tmp_path / "data", "train", 64, 4096)
    made = stop_after(monkeypatch, 100)
    assert write_shards(found, MODEL, CONTEXTS, tmp_path / "data", quiet, 1) == expected
    assert made == list(range(3, len(found.parts)))
    assert {p.name for p in (tmp_path / "data").iterdir()} == {p.name for p in (tmp_path / "whole").iterdir()}
    assert are_written(found, MODEL, CONTEXTS, tmp_path / "data")
    assert write_shards(found, MODEL, CONTEXTS, tmp_path / "data", quiet, 1) == expected
    assert made == list(range(3, len(found.parts))), "nothing is made twice"


def test_a_file_whose_shards_are_there_is_not_checked_again(talk, tmp_path, monkeypatch):
    found = survey(talk, quiet)
    write_shards(found, MODEL, CONTEXTS, tmp_path / "data", quiet, 1)
    with monkeypatch.context() as m:
        m.setattr(prepare, "look", None)
        assert survey(talk, quiet, tmp_path / "data") == found == recall(talk, tmp_path / "data")
    write(talk, talk.read_text().splitlines()[1:])
    assert recall(talk, tmp_path / "data") is None


def test_a_shard_that_was_deleted_is_made_again(talk, tmp_path):
    found = survey(talk, quiet)
    write_shards(found, MODEL, CONTEXTS, tmp_path / "data", quiet, 1)
    whole = {p.name: p.read_bytes() for p in (tmp_path / "data").iterdir()}
    (tmp_path / "data/train_00001.bin").unlink()
    assert not are_written(found, MODEL, CONTEXTS, tmp_path / "data")
    write_shards(found, MODEL, CONTEXTS, tmp_path / "data", quiet, 1)
    assert are_written(found, MODEL, CONTEXTS, tmp_path / "data")
    assert {p.name: p.read_bytes() for p in (tmp_path / "data").iterdir()} == whole


def test_shards_of_something_else_are_made_anew(talk, tmp_path):
    found = survey(talk, quiet)
    write_shards(found, MODEL, CONTEXTS, tmp_path / "data", quiet, 1)
    assert not are_written(found, MODEL, (32, 32), tmp_path / "data")
    write_shards(found, MODEL, (32, 32), tmp_path / "data", quiet, 1)
    assert max(Rows(tmp_path / "data", "train", 32, 4096).lengths) == 32


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_workers_end_with_the_process_that_started_them():
    job = ("import time; print('at work', flush=True); time.sleep(600)",)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from arianna.corpus import parallel; "
        f"list(parallel.each(exec, [{job}, {job}], 2))"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(ROOT)], stdout=subprocess.PIPE, text=True)
    assert [child.stdout.readline() for _ in range(2)] == ["at work\n"] * 2
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert child.stdout.read() == "", "the pipe has come to its end: nobody holds it any more"
    child.stdout.close()


def test_a_worker_that_is_killed_is_told():
    with pytest.raises(OSError, match="a process was killed, perhaps for lack of memory"):
        list(parallel.each(os._exit, [(1,), (1,)], 2))
    assert not multiprocessing.active_children()


def test_progress_is_said_every_few_seconds(monkeypatch):
    clock, said = iter([0.0, 1.0, 6.0, 7.0, 12.0]), []
    monkeypatch.setattr(parallel.time, "monotonic", lambda: next(clock))
    progress = parallel.Progress("preparing", 40_000_000, said.append)
    for _ in range(4):
        progress.add(6_000_000)
    assert said == ["preparing: 30%, 2.0 MB/s, 14 s left", "preparing: 60%, 2.0 MB/s, 8 s left"]


# ---- as a command ----


def test_conversations_can_be_pretokenized_too(talk, tmp_path, capsys):
    words = [
        "pretokenize",
        f"--data={talk}",
        f"--model={MODEL}",
        f"--out={tmp_path / 'out'}",
        "--max_seq_len=64",
    ]
    assert arianna_data.main(words) == 0
    assert "90 conversations, 9 of them held out" in capsys.readouterr().out
    assert max(Rows(tmp_path / "out", "train", 64, 4096).lengths) == 64
    assert arianna_data.main(words) == 0, "the same command goes on, or finds all done"
