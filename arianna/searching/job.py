"""The messages between a search and its workers, as JSON in its folder. Standard library only."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from arianna.system.files import write_atomic


@dataclass(frozen=True)
class Wanted:
    """The user's wishes for a search."""

    hours: float
    workers: int | None = None
    storage: str | None = None
    max_forgetting: float = 0.10


@dataclass(frozen=True)
class Job:
    """Everything that a worker knows: nothing in it leads to the conversations held out for the verdict."""

    base: str
    trainer: dict[str, Any]  # fields of TrainConfig; a unit's settings and folders win over them
    max_forgetting: float
    storage: str | None
    facts: dict[str, Any]  # the study's must be the same
    fixed: dict[str, Any]  # settings that are not searched
    cost: dict[str, Any]  # fields of Cost
    place: str  # the name of this search among those at its study
    until: float  # the time at which the last trial must have ended, as time.time() tells it
    longest: float  # seconds that a trial may take


@dataclass(frozen=True)
class Unit:
    """A run of the search: training with a seed up to a stop."""

    data: str  # a folder of the search's: a fold, or all conversations
    settings: dict[str, Any]  # fields of TrainConfig
    seed: int
    stop: int | None = None  # end after so many iterations and score there alone; None: score at every stop
    keep: str | None = None  # where its weights are written


@dataclass(frozen=True)
class Chosen:
    """The trial that a search has chosen, and how the end goes. Stored, so that it is chosen once."""

    number: int
    params: dict[str, Any]
    fixed: dict[str, Any]
    value: float  # mean loss of held-out answers over the folds, as the guard leaves them
    base: float  # the base's on the same folds
    stop: float  # share of the iterations that are taken
    seeds: int
    folds: int  # on which averages are tried


def put(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value if isinstance(value, dict) else asdict(value)).encode())
