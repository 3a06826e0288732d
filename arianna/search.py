"""A search over settings: what `arianna_ft.py --hours=8` calls, and one of the processes that it starts.

    python arianna_ft.py --hours=8                # searches, trains with the best, exports and reports
    python arianna_ft.py --hours=8 --storage=/shared/night.log              # the same on several machines

A worker (`python -m arianna.search --folder=out/ft/search`) is started by that command. It asks the search's
study for settings, tries them on folds of the conversations to train on, and tells it the results.
"""

from __future__ import annotations

if __name__ == "__main__":  # before torch is imported: allocator and threads read their settings at the start
    from arianna.system import environment

    environment.prepare(lasting=True)

import importlib.util
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from arianna.searching.job import Wanted
from arianna.system import config, processes
from arianna.system.config import UsageError

if TYPE_CHECKING:
    from arianna.corpus.conversations import Conversation
    from arianna.training.settings import TrainConfig
    from tokenizer import Tokenizer

NEEDED = ("optuna", "scipy")  # packages of the extra `search`


@dataclass(frozen=True)
class WorkerConfig:
    """A worker's settings: all others stand in its job."""

    folder: str = "out/ft/search"  # the search's folder, which holds job.json and the folds
    number: int = 0  # this worker's number, from 0
    of: int = 1  # how many there are


def check(hours: float) -> None:
    """Raise UsageError for impossible hours, or where Optuna is missing. Imports nothing large."""
    if not 0 < hours < math.inf:
        raise UsageError(f"hours is {hours:g}; it must be a number above 0.")
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        names = " and ".join(missing)
        raise UsageError(f"--hours needs {names}, not installed here: pip install {' '.join(NEEDED)}")


def search(
    wanted: Wanted,
    trainer: TrainConfig,
    conversations: Iterable[Conversation],
    tokenizer: Tokenizer,
    typed: set[str] | None = None,
) -> int:
    """Search settings on folds of the conversations to train on, train with the best; returns the exit code.

    The run's folder holds its data and base text before, and afterwards search.json and what a run of the
    trainer leaves. `typed`: settings of the trainer that the user gave; they are not searched. Raises
    UsageError, and OSError where the machine fails: the same command goes on from there.
    """
    check(wanted.hours)
    from arianna.searching import night  # Optuna comes with it

    return night.search(wanted, trainer, conversations, tokenizer, typed or set())


def main(argv: list[str] | None = None) -> int:
    cfg = config.parse(WorkerConfig, argv, __doc__)
    if not (Path(cfg.folder) / "job.json").is_file():
        raise UsageError(f"{cfg.folder} holds no search; arianna_ft.py --hours starts one, and its workers.")
    processes.watch_parent()
    from arianna.searching import worker

    try:
        worker.work(Path(cfg.folder), cfg.number, cfg.of)
    except OSError as error:
        print(config.in_words(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    config.run_main(main)
