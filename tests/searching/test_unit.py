"""Units of a search's work: what a worker does and sees."""

import sys
from pathlib import Path

import pytest
import torch
from nights import TOKENIZER, place, settings

from arianna.corpus.prepare import read_conversations
from arianna.corpus.split import split_sides
from arianna.formats import checkpoint, open_model
from arianna.searching import unit as units
from arianna.searching.folds import ALL, gathered, write_folds
from arianna.searching.job import Job, Unit
from arianna.searching.unit import Bench, averaged
from arianna.system.files import sha256
from tokenizer import Tokenizer

SETTINGS = {"max_iters": 6, "batch_size": 2, "learning_rate": 1e-3, "replay": 0.5}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = place(tmp_path_factory.mktemp("home"))
    train, _ = split_sides(read_conversations(folder / "talk.jsonl"))
    write_folds(gathered(train), Tokenizer(TOKENIZER), (64, 64), folder / "out/ft/search")
    return folder


def bench(home: Path, budget: float = 10.0) -> Bench:
    cfg = settings(home)
    trainer = {"base_text_dir": cfg.base_text_dir, "device": "cpu", "dtype": "float32"}
    job = Job(cfg.base, trainer, budget, None, {}, {}, {}, "here", 0.0, 0.0)
    return Bench(job, open_model(job.base), home / "out/ft/search")


def test_a_run_is_scored_at_its_stops_and_the_best_is_used(home):
    answer = bench(home).do(Unit("0", SETTINGS, 1337))
    assert [step for step, _ in answer["points"]] == [2, 4, 5, 6] and answer["step"] == 6
    assert answer["answers"] == min(loss for _, loss in answer["points"])
    assert answer["answers"] < answer["base"] and answer["seconds"] > 0


def test_the_same_unit_gives_the_same_answer_and_another_seed_another(home):
    first, again = (bench(home).do(Unit("1", SETTINGS, 1337)) for _ in range(2))
    other = bench(home).do(Unit("1", SETTINGS, 5))
    assert first["points"] == again["points"] != other["points"]


def test_a_run_that_forgets_too_much_is_blended_and_beyond_that_it_is_the_base(home):
    eager = SETTINGS | {"learning_rate": 2e-3, "max_iters": 20, "replay": 0.0}
    free = bench(home).do(Unit("0", eager, 1337))
    assert free["forgetting"] > 0
    held = bench(home, budget=free["forgetting"] / 2).do(Unit("0", eager, 1337))
    assert held["forgetting"] <= free["forgetting"] / 2
    none = bench(home, budget=-1.0).do(Unit("0", eager, 1337))  # no blend keeps within it
    assert none["answers"] >= none["base"] > free["answers"]


def test_numbers_that_are_no_longer_finite_are_told_as_diverged(home, monkeypatch):
    def broken(*given):
        raise FloatingPointError("step 3: loss nan")

    monkeypatch.setattr(units.train_arianna, "train_step", broken)
    assert bench(home).do(Unit("0", SETTINGS, 1337))["diverged"] == "step 3: loss nan"


def test_weights_are_kept_at_the_stop_and_averaged(home, tmp_path):
    worker, files = bench(home), [str(tmp_path / f"{seed}.pt") for seed in (1, 2)]
    for seed, file in zip((1, 2), files, strict=True):
        answer = worker.do(Unit("2", SETTINGS, seed, stop=4, keep=file))
        assert answer["step"] == 4 and [step for step, _ in answer["points"]] == [4]
    model, step = averaged([Path(f) for f in files])
    first, second = (checkpoint.load(f)["model"] for f in files)
    assert step == 4
    for name, weight in model.state_dict().items():
        assert torch.allclose(weight, (first[name] + second[name]) / 2, atol=1e-7)
    soup = worker.soup(Unit("2", SETTINGS, 1), [Path(f) for f in files])
    assert soup["answers"] < soup["base"] and soup["points"][0][0] == 4


def test_where_all_is_trained_nothing_is_scored(home, tmp_path):
    answer = bench(home).do(Unit(ALL, SETTINGS, 1337, stop=5, keep=str(tmp_path / "all.pt")))
    assert answer["step"] == 5 and "points" not in answer and "answers" not in answer
    assert answer["losses"][-1][0] == 5 and (tmp_path / "all.pt").exists()


def test_a_worker_opens_no_file_that_holds_a_held_out_token(home, tmp_path):
    opened: set[str] = set()
    sys.addaudithook(lambda event, args: opened.add(str(args[0])) if event == "open" else None)
    base = sha256(home / "base.pt")
    opened.clear()
    worker = bench(home)
    for unit in (Unit("3", SETTINGS, 1337), Unit(ALL, SETTINGS, 1337, 5, str(tmp_path / "all.pt"))):
        worker.do(unit)
    read = {Path(p) for p in opened if str(home) in p}
    run = home / "out/ft"
    assert read and all(
        p == home / "base.pt" or run / "search" in p.parents or run / "base_text" in p.parents for p in read
    )
    assert sha256(home / "base.pt") == base
