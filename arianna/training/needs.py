"""The disk and memory that a run needs, estimated from its model and its settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from arianna.system import resources
from arianna.training.settings import TrainConfig

if TYPE_CHECKING:
    from model import Transformer

LIBRARIES = 400 << 20  # bytes of memory that torch takes before anything is computed


def check(cfg: TrainConfig, model: Transformer, processes: int = 1, more: int = 0) -> None:
    """Raise ValueError unless there is room for a run that writes `more` bytes beside its folder."""
    folder, a = Path(cfg.out_dir), model.args
    parameters, tokens = sum(p.numel() for p in model.parameters()), cfg.batch_size * a.max_seq_len
    there = 0 if cfg.fresh else sum(f.stat().st_size for f in folder.glob("ckpt*.pt"))
    activations = tokens * a.n_layers * (16 * a.dim + 4 * a.hidden) // processes
    resources.check_writable(folder)
    resources.check_disk(folder, max(0, bytes_on_disk(cfg, parameters) + more - there))
    resources.check_memory(processes * bytes_in_memory(parameters, activations))


def bytes_on_disk(cfg: TrainConfig, parameters: int) -> int:
    """The most that a run's folder takes: weights at each evaluation, and three states with both moments."""
    evaluations = cfg.max_iters // cfg.eval_interval + 2
    return 4 * parameters * (evaluations + 3 * 3)


def bytes_in_memory(parameters: int, activations: int) -> int:
    """The memory of weights, gradients, two moments, a state being written (and a copy), and activations."""
    return LIBRARIES + 4 * (parameters * (4 + 2 * 3) + activations)
