"""A run's folder: its two latest states, and how the run was started."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arianna.formats import checkpoint
from arianna.system import config, processes
from arianna.system.config import UsageError
from arianna.system.files import sha256, write_atomic
from arianna.system.rollback import rolled_back
from arianna.training.settings import FREE, TrainConfig, learning_rate

RUN_FORMAT = 1  # the version of the `run` entry in our checkpoints
NEWEST, BEFORE = "ckpt.pt", "ckpt_prev.pt"


class RefusedError(UsageError):
    """The run cannot be started as asked."""


def latest_state(folder: Path, set_damaged_aside: bool = False) -> dict[str, Any] | None:
    """The newest undamaged state of the two, or None. A damaged one is named, and set aside where asked."""
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


def check_state(folder: Path) -> None:
    """Raise RefusedError for a run that has lost its states: begun anew, it would write over its weights."""
    weights = [path for path in folder.glob("ckpt_[0-9]*.pt") if int(path.stem.split("_")[1])]
    if len(weights) > 1:  # the first is written just before the first state
        raise RefusedError(
            f"{folder / NEWEST} and {BEFORE} are missing or damaged; the run in {folder} goes on from them, "
            f"and {len(weights)} of its evaluations have left weights there. "
            "Put one of the two back, or begin anew with --fresh (the old folder is kept)."
        )


def check_run(state: dict[str, Any], path: Path) -> None:
    """Raise ValueError unless a checkpoint's step and `run` entry (if it has one) have the right types."""
    run = state.get("run", {"config": {}, "inputs": {}, "best_step": -1, "seconds": 0.0})
    kinds = {"config": dict, "inputs": dict, "best_step": int, "seconds": float}
    fits = isinstance(run, dict) and all(isinstance(run.get(name), kind) for name, kind in kinds.items())
    fits = fits and run.get("dtype") in (None, "float32", "bfloat16")
    if not fits or not isinstance(state.get("iter_num", 0), int):
        raise ValueError(
            f"{path} is damaged or not a state of a run: its 'run' or 'iter_num' is of another kind. "
            "Use another copy of it."
        )


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write the newest state; the one before it is renamed only once the new one is safely on the disk."""

    def keep(fresh: Path) -> None:
        if (folder / NEWEST).exists():
            (folder / NEWEST).replace(folder / BEFORE)

    checkpoint.save(folder / NEWEST, state, keep)


def keep_settings(folder: Path, cfg: Any) -> None:
    """Write config.toml, with which the run can be repeated; arianna_ft.py's own, beside job.json, stays."""
    if not (folder / "job.json").exists():
        write_atomic(folder / config.SETTINGS_FILE, config.text_of(cfg, without=("fresh",)).encode())


def check_same_run(
    run: dict[str, Any], step: int, cfg: TrainConfig, inputs: dict[str, str], folder: Path
) -> None:
    """Raise RefusedError if inputs, or settings that change the weights, are not the stored run's.

    `step` is the next one. A setting that the run did not know yet had its default.
    """
    if run.get("format") != RUN_FORMAT:
        raise RefusedError(
            f"{folder} holds a run of format {run.get('format')}; this program writes {RUN_FORMAT}. "
            "Begin anew with --fresh."
        )
    then = {field.name: field.default for field in dataclasses.fields(cfg)} | run["config"]
    free = FREE | ({"max_iters"} if same_rates(cfg, then["max_iters"], step) else set())
    now = dataclasses.asdict(cfg)
    changed = [f"{k} is {v}, was {then[k]}" for k, v in now.items() if k not in free and v != then[k]]
    changed += changed_inputs(run, cfg, inputs, folder)
    if changed:
        raise RefusedError(
            f"{folder} holds a run that was started differently: {'; '.join(changed)}. "
            "Give the old values to go on, --fresh to begin anew (the old folder is kept), "
            "or another --out_dir."
        )


def same_rates(cfg: TrainConfig, max_iters: int, steps: int) -> bool:
    """Whether a run of another length had the same learning rates so far, and thus can be lengthened."""
    if not cfg.warmup < max_iters or steps > cfg.max_iters:
        return False
    other = dataclasses.replace(cfg, max_iters=max_iters)
    return all(learning_rate(cfg, step) == learning_rate(other, step) for step in range(steps))


def changed_inputs(run: dict[str, Any], cfg: TrainConfig, inputs: dict[str, str], folder: Path) -> list[str]:
    """Sentences about inputs with other contents than the run's, each named by the file that was given."""
    stored, tokenizer = run["inputs"], checkpoint.tokenizer_of({"run": run})
    # first, since another tokenizer makes all shards differ
    if tokenizer and cfg.tokenizer and sha256(cfg.tokenizer) != tokenizer["sha256"]:
        return [f"{cfg.tokenizer} is another tokenizer than {tokenizer['path']} was"]
    changed = [name for name in sorted(inputs.keys() | stored.keys()) if inputs.get(name) != stored.get(name)]
    sources = dict.fromkeys(source_of(name, cfg, folder) for name in changed)  # one file makes several shards
    return [f"{source} has other contents" for source in sources]


def source_of(name: str, cfg: TrainConfig, folder: Path) -> str:
    """The file that an input was made of: what job.json of arianna_ft.py names, else the shard itself."""
    kind, _, file = name.partition("/")
    if kind == "base":
        return cfg.base or "the base"
    try:
        paths = json.loads((folder / "job.json").read_bytes())["paths"]
    except (OSError, ValueError, KeyError, TypeError):
        paths = {}
    source = paths.get({"data": "conversations"}.get(kind, kind)) if isinstance(paths, dict) else None
    return source or f"{cfg.data_dir if kind == 'data' else cfg.base_text_dir}/{file}"


def note_tokenizer(path: str | Path) -> dict[str, str]:
    """The note in a checkpoint by which its tokenizer is known again."""
    return {"sha256": sha256(path), "path": str(path)}


def hash_inputs(base: str | None, folders: dict[str, str | None]) -> dict[str, str]:
    """One SHA-256 per input file, named by what it is to the run rather than by its path."""
    hashes = {"base": sha256(base)} if base else {}
    for kind, folder in folders.items():
        for file in sorted(Path(folder).glob("*")) if folder else []:
            if file.suffix in (".bin", ".mask"):
                hashes[f"{kind}/{file.name}"] = sha256(file)
    return hashes


@contextlib.contextmanager
def begun(folder: Path, fresh: bool) -> Iterator[None]:
    """A context in which a run is begun or goes on; after a refusal its folder is as it was."""
    if fresh and folder.exists():
        with processes.lock(folder):  # a run at work there would go on writing under the old name
            pass
    with rolled_back(folder, fresh, saved="ckpt*.pt") as aside:
        if aside is not None:
            print(f"the old {folder} is now {aside.name}", flush=True)
        yield
