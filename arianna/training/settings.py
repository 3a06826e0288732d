"""Every setting of a training run, presets of them, and the learning rate at each step.

Standard library only: flags are checked before torch is imported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class TrainConfig:
    """Every setting of a run, stored in its checkpoints; one that changes the weights stays what it is."""

    # scratch: new weights; resume: from --base, or a run that goes on
    init_from: Literal["scratch", "resume"] = "resume"
    # the model that a fine-tune starts from: a .pt, .bin, .gguf or Hugging Face folder; only read
    base: str | None = None
    data_dir: str = "data/tok4096"  # folder with train*.bin and val*.bin
    out_dir: str = "out/base"  # folder of this run
    fresh: bool = False  # begin anew; the old folder is kept as out_dir-1
    tokenizer: str | None = None  # the model's tokenizer: three questions are answered at each evaluation
    max_iters: int = 1000  # optimizer steps of this run, counted from 0
    batch_size: int = 8  # rows computed at a time
    gradient_accumulation_steps: int = 1  # so many times batch_size rows make one step
    loss_on: Literal["all", "answers"] = "all"  # which tokens of a conversation are trained
    # shards of what the base knows: val*.bin is scored at each evaluation, train*.bin replayed
    base_text_dir: str | None = None
    # share of the rows taken from base_text_dir, 0 to 0.9; in these, the base's predictions are learned
    replay: float = 0.0
    # weight of a term that prefers answers under their own question to those under another
    question_contrast: float = 0.0
    learning_rate: float | None = None  # peak; by default 2e-3 from scratch, 1e-5 from a base
    # how the rate falls; wsd: it stays, then falls in a straight line; auto: wsd from scratch, else cosine
    schedule: Literal["auto", "cosine", "wsd"] = "auto"
    decay_ratio: float = 0.5  # wsd: share of max_iters in which the rate falls in a straight line
    warmup_ratio: float = 0.05  # share of max_iters
    warmup_iters: int | None = None  # the same in steps, instead of the share
    # muon: for the layers' matrices; auto: muon from scratch, else adamw
    optimizer: Literal["auto", "adamw", "muon"] = "auto"
    weight_decay: float = 0.1  # on matrices only, as llama2.c does
    beta1: float = 0.9  # AdamW
    beta2: float = 0.95  # AdamW
    grad_clip: float = 1.0  # largest norm of the gradient
    eval_interval: int = 100  # steps between evaluations
    patience: int | None = None  # end after so many evaluations without a better one
    eval_rows: int = 512  # at most so many held-out rows, evenly spread and always the same
    log_interval: int = 10  # steps between lines
    save_minutes: float = 2.0  # save at least this often
    seed: int = 1337  # draws new weights and the order of the rows
    device: str = "auto"  # auto: cuda if there is one, else cpu
    # number format of matrix products; auto: on a CPU the faster one, on cuda bfloat16
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    nproc: int = 1  # processes to train with, through torchrun, for instance one for each GPU
    # write the curves for TensorBoard, too, into out_dir/tensorboard (needs that package)
    tensorboard: bool = False
    wandb: bool = False  # send them to Weights & Biases (needs the package wandb)
    # torch.compile: takes a minute, then steps are faster; auto or left out: where that pays
    compile: bool | None = None
    dim: int = 288  # width of a model from scratch
    n_layers: int = 6  # layers of a model from scratch
    n_heads: int = 6  # attention heads of a model from scratch
    n_kv_heads: int | None = None  # key and value heads of a model from scratch; by default n_heads
    vocab_size: int = 4096  # tokens of a model from scratch
    multiple_of: int = 32  # the hidden width of a model from scratch is rounded up to a multiple of this
    max_seq_len: int | None = None  # context; by default the base's, or 256 from scratch

    def __post_init__(self) -> None:
        if self.init_from == "scratch" and self.base:
            raise ValueError(
                f"--base={self.base} is not used with --init_from=scratch; leave one of them out"
            )
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience is {self.patience}; it must be at least 1, or left out")
        counts = "max_iters batch_size gradient_accumulation_steps nproc eval_interval eval_rows log_interval"
        for name in counts.split():
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.max_seq_len is not None and not 1 <= self.max_seq_len <= 1 << 20:
            raise ValueError(f"max_seq_len is {self.max_seq_len}; it must be from 1 to {1 << 20:,}")
        for name in ("learning_rate", "grad_clip", "save_minutes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; it must be a number above 0")
        tops = {"warmup_ratio": 1.0, "beta1": 1.0, "beta2": 1.0, "replay": 0.9, "weight_decay": 10.0}
        for name, top in (tops | {"question_contrast": 100.0}).items():
            if not 0 <= getattr(self, name) < top:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and under {top:g}")
        if not 0 <= self.decay_ratio <= 1:
            raise ValueError(f"decay_ratio is {self.decay_ratio}; it must be from 0 to 1")
        if not 0 <= self.seed < 1 << 63:
            raise ValueError(f"seed is {self.seed}; it must be a whole number from 0 to {(1 << 63) - 1}")
        if self.warmup_iters is not None and not 0 <= self.warmup_iters < self.max_iters:
            raise ValueError(
                f"warmup_iters is {self.warmup_iters}, but the run has max_iters {self.max_iters}: "
                "the rate would never reach its peak. Give fewer, or leave it out"
            )
        if self.replay and self.base_text_dir is None:
            raise ValueError(
                f"replay is {self.replay}, but base_text_dir is not given; name a folder of token shards"
            )

    @property
    def warmup(self) -> int:
        """The number of steps before the peak rate."""
        return self.warmup_iters if self.warmup_iters is not None else int(self.warmup_ratio * self.max_iters)

    @property
    def peak(self) -> float:
        return self.learning_rate or (2e-3 if self.init_from == "scratch" else 1e-5)

    @property
    def optimizer_name(self) -> str:
        by_start = "muon" if self.init_from == "scratch" else "adamw"
        return by_start if self.optimizer == "auto" else self.optimizer

    @property
    def schedule_name(self) -> str:
        by_start = "wsd" if self.init_from == "scratch" else "cosine"
        return by_start if self.schedule == "auto" else self.schedule


# fields that may differ when a run goes on. Paths may: their contents are compared by hash. So may compile:
# the run stays as it began
FREE = {"fresh", "log_interval", "save_minutes", "device", "nproc", "compile", "tensorboard", "wandb"}
FREE |= {"out_dir", "base", "data_dir", "base_text_dir", "tokenizer"}

# settings of a fine-tune by name, over which the user's flags win; docs/defaults.md has the measurements
PRESETS: dict[str, dict[str, Any]] = {
    "gentle": {"learning_rate": 1e-5, "max_iters": 1000},
    # a tenth of the rows at forty times the rate; half of them replayed, so that the base keeps what it knows
    "best": {"learning_rate": 4e-4, "max_iters": 50, "batch_size": 16, "replay": 0.5, "eval_interval": 10},
}
PRESET_NOTE = (
    "--preset=best takes a tenth of the rows; docs/defaults.md compares what the two presets reached."
)


def learning_rate(cfg: TrainConfig, step: int) -> float:
    """The rate of a step, 0 <= step < max_iters; never 0.

    After a linear warm-up comes a cosine (Loshchilov & Hutter 2016), or a peak that stays and falls in a
    straight line at the end (warmup-stable-decay; Hu et al. 2024, arXiv 2404.06395).
    """
    if step < cfg.warmup:
        return cfg.peak * (step + 1) / (cfg.warmup + 1)
    if cfg.schedule_name == "cosine":
        return cfg.peak * 0.5 * (1 + math.cos(math.pi * (step - cfg.warmup) / (cfg.max_iters - cfg.warmup)))
    decay = min(round(cfg.decay_ratio * cfg.max_iters), cfg.max_iters - cfg.warmup)
    return cfg.peak * min(1.0, (cfg.max_iters - step) / max(decay, 1))
