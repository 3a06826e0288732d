"""Lines that arianna_ft.py prints: what was found and what will run, before; losses, files and commands,
afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from arianna.corpus.prepare import Survey
from arianna.scoring.choose import Choice
from arianna.system.commands import next_commands
from arianna.system.resources import megabytes
from arianna.training import needs
from arianna.training.settings import TrainConfig

if TYPE_CHECKING:
    from arianna.corpus.encoding import Prepared
    from model import Transformer

SCORED_ROWS = 16  # of each side, before the run


def survey_lines(survey: Survey) -> list[str]:
    """What the file of conversations holds, before anything is tokenized."""
    counts = f"{survey.conversations} conversations ({survey.kind}), {survey.held_out} of them held out"
    return [f"{survey.path}: {counts}", *(f"  {note}" for note in survey.notes)]


def prepared_lines(prepared: Prepared, context: int) -> list[str]:
    """What became of the conversations as tokens."""
    long = f", {prepared.longer} conversations exceed {context} tokens and are split over several rows"
    counts = f"  {prepared.tokens:,} tokens in {prepared.rows} rows{long if prepared.longer else ''}"
    bytewise = f"characters ({prepared.spelled}) are spelled in bytes, which llama2.c's run does not print"
    notes = {
        "quotes, dashes and ellipses became plain ones": prepared.typographic,
        bytewise: prepared.bytes_spelled,
    }
    return [counts, *(f"  {count} {note}" for note, count in notes.items() if count)]


def plan_lines(
    cfg: TrainConfig, base: Transformer, context: int, out_dir: str, spelled: float | None
) -> list[str]:
    """Score the base and time a step on a copy of it: what will run, on what, for how long, and how much
    disk.

    The disk is what the run and its two results take. `context` is that of the rows to train on, `spelled`
    the share of their characters that are spelled in bytes.
    """
    import train_arianna
    from arianna.formats import open_model
    from arianna.reporting import verdict
    from arianna.scoring.losses import answer_loss
    from arianna.training import devices
    from arianna_data import Rows

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


def short_verdict(choice: Choice, checkpoint: str, base: str) -> str:
    """Losses alone, without an interval and without a look at what the models write."""
    before, used = choice.base, choice.used
    change = f"held-out answers went from {before.answer_loss:.3f} to {used.answer_loss:.3f} nats a token"
    forgotten = f"base text rose by {used.forgetting(before):.3f}"
    if used.answer_loss < before.answer_loss:
        origin = f"iteration {used.step}, {used.blend:.0%} of the tuned weights"
        return f"Lower: {change}; {forgotten}. Use {checkpoint} ({origin})."
    return f"Not lower: {change} at best (iteration {used.step}); {forgotten}. Keep {base}."


def closing_lines(paths: Mapping[str, str | None], run: Path, better: bool) -> list[str]:
    """The files that are there now, and what to type next."""
    files = {
        paths["checkpoint"]: "the model",
        paths["binary"]: "the same for llama2.c, read back and equal",
        str(run / "report.html"): "the morning report",
        str(run / "log.jsonl"): "losses by iteration",
    }
    there = [f"{path}    {what}" for path, what in files.items() if Path(path).exists()]
    return ["", *there, "", "Next:", *(f"  {line}" for _, line in next_commands(paths, better))]
