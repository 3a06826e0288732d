"""Damaged and hostile files: refused in a sentence, or read as they were saved; nothing in them runs."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import hostile
import pytest
import torch
from faults import FULL, INPUTS, TABLE, inputs_kept, small, times
from helpers import FAULTS, GOOD, ROOT, TINY, build, furnish, write
from hypothesis import given, settings
from hypothesis import strategies as st

import arianna_ft
from arianna.corpus.prepare import survey
from arianna.formats import checkpoint
from arianna.formats.write import write_model
from arianna.system import config
from arianna.training.run_folder import latest_state
from train_arianna import train

# ---- damage ----


def flat(value) -> object:
    """A checkpoint as something that can be compared."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return [(k, flat(v)) for k, v in value.items()]
    return [flat(v) for v in value] if isinstance(value, (list, tuple)) else value


def cut(data: bytearray, chosen: random.Random) -> None:
    del data[chosen.randrange(len(data)) :]


def flip(data: bytearray, chosen: random.Random) -> None:
    data[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)


def blank(data: bytearray, chosen: random.Random) -> None:
    first = chosen.randrange(len(data)) // 4096 * 4096
    data[first : first + 4096] = bytes(len(data[first : first + 4096]))


@pytest.fixture(scope="module")
def states(tmp_path_factory) -> Path:
    """The folder of a finished run: its newest state and the one before."""
    folder = tmp_path_factory.mktemp("states")
    train(small(folder))
    return folder / "run"


DAMAGES = [("cut off", cut, 20, 200), ("one bit flipped", flip, 40, 1000), ("a page zeroed", blank, 10, 50)]


@pytest.mark.parametrize(("name", "damage", "few", "full"), DAMAGES, ids=[d[0] for d in DAMAGES])
def test_a_damaged_checkpoint_is_refused_or_what_was_saved(states, tmp_path, capsys, name, damage, few, full):
    newest, before = ((states / f).read_bytes() for f in ("ckpt.pt", "ckpt_prev.pt"))
    whole = [flat(checkpoint.load(states / f)) for f in ("ckpt.pt", "ckpt_prev.pt")]
    (tmp_path / "ckpt_prev.pt").write_bytes(before)
    refused = 0
    for n in times(f"checkpoint {name}", few, full):
        data = bytearray(newest)
        damage(data, random.Random(n))
        (tmp_path / "ckpt.pt").write_bytes(data)
        found = flat(latest_state(tmp_path))
        told = capsys.readouterr().out
        assert found == (whole[1] if told else whole[0])
        refused += bool(told)
    assert refused > few // 2


# ---- hostile checkpoints ----

OPEN = f"""
import json, resource, sys, time; sys.path.insert(0, {str(ROOT)!r})
import pathlib, torch
from arianna.formats import checkpoint
from arianna.training import run_folder, state
from arianna.training.settings import TrainConfig
def highest():
    # Linux carries the largest size of the process that started this one into ru_maxrss, but not into VmHWM
    status = pathlib.Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    known = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return known[0] if known else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in map(pathlib.Path, sys.argv[1:]):
    began, said = time.process_time(), ""
    try:
        found = checkpoint.load(path)
        run_folder.check_run(found, path)
        model = checkpoint.build_model(found, path)
        if "optimizer" in found:
            state.restore(found, TrainConfig(), path.parent, torch.device("cpu"))
    except (ValueError, OSError) as error:
        said = str(error)
    peak = highest()
    print(json.dumps([path.name, said, time.process_time() - began, peak]), flush=True)
"""


def test_a_hostile_checkpoint_runs_nothing_and_is_refused_in_a_sentence(tmp_path):
    trap = tmp_path / "trap"
    made = hostile.checkpoints(tmp_path / "files", trap)
    words = [sys.executable, "-c", OPEN, *map(str, made)]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    for n in times("hostile checkpoint", len(made), len(made)):
        name, said, seconds, kilobytes = told[n]
        assert name == made[n].name and said and "\n" not in said and len(said) < 500, told[n]
        assert hostile.REASONS.get(made[n].stem, "") in said, told[n]
        assert seconds < 5, f"{name} took {seconds} s of processor time"
        assert kilobytes < 1_000_000, f"{kilobytes} KB of memory after {name}"
    assert len(told) >= 20 and not trap.exists()


# ---- faulty conversations ----


