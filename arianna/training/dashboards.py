"""Dashboards that follow a run's log: TensorBoard (--tensorboard) and Weights & Biases (--wandb).

A run that goes on has the same curves: a dashboard gets what it lacks from log.jsonl, where the last line of
a step counts, and no step twice.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from arianna.system.config import UsageError
from arianna.system.files import write_atomic
from arianna.system.visible import one_line
from arianna.training.log import read_log
from arianna.training.settings import TrainConfig


def check(cfg: TrainConfig) -> None:
    """Raise UsageError if a dashboard is asked for whose package is not installed."""
    for name in BOARDS:
        if getattr(cfg, name) and importlib.util.find_spec(name) is None:
            raise UsageError(f"--{name} needs the package {name}, which is not installed: pip install {name}")


class TensorBoard:
    """Event files in the run's folder `tensorboard`, made anew from the log at each start."""

    first = 0  # the first step that it lacks

    def __init__(self, folder: Path, cfg: TrainConfig):
        from torch.utils.tensorboard import SummaryWriter

        for old in (folder / "tensorboard").glob("events.out.tfevents.*"):
            old.unlink()
        # purge_step: a TensorBoard that has read the old files drops them
        self.writer = SummaryWriter(folder / "tensorboard", purge_step=0)

    def add(self, step: int, numbers: dict[str, float], samples: dict[str, str]) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)
        for question, answer in samples.items():
            self.writer.add_text(f"samples/{question}", answer, step)

    def conclude(self, step: int, verdict: str) -> None:
        self.writer.add_text("verdict", verdict, step)

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A run whose name stands in the folder's wandb.id, so that each start goes on with it."""

    def __init__(self, folder: Path, cfg: TrainConfig):
        import wandb

        name = folder / "wandb.id"
        if not name.exists():
            write_atomic(name, secrets.token_hex(4).encode())
        self.wandb, project = wandb, os.environ.get("WANDB_PROJECT", "innerarianna")
        where = {"project": project, "id": name.read_text(), "dir": str(folder)}
        settings = {"config": dataclasses.asdict(cfg), "allow_val_change": True}
        self.run = wandb.init(**where, **settings, resume="allow")
        self.first = self.run.starting_step

    def add(self, step: int, numbers: dict[str, float], samples: dict[str, str]) -> None:
        if samples:
            table = self.wandb.Table(["question", "answer"], [[*pair] for pair in samples.items()])
            numbers = numbers | {"samples": table}
        self.run.log(numbers, step=step)

    def conclude(self, step: int, verdict: str) -> None:
        self.run.summary["verdict"] = verdict

    def close(self) -> None:
        self.run.finish()


BOARDS = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}  # by their flags, which name their packages


class Dashboards:
    """The dashboards that a run asked for. One that fails is left out: none is worth a night's training."""

    def __init__(self, cfg: TrainConfig, folder: Path):
        self.folder, self.behind = folder, True
        self.boards = [opened(name, folder, cfg) for name in BOARDS if getattr(cfg, name)]

    def follow(self, step: int, entry: dict[str, Any]) -> None:
        """Show an entry that is in the log; ahead of the first one, all that was logged of steps before."""
        if self.behind:
            self.catch_up(step)
        self.show(step, entry)

    def catch_up(self, end: float) -> int:
        """Show what was logged before the step `end`; returns the last step."""
        self.behind, shown = False, 0
        for step, entry in sorted(read_log(self.folder).items()):
            if step < end:
                self.show(step, entry)
                shown = step
        return shown

    def show(self, step: int, entry: dict[str, Any]) -> None:
        values, samples = numbers(entry), entry.get("samples", {})
        self.each(lambda board: board.add(step, values, samples) if step >= board.first else None)

    def each(self, do: Callable[[Any], None]) -> None:
        for board in [*self.boards]:
            try:
                do(board)
            except Exception as error:
                self.boards.remove(board)
                print(f"{type(board).__name__} is left out from here on: {one_line(error)}", flush=True)

    def close(self) -> None:
        self.each(lambda board: board.close())


def opened(name: str, folder: Path, cfg: TrainConfig) -> Any:
    try:
        return BOARDS[name](folder, cfg)
    except Exception as error:  # wandb has errors of its own: not logged in, no network
        hint = "; `wandb login` once, or set WANDB_MODE=offline" if name == "wandb" else ""
        raise UsageError(f"--{name} cannot be used: {one_line(error)}{hint}.") from None


def numbers(entry: dict[str, Any], within: str = "") -> dict[str, float]:
    """The numbers of an entry by name, those of an object within it as object/name."""
    flat: dict[str, float] = {}
    for name, value in entry.items():
        if isinstance(value, dict):
            flat |= numbers(value, f"{within}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and name != "step":
            flat[f"{within}{name}"] = value
    return flat


def conclude(cfg: TrainConfig, folder: Path, verdict: str) -> None:
    """Show the verdict of a run that is over."""
    try:
        boards = Dashboards(cfg, folder)
    except UsageError as error:  # the run is done, with or without it
        print(error, flush=True)
        return
    last = boards.catch_up(float("inf"))
    boards.each(lambda board: board.conclude(last, verdict))
    boards.close()
