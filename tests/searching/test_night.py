"""A whole search of a tiny model, by its own processes: what it leaves, that it goes on, and what it never sees."""

import json
import os
from pathlib import Path

import pytest
from helpers import ROOT, furnish

pytest.importorskip("optuna")
pytest.importorskip("scipy")

from arianna import search
from arianna.corpus import conversations
from arianna.corpus.encoding import prepare_conversations, write_prepared
from arianna.formats import open_model
from arianna.scoring import base_text
from arianna.searching import budget
from arianna.searching.job import Wanted
from arianna.training.settings import TrainConfig
from tokenizer import Tokenizer

TOKENIZER = str(ROOT / "data/tok4096.model")
QUICK = frozenset({"max_iters", "batch_size"})


def place(tmp_path: Path) -> Path:
    """A folder with a run's data and base text, as the pipeline leaves them before it trains."""
    furnish(tmp_path)
    talk = conversations.read(tmp_path / "talk.jsonl").conversations
    base, tokenizer = open_model(tmp_path / "base.pt"), Tokenizer(TOKENIZER)
    run = tmp_path / "out/ft"
    write_prepared(prepare_conversations(*conversations.split(talk), tokenizer, 64, 64)[0], run / "data")
    write_prepared(base_text.files(base, tokenizer, run / "base_text", None, True), run / "base_text")
    return tmp_path


def settings(tmp_path: Path, **changes) -> TrainConfig:
    run = tmp_path / "out/ft"
    folders = {"data_dir": str(run / "data"), "base_text_dir": str(run / "base_text"), "out_dir": str(run)}
    return TrainConfig(base=str(tmp_path / "base.pt"), tokenizer=TOKENIZER, **folders, **changes)


def searched(tmp_path: Path, hours: float = 10.0, given: frozenset[str] = QUICK, **changes) -> int:
    talk = conversations.read(tmp_path / "talk.jsonl").conversations
    train, _ = conversations.split(talk)
    wanted = Wanted(hours, **{"workers": 2, **changes.pop("wanted", {})})
    cfg = settings(tmp_path, **{"max_iters": 5, "batch_size": 2, **changes})
    return search.search(wanted, cfg, train, Tokenizer(TOKENIZER), set(given))


@pytest.fixture
def few(monkeypatch):
    """The time of a search is over after so many trials, whatever the clock says."""

    def after(trials: int) -> None:
        monkeypatch.setattr(
            budget.Clock, "left", property(lambda clock: 1e5 if number_of(clock.path) < trials else 0.0)
        )

    return after


def number_of(path: Path) -> int:
    try:
        return len(json.loads((path.parent.parent / "search.json").read_bytes())["trials"])
    except OSError:
        return 0


def test_a_search_leaves_a_run_and_what_it_tried(tmp_path, capfd, few):
    few(4)
    assert searched(place(tmp_path)) == 0
    print(capfd.readouterr().out)
    print((tmp_path / "out/ft/search.json").read_text())
    print((tmp_path / "out/ft/log.jsonl").read_text())
    os.system(f"find {tmp_path}/out -type f | xargs ls -la")
    assert 0
