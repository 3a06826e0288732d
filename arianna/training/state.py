"""A run at a step: begun anew, or taken from its folder to go on exactly; and packed as a checkpoint.

--init_from=  in the folder                what it begins with
scratch       no run                       new weights
resume        no run, but --base is given  the base's weights, fresh moments, step 0: a fine-tune
resume        a run of this program        all that the run had: it goes on exactly
resume        llama2.c's ckpt.pt, no --base  its weights, AdamW and iteration, as llama2.c does
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from arianna import formats
from arianna.formats import checkpoint
from arianna.training.devices import pick_precision
from arianna.training.optimizer import load_moments, make_optimizer
from arianna.training.run_folder import (
    RUN_FORMAT,
    RefusedError,
    check_same_run,
    check_state,
    latest_state,
)
from arianna.training.settings import TrainConfig
from model import ModelArgs, Transformer


@dataclass
class State:
    """A run at a step: all that the steps after it depend on."""

    model: Transformer
    optimizer: torch.optim.AdamW
    step: int = 0
    best_loss: float = math.inf
    best_step: int = -1
    seconds: float = 0.0  # spent so far, over all starts
    threads: int | None = None  # how many computed the saved steps
    compiled: bool | None = None  # whether the steps are; None before the first
    dtype: str | None = None  # number format of the steps; None before the first
    tokenizer: dict[str, str] | None = None  # SHA-256 and path of the tokenizer that the tokens come from
    teacher: Transformer | None = None  # the model whose predictions for replayed rows are learned

    def finished(self, cfg: TrainConfig) -> bool:
        """Whether all steps are done, or the last `patience` evaluations brought nothing better."""
        if self.step >= cfg.max_iters or cfg.patience is None or self.step % cfg.eval_interval:
            return self.step >= cfg.max_iters
        return self.step - max(self.best_step, 0) >= cfg.patience * cfg.eval_interval

    def pack(self, cfg: TrainConfig, inputs: dict[str, str]) -> dict[str, Any]:
        run = {"format": RUN_FORMAT, "config": dataclasses.asdict(cfg), "inputs": inputs}
        run |= {name: getattr(self, name) for name in ("best_step", "seconds", "compiled", "dtype")}
        run |= {"threads": torch.get_num_threads()}
        run |= {"tokenizer": self.tokenizer} if self.tokenizer else {}
        optimizer = self.optimizer.state_dict()
        return checkpoint.pack(
            self.model, optimizer=optimizer, iter_num=self.step, best_val_loss=self.best_loss, run=run
        )

    def pack_weights(self) -> dict[str, Any]:
        """A checkpoint of the weights alone, as an evaluation leaves it."""
        packed = checkpoint.pack(self.model, iter_num=self.step)
        packed["config"] |= {"tokenizer": self.tokenizer} if self.tokenizer else {}
        return packed


@dataclass(frozen=True)
class Progress:
    """The step that a run in a folder has reached, and whether that is its end."""

    step: int
    finished: bool


def check_folder(cfg: TrainConfig, inputs: dict[str, str]) -> Progress | None:
    """The progress of our run in cfg.out_dir, None if there is none. Raises RefusedError if it is another."""
    saved = latest_state(Path(cfg.out_dir))
    if saved is None or "run" not in saved:
        return None
    check_same_run(saved["run"], saved["iter_num"], cfg, inputs, Path(cfg.out_dir))
    state = State(None, None, saved["iter_num"], best_step=saved["run"]["best_step"])
    return Progress(state.step, state.finished(cfg))


def start_or_continue(
    cfg: TrainConfig, inputs: dict[str, str], device: torch.device, model: Transformer | None
) -> State:
    """The state to go on from, or that of a new run of the model: see the table above."""
    folder = Path(cfg.out_dir)
    saved = latest_state(folder, set_damaged_aside=True)
    if saved is None:
        check_state(folder)
    if saved is not None and "run" in saved:
        check_same_run(saved["run"], saved["iter_num"], cfg, inputs, folder)
        return restore(saved, cfg, folder, device)
    if cfg.init_from == "scratch" and saved is not None:
        raise RefusedError(f"{folder} holds a checkpoint of another program; give another --out_dir.")
    if model is not None:
        model.to(device)
        return State(model, make_optimizer(model, cfg), teacher=make_teacher(cfg, device))
    if saved is None:
        raise RefusedError(
            f"{folder} holds no run to resume; give --base=CHECKPOINT to fine-tune or --init_from=scratch."
        )
    if saved.get("iter_num", 0) >= cfg.max_iters:
        raise RefusedError(
            f"{folder}/ckpt.pt is at iteration {saved['iter_num']}, "
            f"so --max_iters={cfg.max_iters} leaves nothing to do; give more."
        )
    shutil.copy2(folder / "ckpt.pt", folder / "ckpt_llama2c.pt")  # the file is another program's: it stays
    return restore(saved, cfg, folder, device)


def new_model(cfg: TrainConfig) -> Transformer | None:
    """The model that a run begins with, on the CPU; None where only a checkpoint in its folder can tell."""
    if cfg.init_from == "resume":
        return None if cfg.base is None else formats.open_model(cfg.base, cfg.max_seq_len)
    names = ("dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of")
    shape = {name: getattr(cfg, name) for name in names}
    model = Transformer(ModelArgs(**shape, max_seq_len=cfg.max_seq_len or 256))
    model.init_weights(cfg.seed)
    return model


def restore(saved: dict[str, Any], cfg: TrainConfig, folder: Path, device: torch.device) -> State:
    """The state of a loaded checkpoint, of ours or of llama2.c's."""
    model = checkpoint.build_model(saved, folder / "ckpt.pt", cfg.max_seq_len).to(device)
    optimizer = make_optimizer(model, cfg)
    try:
        load_moments(optimizer, saved["optimizer"]["state"])
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise RefusedError(
            f"the optimizer state in {folder} does not fit the model: {error}. Begin again with --fresh."
        ) from None
    state = State(model, optimizer, saved["iter_num"], teacher=make_teacher(cfg, device))
    state.tokenizer = checkpoint.tokenizer_of(saved)
    if run := saved.get("run"):
        state.best_loss, state.best_step = float(saved.get("best_val_loss", math.inf)), run["best_step"]
        state.seconds, state.threads = run["seconds"], run.get("threads")
        state.compiled = run.get("compiled", bool(run["config"].get("compile")))
        # older states have no number format of their own: it follows from their settings
        state.dtype = run.get("dtype") or pick_precision(str(device), cfg.dtype).name
    return state


def make_teacher(cfg: TrainConfig, device: torch.device) -> Transformer | None:
    """The base, if rows are replayed: its predictions for them are learned in place of their tokens.

    So the rows need not be true to be of use, and are not learned by heart (learning without forgetting, Li &
    Hoiem 2016, arXiv 1606.09282).
    """
    return formats.open_model(cfg.base).to(device) if cfg.replay and cfg.base else None
