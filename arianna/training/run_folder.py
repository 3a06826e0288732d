"""A run's folder: its two latest states, what was stored about how it was started, its log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arianna.formats import checkpoint
from arianna.system import processes, settings_file
from arianna.system.config import UsageError
from arianna.system.files import append, rename_aside, sha256, sync, write_atomic

if TYPE_CHECKING:
    from arianna.training.dashboards import Dashboards

RUN_FORMAT = 1  # of the `run` entry in our checkpoints
NEWEST, BEFORE = "ckpt.pt", "ckpt_prev.pt"


class Refused(UsageError):
    """The run cannot be started as asked."""


class Log:
    """log.jsonl for programs and train.log for people, written line by line. One that does not speak keeps nothing."""

    def __init__(self, folder: Path, speaks: bool = True):
        self.speaks = speaks
        self.boards: Dashboards | None = None  # where they are to follow
        self.lines = open(folder / "log.jsonl", "ab", buffering=0)
        self.text = open(folder / "train.log", "ab", buffering=0)
        if self.lines.tell() and not (folder / "log.jsonl").read_bytes().endswith(b"\n"):
            append(self.lines, "")  # a crash cut the last line off

    def say(self, line: str) -> None:
        if self.speaks:
            print(line, flush=True)
            append(self.text, line)

    def record(self, **entry: Any) -> None:
        if self.speaks:
            append(self.lines, json.dumps(entry))
            if self.boards and "step" in entry:
                self.boards.follow(entry["step"], entry)

    def sync(self) -> None:
        """Before a state is saved: what its steps and evaluations logged must not be lost when they are not done again."""
        sync(self.lines)

    def close(self) -> None:
        if self.boards:
            self.boards.close()
        self.lines.close()
        self.text.close()


def latest_state(folder: Path, set_damaged_aside: bool = False) -> dict[str, Any] | None:
    """The newest valid of the two latest states by step, or None. A damaged one is named, and set aside where asked."""
    states = []
    for path in (folder / NEWEST, folder / BEFORE):
        try:
            state = checkpoint.load(path)
            check_run(state, path)
            states.append(state)
        except FileNotFoundError:
            continue
        except ValueError as error:
            print(error, flush=True)
            if set_damaged_aside:
                aside = path.with_name(f"{path.name}.damaged")
                path.replace(aside)
                print(f"{path} is kept as {aside}; the other state is used, if there is one", flush=True)
    return max(states, key=lambda s: s.get("iter_num", -1), default=None)


def check_run(state: dict[str, Any], path: Path) -> None:
    """Raise ValueError unless a loaded checkpoint's step, and if it is a state of a run what was stored of that, are of their kinds."""
    run = state.get("run", {"config": {}, "inputs": {}, "best_step": -1, "seconds": 0.0})
    kinds = {"config": dict, "inputs": dict, "best_step": int, "seconds": float}
    fits = isinstance(run, dict) and all(isinstance(run.get(name), kind) for name, kind in kinds.items())
    if not fits or not isinstance(state.get("iter_num", 0), int):
        raise ValueError(f"{path} is damaged or not a state of a run: its 'run' or 'iter_num' is of another kind. Use another copy of it.")


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write the newest state; the one that was newest is kept as the one before, once the new one is safely on the disk."""

    def keep(fresh: Path) -> None:
        if (folder / NEWEST).exists():
            (folder / NEWEST).replace(folder / BEFORE)

    checkpoint.save(folder / NEWEST, state, keep)


def keep_settings(folder: Path, cfg: Any) -> None:
    """Write config.toml, which repeats the run. That of arianna_ft.py, which has a job.json, holds more and is left alone."""
    if not (folder / "job.json").exists():
        write_atomic(folder / settings_file.NAME, settings_file.text_of(cfg, without=("fresh",)).encode())


def check_same_run(run: dict[str, Any], settings: dict[str, Any], inputs: dict[str, str], free: set[str], folder: Path) -> None:
    """Raise Refused if settings (but for the free ones) or inputs are others than those the stored run was started with."""
    if run.get("format") != RUN_FORMAT:
        raise Refused(f"{folder} holds a run of format {run.get('format')}; this program writes {RUN_FORMAT}. Begin anew with --fresh.")
    then = run["config"]
    changed = [f"{k} is {v}, was {then.get(k)}" for k, v in settings.items() if k not in free and v != then.get(k)]
    names = sorted(inputs.keys() | run["inputs"].keys())
    changed += [f"{k} has other contents" for k in names if inputs.get(k) != run["inputs"].get(k)]
    if changed:
        raise Refused(
            f"{folder} holds a run that was started differently: {'; '.join(changed)}. "
            "Give the old values to go on, --fresh to begin anew (the old folder is kept), or another --out_dir."
        )


def hash_inputs(base: str | None, folders: dict[str, str | None]) -> dict[str, str]:
    """One SHA-256 per input file, named by its part in the run rather than by its path."""
    found = {"base": sha256(base)} if base else {}
    for part, folder in folders.items():
        for file in sorted(Path(folder).glob("*")) if folder else []:
            if file.suffix in (".bin", ".mask"):
                found[f"{part}/{file.name}"] = sha256(file)
    return found


def set_aside(folder: Path) -> None:
    """Rename a run's folder to folder-1 (or the first number that is free)."""
    if not folder.exists():
        return
    with processes.lock(folder):  # a run that is at work there would go on writing under the old name
        pass
    print(f"the old {folder} is now {rename_aside(folder).name}", flush=True)
