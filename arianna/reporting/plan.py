"""The plan of a run, printed before it starts: the base's score on the data, and the time of a step."""

from __future__ import annotations

import train_arianna
from arianna.formats import open_model
from arianna.reporting import verdict
from arianna.scoring.losses import answer_loss
from arianna.system.resources import megabytes
from arianna.training import devices, needs
from arianna.training.settings import TrainConfig
from arianna_data import Rows
from model import Transformer

SCORED_ROWS = 16  # rows of each side


def plan_lines(
    cfg: TrainConfig, base: Transformer, context: int, out_dir: str, spelled: float | None
) -> list[str]:
    """Lines on what will run, on which device, for how long and on how much disk.

    The base is scored, and a step is timed on a copy of it. The disk is for the run and its two results.
    `context` is that of the rows to train on, `spelled` the share of their characters that are spelled in
    bytes.
    """
    if context != base.args.max_seq_len:
        base = open_model(cfg.base, context)
    rows = (Rows(cfg.data_dir, split, context, base.args.vocab_size) for split in ("val", "train"))
    held_out, trained = (answer_loss(base, r, SCORED_ROWS).loss for r in rows)
    word = verdict.about_base(held_out, trained, base.args.vocab_size, spelled)
    seconds, task = train_arianna.time_steps(cfg, base)
    parameters = sum(p.numel() for p in base.parameters())
    disk = megabytes(needs.bytes_on_disk(cfg, parameters) + 2 * 4 * parameters)
    return [
        f"{cfg.base}: {parameters / 1e6:.2f} million parameters; "
        f"held-out answers {held_out:.3f} nats a token",
        *([word] if word else []),
        f"{cfg.max_iters} iterations = {task.epochs(cfg.max_iters):.1f} epochs of your data, "
        f"peak rate {cfg.peak:g}, on {devices.pick_device(cfg.device)}: "
        f"about {seconds * cfg.max_iters / 60:.0f} minutes and {disk} in {out_dir}",
    ]
