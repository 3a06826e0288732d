"""What several tests of a search build: a run's folder as the pipeline leaves it, and a search in it."""

import json
from pathlib import Path

from helpers import ROOT, furnish

from arianna import search
from arianna.corpus.encoding import prepare_conversations
from arianna.corpus.prepare import read_conversations
from arianna.corpus.split import split_sides
from arianna.formats import open_model
from arianna.scoring import base_text
from arianna.searching.job import Wanted
from arianna.system.files import write_missing
from arianna.training.settings import TrainConfig
from tokenizer import Tokenizer

TOKENIZER = str(ROOT / "data/tok4096.model")
GIVEN = {"max_iters", "batch_size"}  # so that a run of a tiny model takes a blink


def place(folder: Path) -> Path:
    """A folder with a tiny base, conversations, and a run's data and base text."""
    furnish(folder)
    base, tokenizer, run = open_model(folder / "base.pt"), Tokenizer(TOKENIZER), folder / "out/ft"
    halves = split_sides(read_conversations(folder / "talk.jsonl"))
    write_missing(prepare_conversations(*halves, tokenizer, 64, 64)[0], run / "data")
    write_missing(base_text.files(base, tokenizer, run / "base_text", None, True), run / "base_text")
    return folder


def settings(folder: Path, **changes) -> TrainConfig:
    run = folder / "out/ft"
    folders = {"data_dir": str(run / "data"), "base_text_dir": str(run / "base_text"), "out_dir": str(run)}
    quick = {"max_iters": 5, "batch_size": 2, "dtype": "float32"}
    return TrainConfig(base=str(folder / "base.pt"), tokenizer=TOKENIZER, **folders, **{**quick, **changes})


def searched(
    folder: Path, hours: float = 10.0, workers: int = 1, storage: str | None = None, **changes
) -> int:
    train, _ = split_sides(read_conversations(folder / "talk.jsonl"))
    wanted = Wanted(hours, workers, storage)
    return search.search(wanted, settings(folder, **changes), train, Tokenizer(TOKENIZER), GIVEN)


def tried(folder: Path) -> dict:
    """What a search has told so far."""
    path = folder / "out/ft/search.json"
    return json.loads(path.read_bytes()) if path.exists() else {"trials": []}
