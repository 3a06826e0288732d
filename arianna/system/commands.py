"""Commands that are printed to be pasted: quoted, for the folder one is in, and only for files that exist."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from shlex import quote

from arianna import ROOT

ASKED = "What is resonance?"
TEMPERATURE = 0.5  # at which one answer is drawn unless told otherwise; docs/base.md compares it with others
SEVERAL_AT = 0.7  # the temperature where several are drawn and the likeliest is given
DEFAULTS = {"conversations": "data/arianna_conversations.jsonl", "tokenizer": "data/tok4096.model"}
DEFAULTS |= {"out_dir": "out"}
# conversations, base, tokenizer, checkpoint, binary; None for a file that is gone
Paths = Mapping[str, str | None]
Command = tuple[str, str]  # what it does, what to type


def next_commands(paths: Paths, better: bool) -> list[Command]:
    """The commands to type after a run: hear both models, then use the result, or train anew."""
    there = {name: path for name, path in paths.items() if path is not None and Path(path).exists()}
    makers = [hear_both, *([chat, in_c, as_page] if better else [train_anew])]
    return [command for make in makers if (command := make(there)) is not None]


def located(paths: Mapping[str, str | None], run: Path) -> dict[str, str | None]:
    """A run's files, where they were or as near to the run's folder if that has moved; None if lost."""

    def where(path: str) -> str | None:
        places = (Path(path), run.parent / Path(path).name, run.parent.parent / path)
        return next((str(place) for place in places if place.exists()), None)

    return {name: where(path) for name, path in paths.items() if path is not None}


def hear_both(paths: Mapping[str, str]) -> Command | None:
    if not {"checkpoint", "base"} <= paths.keys():
        return None
    files = f"{flag('checkpoint', paths['checkpoint'])} {flag('compare', paths['base'])}"
    flags = f"{files}{tokenizer_flag(paths)} --question={quote(ASKED)}"
    return "hear both side by side", f"{script('sample.py')} {flags}"


def chat(paths: Mapping[str, str]) -> Command | None:
    if "checkpoint" not in paths:
        return None
    flags = f"{flag('checkpoint', paths['checkpoint'])}{tokenizer_flag(paths)} --chat"
    return "talk with it", f"{script('sample.py')} {flags}"


def in_c(paths: Mapping[str, str]) -> Command | None:
    """The command of llama2.c's own program, which needs the tokenizer in its own format."""
    if not {"binary", "tokenizer"} <= paths.keys():
        return None
    beside = Path(paths["tokenizer"]).with_suffix(".bin")
    made = Path(paths["binary"]).with_name(beside.name)  # where none lay beside the tokenizer
    vocabulary = next((path for path in (made, beside) if path.is_file()), None)
    if vocabulary is None:
        return None
    files = f"{typed(paths['binary'])} -z {typed(vocabulary)}"
    return "run it in plain C", f"./run {files} -n 0 -t {TEMPERATURE} -i $'Q: {ASKED}\\nA:'"


def as_page(paths: Mapping[str, str]) -> Command | None:
    """The command that makes the page; `python -m` finds the package in the project's folder only."""
    if "checkpoint" not in paths or Path.cwd().resolve() != ROOT:
        return None
    page, report = (Path(paths["checkpoint"]).parent / name for name in ("arianna.html", "ft/report.json"))
    facts = f" {flag('report', report)}" if report.is_file() else ""
    flags = f"{flag('checkpoint', paths['checkpoint'])} --format=html{facts}"
    return "put it into one page for any browser", f"{python()} -m arianna.export {typed(page)} {flags}"


def train_anew(paths: Mapping[str, str]) -> Command | None:
    if not {"conversations", "base"} <= paths.keys():
        return None
    files = {name: paths[name] for name in ("conversations", "base", "tokenizer") if name in paths}
    if "checkpoint" in paths:
        files["out_dir"] = str(Path(paths["checkpoint"]).parent)
    flags = [flag(name, path) for name, path in files.items() if path != DEFAULTS.get(name)]
    return "train anew with other settings", " ".join([script("arianna_ft.py"), *flags, "--fresh"])


def tokenizer_flag(paths: Mapping[str, str]) -> str:
    """The flag for a tokenizer that is not the shipped one."""
    path = paths.get("tokenizer")
    return "" if path in (None, DEFAULTS["tokenizer"]) else f" {flag('tokenizer', path)}"


def script(name: str) -> str:
    """The beginning of a command that starts one of the project's scripts from here."""
    return f"{python()} {typed(ROOT / name)}"


def python() -> str:
    """The word that starts this very Python from a shell: `python` if its own venv is activated."""
    on_path, ours = shutil.which("python"), Path(sys.executable)
    same = on_path and Path(on_path).parent == ours.parent and os.path.samefile(on_path, ours)
    return "python" if same else quote(str(ours))


def flag(name: str, path: str | Path) -> str:
    return f"--{name}={typed(path)}"


def typed(path: str | Path) -> str:
    """A path as it is to be typed here, quoted for a shell; an absolute one becomes relative if shorter."""
    word = str(path)
    if Path(path).is_absolute():
        word = min(word, os.path.relpath(path), key=len)
    return quote(f"./{word}" if word.startswith("-") else word)
