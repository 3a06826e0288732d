"""Commands that are printed to be pasted: quoted, as seen from where one stands, and only for files that
are there.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from shlex import quote

from arianna import ROOT

ASKED = "What is resonance?"
DEFAULTS = {
    "conversations": "data/arianna_conversations.jsonl",
    "tokenizer": "data/tok4096.model",
    "out_dir": "out",
}
Paths = Mapping[
    str, str | None
]  # conversations, base, tokenizer, checkpoint, binary; None for a file that is gone
Command = tuple[str, str]  # what it does, what to type


def next_commands(paths: Paths, better: bool) -> list[Command]:
    """What to type after a run: compare, and then use the result if it is better, or train anew if it is
    not.
    """
    there = {name: path for name, path in paths.items() if path is not None and Path(path).exists()}
    offered = [
        compare(there),
        *([chat(there), in_c(there), as_page(there)] if better else [train_anew(there)]),
    ]
    return [command for command in offered if command is not None]


def compare(paths: Mapping[str, str]) -> Command | None:
    if not {"checkpoint", "base"} <= paths.keys():
        return None
    flags = (
        f"{flag('checkpoint', paths['checkpoint'])} {flag('compare', paths['base'])}{tokenizer_flag(paths)}"
    )
    return "hear both side by side", f"{script('sample.py')} {flags} --question={quote(ASKED)}"


def chat(paths: Mapping[str, str]) -> Command | None:
    if "checkpoint" not in paths:
        return None
    return (
        "talk with it",
        f"{script('sample.py')} {flag('checkpoint', paths['checkpoint'])}{tokenizer_flag(paths)} --chat",
    )


def in_c(paths: Mapping[str, str]) -> Command | None:
    """llama2.c's own program, which needs the tokenizer in its own format."""
    if not {"binary", "tokenizer"} <= paths.keys():
        return None
    beside = Path(paths["tokenizer"]).with_suffix(".bin")
    made = Path(paths["binary"]).with_name(beside.name)  # where none lay beside the tokenizer
    vocabulary = next((path for path in (made, beside) if path.is_file()), None)
    if vocabulary is None:
        return None
    files = f"{typed(paths['binary'])} -z {typed(vocabulary)}"
    return "run it in plain C", f"./run {files} -n 0 -t 0.8 -i $'Q: {ASKED}\\nA:'"


def as_page(paths: Mapping[str, str]) -> Command | None:
    """The page that talks; `python -m` finds the package from the project's folder only."""
    if "checkpoint" not in paths or Path.cwd().resolve() != ROOT:
        return None
    page, report = (Path(paths["checkpoint"]).parent / name for name in ("arianna.html", "ft/report.json"))
    told = f" {flag('report', report)}" if report.is_file() else ""
    flags = f"{flag('checkpoint', paths['checkpoint'])} --format=html{told}"
    return "put it into one page for any browser", f"{python()} -m arianna.export {typed(page)} {flags}"


def train_anew(paths: Mapping[str, str]) -> Command | None:
    if not {"conversations", "base"} <= paths.keys():
        return None
    given = {name: paths[name] for name in ("conversations", "base", "tokenizer") if name in paths}
    if "checkpoint" in paths:
        given["out_dir"] = str(Path(paths["checkpoint"]).parent)
    flags = [flag(name, path) for name, path in given.items() if path != DEFAULTS.get(name)]
    return "train anew with other settings", " ".join([script("arianna_ft.py"), *flags, "--fresh"])


def tokenizer_flag(paths: Mapping[str, str]) -> str:
    """The flag for a tokenizer that is not the shipped one."""
    path = paths.get("tokenizer")
    return "" if path in (None, DEFAULTS["tokenizer"]) else f" {flag('tokenizer', path)}"


def script(name: str) -> str:
    """How one of the project's scripts is started from here."""
    return f"{python()} {typed(ROOT / name)}"


def python() -> str:
    """The word that starts this very Python from a shell: `python` only where the activated venv is its
    own."""
    found, ours = shutil.which("python"), Path(sys.executable)
    same = found and Path(found).parent == ours.parent and os.path.samefile(found, ours)
    return "python" if same else quote(str(ours))


def flag(name: str, path: str | Path) -> str:
    return f"--{name}={typed(path)}"


def typed(path: str | Path) -> str:
    """A path as it is to be typed here: as it was given, or relative where that is shorter, quoted for a
    shell.
    """
    given = str(path)
    if Path(path).is_absolute():
        given = min(given, os.path.relpath(path), key=len)
    return quote(f"./{given}" if given.startswith("-") else given)