def test_faulty_conversations_end_the_command_before_anything_is_written(tmp_path, monkeypatch):
    place = furnish(tmp_path)
    monkeypatch.chdir(place)
    names = list(FAULTS)
    for n in times("faulty conversations: each known fault", len(names), len(names)):
        path = write(tmp_path, FAULTS[names[n]][0], GOOD)
        with inputs_kept(place), pytest.raises(config.UsageError) as told:
            arianna_ft.main([f"--conversations={path}", "--base=base.pt"])
        assert f"{path}:21: " in str(told.value)
        assert not (place / "out").exists() and not list((place / "data").iterdir())


LINES = st.one_of(
    st.binary(max_size=80),
    st.builds(
        lambda at, put: GOOD[: at % len(GOOD)] + put + GOOD[at % len(GOOD) :],
        st.integers(0, 999),
        st.binary(max_size=4),
    ),
    st.builds(
        lambda at, n: GOOD[: at % len(GOOD)] + GOOD[at % len(GOOD) + n :],
        st.integers(0, 999),
        st.integers(1, 9),
    ),
)
EXAMPLES = 10_000 if FULL else 50


def test_fuzzed_lines_are_read_or_named(tmp_path):
    path = tmp_path / "fuzzed.jsonl"

    @settings(max_examples=EXAMPLES)
    @given(LINES)
    def holds(line):
        path.write_bytes(
            b"\n".join([*(GOOD.replace(b"a hill", b"hill %d" % i) for i in range(20)), line]) + b"\n"
        )
        try:
            assert survey(path, lambda said: None).conversations in (20, 21)
        except ValueError as error:
            assert str(error).startswith(f"{path}:2")
        assert [p.name for p in tmp_path.iterdir()] == [path.name]

    holds()
    TABLE["faulty conversations: fuzzed lines"] = [EXAMPLES, EXAMPLES]


# ---- tokenizers and models for llama2.c ----

FUZZ = f"""
import pathlib, random, sys; sys.path.insert(0, {str(ROOT)!r})
from arianna.formats import llama2c
from tokenizer import Tokenizer
kind, whole, scratch = sys.argv[1], pathlib.Path(sys.argv[2]).read_bytes(), pathlib.Path(sys.argv[3])
for seed in map(int, sys.argv[4:]):
    chosen, data = random.Random(seed), bytearray(whole)
    for _ in range(chosen.choice([1, 3, 30])):
        at = chosen.randrange(len(data) if chosen.random() < 0.5 else min(len(data), 400))
        how = chosen.randrange(4) if len(data) > 99 else 0
        if how == 0: data[at] = chosen.randrange(256)
        elif how == 1: data[at:at] = chosen.randbytes(chosen.randrange(1, 9))
        elif how == 2: del data[at : at + chosen.randrange(1, 9)]
        elif chosen.random() < 0.2 and at: del data[at:]
    scratch.write_bytes(data)
    try:
        if kind == "bin":
            llama2c.read(scratch)
        else:
            tokenizer = Tokenizer(scratch)
            text = "Q: What is resonance?\\nA: It is\\u2014I think\\u2014a house, 42 doors \\U0001f600."
            ids = tokenizer.encode(text)
            tokenizer.decode(ids); tokenizer.to_bin()
        said = "read"
    except (ValueError, OSError) as error:
        said = "refused"
        assert "\\n" not in str(error)
    print(seed, said, flush=True)
"""


@pytest.mark.parametrize("kind", ["tokenizer", "bin"])
def test_a_fuzzed_file_ends_no_process_by_a_signal(tmp_path, kind):
    whole = ROOT / "data/tok4096.model"
    if kind == "bin":
        whole = tmp_path / "whole.bin"
        write_model(build(TINY), whole)
    before = whole.read_bytes()
    seeds = [str(n) for n in range(200 if FULL else 10)]
    words = [sys.executable, "-c", FUZZ, kind, str(whole), str(tmp_path / "fuzzed"), *seeds]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    told = done.stdout.splitlines()
    for n in times(f"hostile {kind}", len(seeds), len(seeds)):
        assert n < len(told), f"seed {n} ended the process with {done.returncode}: {done.stderr[-500:]}"
    assert done.returncode == 0 and any("refused" in line for line in told), done.stderr
    assert whole.read_bytes() == before
    row = TABLE.setdefault(INPUTS, [0, 0])
    row[:] = row[0] + 1, row[1] + 1
