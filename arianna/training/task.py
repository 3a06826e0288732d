"""The rows and batches of a run, as its settings name them."""

from __future__ import annotations

from pathlib import Path

from arianna.corpus.encoding import TRAIN_ALL, TRAIN_ANSWERS
from arianna.training import contrast
from arianna.training.settings import TrainConfig
from arianna_data import Rows, Task
from model import ModelArgs, Transformer


def training_rows(cfg: TrainConfig, args: ModelArgs) -> Rows:
    trained = TRAIN_ALL if cfg.loss_on == "all" else TRAIN_ANSWERS
    return Rows(cfg.data_dir, "train", args.max_seq_len, args.vocab_size, trained)


def make_task(cfg: TrainConfig, args: ModelArgs, teacher: Transformer | None = None) -> Task:
    """The batches of a run, over its memory-mapped shards. Replayed rows have the teacher's context."""
    context = (teacher.args if teacher else args).max_seq_len
    replay = Rows(cfg.base_text_dir, "train", context, args.vocab_size) if cfg.replay else None
    kind = contrast.ContrastTask if cfg.question_contrast else Task
    rows, micro_batches = training_rows(cfg, args), cfg.gradient_accumulation_steps
    return kind(rows, cfg.batch_size, micro_batches, cfg.seed, replay, cfg.replay)


def held_out_rows(cfg: TrainConfig, args: ModelArgs) -> Rows:
    return Rows(cfg.data_dir, "val", args.max_seq_len, args.vocab_size)


def base_text_rows(cfg: TrainConfig, args: ModelArgs) -> dict[str, Rows]:
    """The held-out shards of the base text, each by its name."""
    files = sorted(Path(cfg.base_text_dir).glob("val*.bin")) if cfg.base_text_dir else []
    return {f.stem: Rows(cfg.base_text_dir, f.stem, args.max_seq_len, args.vocab_size) for f in files}


def tokens_of(cfg: TrainConfig, task: Task) -> int:
    """About how many tokens a run will compute; compiling or measuring pays only for many."""
    rows = cfg.max_iters * cfg.batch_size * cfg.gradient_accumulation_steps
    return rows * int(task.rows.lengths.mean())
