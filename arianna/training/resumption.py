"""The progress of a run of arianna_ft.py, if its inputs are those that it was started with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from arianna.corpus import prepare
from arianna.corpus.prepare import Survey
from arianna.system.config import UsageError
from arianna.system.files import sha256
from arianna.training import log
from arianna.training.run_folder import check_state, hash_inputs, latest_state
from arianna.training.settings import TrainConfig
from arianna.training.state import Progress, check_folder


def find_progress(
    cfg: TrainConfig, survey: Survey, contexts: tuple[int, int], base_text: Mapping[str, bytes]
) -> Progress | None:
    """The progress of the run in cfg.out_dir, None if there is none. Raises UsageError if it is another run.

    `base_text` are the files of its base text by name. Token shards are compared byte for byte; where they
    are to be made again, their sources are.
    """
    folder = Path(cfg.out_dir)
    progress = compare(cfg, survey, contexts, base_text)
    if progress is None:
        check_state(folder)
    elif progress.step and not (folder / log.NAME).is_file():  # told before hours of training, not after
        raise UsageError(log.what_it_was_for(folder))
    return progress


def compare(
    cfg: TrainConfig, survey: Survey, contexts: tuple[int, int], base_text: Mapping[str, bytes]
) -> Progress | None:
    """The progress of the run in cfg.out_dir, if all its inputs are those it was started with."""
    inputs = {"base": sha256(cfg.base)}
    inputs |= {f"base_text/{name}": hashlib.sha256(data).hexdigest() for name, data in base_text.items()}
    data = Path(cfg.data_dir)
    if prepare.are_written(survey, cfg.tokenizer, contexts, data):
        return check_folder(cfg, inputs | hash_inputs(None, {"data": cfg.data_dir}))
    state = latest_state(Path(cfg.out_dir)) or {}
    if "run" not in state:
        return None
    check_sources(cfg, survey)
    shards = {name: sha for name, sha in state["run"]["inputs"].items() if name.startswith("data/")}
    return check_folder(cfg, inputs | shards)


def check_sources(cfg: TrainConfig, survey: Survey) -> None:
    """Raise UsageError if the conversations or the tokenizer are not those that the run was started with."""
    folder = Path(cfg.out_dir)
    try:
        hashes = json.loads((folder / "job.json").read_bytes())["hashes"]
    except (OSError, ValueError, KeyError, TypeError):
        hashes = {}
    conversations, tokenizer = (survey.path, survey.sha256), (cfg.tokenizer, sha256(cfg.tokenizer))
    sources = {"conversations": conversations, "tokenizer": tokenizer}
    changed = [path for name, (path, sha) in sources.items() if hashes.get(name, sha) != sha]
    if changed:
        raise UsageError(
            f"{folder} holds a run on other conversations or another tokenizer: it was not started with this "
            f"{' and this '.join(changed)}. Give the old file to go on, "
            "--fresh to begin anew (the old folder is kept), or another --out_dir."
        )
