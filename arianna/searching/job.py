"""What a search's command and its workers tell each other. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Wanted:
    """What the user asked of a search."""

    hours: float
    workers: int | None = None
    storage: str | None = None
    max_forgetting: float = 0.10


@dataclass(frozen=True)
class Job:
    """What all units of a search share; written to job.json by the command that starts the workers."""

    base: str
    trainer: dict[str, Any]  # of TrainConfig; a unit's settings and folders win over it
    max_forgetting: float
    folds: str  # folder of the folds' shards


@dataclass(frozen=True)
class Unit:
    """What a worker is asked to do."""

    data: str  # a folder within the job's: a fold, or all conversations
    settings: dict[str, Any] = field(default_factory=dict)  # of TrainConfig
    seed: int = 1337
    stop: int | None = None  # end after so many iterations and score there alone; None: score at every stop
    keep: str | None = None  # a file for the weights at the end
    files: tuple[str, ...] = ()  # weights to average and score instead of training
    timed: bool = False  # only time a few steps


def from_line(told: dict[str, Any]) -> Unit:
    """A unit that came as JSON, which has lists where we have tuples."""
    return Unit(**{**told, "files": tuple(told["files"])})


@dataclass(frozen=True)
class Chosen:
    """What a search has chosen, and how its end goes; kept in chosen.json, so that it is chosen once."""

    number: int
    params: dict[str, Any]
    fixed: dict[str, Any]  # settings that were not searched
    value: float  # mean loss of held-out answers over the folds, as the guard leaves them
    base: float  # the base's on the same folds
    stop: float  # share of the iterations that are taken
    seeds: int
    folds: int  # on which averages are tried
