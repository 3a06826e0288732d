"""Lines that arianna_ft.py prints: counts of the data before a run; losses, files and commands after it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from arianna.corpus.prepare import Survey
from arianna.scoring.choose import Choice
from arianna.system.commands import next_commands

if TYPE_CHECKING:
    from arianna.corpus.encoding import Prepared


def survey_lines(survey: Survey) -> list[str]:
    """Lines on the contents of the file of conversations, before anything is tokenized."""
    counts = f"{survey.conversations} conversations ({survey.kind}), {survey.held_out} of them held out"
    return [f"{survey.path}: {counts}", *(f"  {note}" for note in survey.notes)]


def prepared_lines(prepared: Prepared, context: int) -> list[str]:
    """Lines on the conversations as tokens."""
    long = f", {prepared.longer} conversations exceed {context} tokens and are split over several rows"
    lines = [f"  {prepared.tokens:,} tokens in {prepared.rows} rows{long if prepared.longer else ''}"]
    if prepared.typographic:
        lines.append(f"  {prepared.typographic} quotes, dashes and ellipses became plain ones")
    if prepared.bytes_spelled:
        characters = f"{prepared.bytes_spelled} characters ({prepared.spelled})"
        lines.append(f"  {characters} are spelled in bytes, which llama2.c's run does not print")
    return lines


def short_verdict(choice: Choice, checkpoint: str, base: str) -> str:
    """The losses in a sentence, without an interval and without a look at what the models write."""
    before, used = choice.base, choice.used
    change = f"held-out answers went from {before.answer_loss:.3f} to {used.answer_loss:.3f} nats a token"
    forgotten = f"base text rose by {used.forgetting(before):.3f}"
    if used.answer_loss < before.answer_loss:
        origin = f"iteration {used.step}, {used.blend:.0%} of the tuned weights"
        return f"Lower: {change}; {forgotten}. Use {checkpoint} ({origin})."
    return f"Not lower: {change} at best (iteration {used.step}); {forgotten}. Keep {base}."


def closing_lines(paths: Mapping[str, str | None], run: Path, better: bool) -> list[str]:
    """Lines on the files that exist now, and what to type next."""
    files = {
        paths["checkpoint"]: "the model",
        paths["binary"]: "the same for llama2.c, read back and equal",
        str(run / "report.html"): "the morning report",
        str(run / "log.jsonl"): "losses by iteration",
    }
    there = [f"{path}    {what}" for path, what in files.items() if Path(path).exists()]
    return ["", *there, "", "Next:", *(f"  {line}" for _, line in next_commands(paths, better))]
