"""What a search begins with: its folds, what a run costs, what is fixed, what its study must agree with."""

from __future__ import annotations

import hashlib
import socket
import uuid
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from arianna.corpus.conversations import Conversation
from arianna.formats import open_model
from arianna.searching import folds
from arianna.searching.budget import Cost
from arianna.searching.job import Wanted
from arianna.searching.space import USUAL
from arianna.system.files import sha256, write_atomic
from arianna.training.settings import TrainConfig
from arianna_data import Rows
from model import Transformer
from tokenizer import Tokenizer


def prepare_folds(
    conversations: Iterable[Conversation],
    tokenizer: Tokenizer,
    trainer: TrainConfig,
    base: Transformer,
    folder: Path,
) -> None:
    """Write the folds' shards from the conversations to train on."""
    own = base.args.max_seq_len if trainer.max_seq_len is None else open_model(trainer.base).args.max_seq_len
    folds.write_folds(folds.gathered(conversations), tokenizer, (base.args.max_seq_len, own), folder)


def cost_of(trainer: TrainConfig, base: Transformer, folder: Path) -> Cost:
    shape = (base.args.max_seq_len, base.args.vocab_size)
    rows = Rows(folder / folds.ALL, "train", *shape)
    texts = sorted(Path(trainer.base_text_dir).glob("val*.bin"))
    return Cost(len(rows), float(rows.lengths.mean()), shape[0], sum(f.stat().st_size // 2 for f in texts))


def fixed_settings(trainer: TrainConfig, given: set[str]) -> dict[str, Any]:
    """Of what is searched, the settings that the user gave: they are not searched."""
    names = {"max_iters", *USUAL, "learning_rate"} & given
    return {name: getattr(trainer, name) for name in sorted(names) if hasattr(trainer, name)}


def facts(wanted: Wanted, trainer: TrainConfig, fixed: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What a trial's value depends on beside its settings, by the words of a sentence; the same on every machine."""
    shards = sorted((folder / folds.ALL).glob("train*"))
    digest = hashlib.sha256("".join(sha256(f) for f in shards).encode()).hexdigest()
    known = Path(trainer.base_text_dir) / "val_text.bin"
    return {
        "conversations": digest,
        "base": sha256(trainer.base),
        "base text": sha256(known) if known.exists() else None,
        "max_forgetting": wanted.max_forgetting,
        "settings given": fixed,
        "folds": folds.FOLDS,
    }


def job_settings(trainer: TrainConfig, base_text: Path) -> dict[str, Any]:
    """The trainer's settings that all units share, without those that are a run's own."""
    left_out = (
        "out_dir",
        "fresh",
        "data_dir",
        "tokenizer",
        "patience",
        "nproc",
        "tensorboard",
        "wandb",
        "compile",
        "warmup_iters",
    )
    kept = {name: value for name, value in asdict(trainer).items() if name not in left_out}
    return {**kept, "base_text_dir": str(base_text)}


def place_of(folder: Path) -> str:
    """The name of this search among those at its study: the machine, and a number drawn once."""
    path = folder / "place"
    if not path.exists():
        write_atomic(path, f"{socket.gethostname()} {uuid.uuid4().hex[:12]}".encode())
    return path.read_text()
