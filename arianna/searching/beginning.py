"""The beginning of a search: folds, the cost of a run, fixed settings, facts that its study must share."""

from __future__ import annotations

import hashlib
import socket
import uuid
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from arianna.corpus.conversations import Conversation
from arianna.corpus.parallel import cores
from arianna.formats import open_model
from arianna.searching import folds
from arianna.searching.budget import Cost
from arianna.searching.job import Wanted
from arianna.searching.space import BATCHES, USUAL
from arianna.system import resources
from arianna.system.files import sha256, write_atomic
from arianna.training import needs
from arianna.training.devices import pick_device
from arianna.training.settings import TrainConfig
from arianna_data import Rows
from model import Transformer
from tokenizer import Tokenizer

# settings of the trainer that are a run's own
OWN = "out_dir fresh data_dir tokenizer patience tensorboard wandb compile warmup_iters".split()


def prepare_folds(
    conversations: Iterable[Conversation],
    tokenizer: Tokenizer,
    trainer: TrainConfig,
    base: Transformer,
    folder: Path,
) -> None:
    """Write the folds' shards from the conversations to train on."""
    longest = base.args.max_seq_len
    own = longest if trainer.max_seq_len is None else open_model(trainer.base).args.max_seq_len
    folds.write_folds(folds.gathered(conversations), tokenizer, (longest, own), folder)


def cost_of(trainer: TrainConfig, base: Transformer, folder: Path) -> Cost:
    shape = (base.args.max_seq_len, base.args.vocab_size)
    rows = Rows(folder / folds.ALL, "train", *shape)
    texts = Path(trainer.base_text_dir).glob("val*.bin")
    return Cost(len(rows), float(rows.lengths.mean()), shape[0], sum(f.stat().st_size // 2 for f in texts))


def fixed_settings(trainer: TrainConfig, typed: set[str]) -> dict[str, Any]:
    """Settings that could be searched and are not, because the user gave them."""
    return {name: getattr(trainer, name) for name in sorted({"max_iters", "learning_rate", *USUAL} & typed)}


def facts(wanted: Wanted, trainer: TrainConfig, fixed: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Facts on which a trial's value depends, besides its settings, by names fit for a sentence."""
    shards = "".join(sha256(f) for f in sorted((folder / folds.ALL).glob("train*")))
    known = Path(trainer.base_text_dir) / "val_text.bin"
    return {
        "conversations": hashlib.sha256(shards.encode()).hexdigest(),
        "base": sha256(trainer.base),
        "base text": sha256(known) if known.exists() else None,
        "max_forgetting": wanted.max_forgetting,
        "settings given": fixed,
        "folds": folds.FOLDS,
    }


def shared_settings(trainer: TrainConfig) -> dict[str, Any]:
    """The trainer's settings that are the same in all runs of a search."""
    return {name: value for name, value in asdict(trainer).items() if name not in OWN}


def workers_for(asked: int | None, trainer: TrainConfig, base: Transformer) -> int:
    """The number of processes: as asked; else one for a GPU, or one a core, as far as memory lasts.

    Raises ValueError if there is no memory for one, or for those that are asked for.
    """
    if asked is None and pick_device(trainer.device).type != "cpu":
        return 1
    args, parameters = base.args, sum(p.numel() for p in base.parameters())
    numbers = max(BATCHES) * args.max_seq_len * args.n_layers * (16 * args.dim + 4 * args.hidden)
    each, left = needs.bytes_in_memory(parameters, numbers), resources.memory_left()
    resources.check_memory(each * (asked or 1))
    return asked or (cores() if left is None else max(1, min(cores(), int(left) // each)))


def place_of(folder: Path) -> str:
    """The name of this search among those at its study: the machine, and a number drawn once."""
    path = folder / "place"
    if not path.exists():
        write_atomic(path, f"{socket.gethostname()} {uuid.uuid4().hex[:12]}".encode())
    return path.read_text()
