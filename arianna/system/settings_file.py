"""A settings file: `--config=my.toml` in place of many flags. Standard library only.

    max_iters = 300
    loss_on = "answers"

The names are those of the flags, which win over the file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tomllib
import typing
from pathlib import Path
from typing import Any

from arianna.system import config
from arianna.system.config import UsageError

NAME = "config.toml"  # what a run writes, and what repeats it
Aliases = dict[str, str]
WANTED = {int: ((int,), "a whole number"), float: ((int, float), "a number"), bool: ((bool,), "true or false")}
TEXT = ((str,), 'a text in "quotes"')


def expand(argv: list[str] | None, classes: list[type], aliases: Aliases | None = None) -> list[str]:
    """A command line whose `--config=FILE` has become the file's settings, ahead of the other words, which so win over them.

    Raises UsageError for a file that cannot be read, for values of another type and for settings that no class has.
    """
    parser = config.Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    given, words = parser.parse_known_args(argv)
    if given.config is None:
        return words
    path = Path(given.config)
    hints = {name: hint for cls in classes for name, hint in typing.get_type_hints(cls).items()}
    hints |= {alias: hints[name] for alias, name in (aliases or {}).items()}
    return [*(flag(path, name, value, hints) for name, value in read(path).items()), *words]


def read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); a file of settings is needed there.") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {' '.join(str(error).split())}. It needs lines such as max_iters = 300.") from None


def flag(path: Path, name: str, value: Any, hints: dict[str, Any]) -> str:
    """`--name=value`. Raises UsageError for a name that there is not and for a value of another type."""
    if name not in hints:
        near = config.nearest(name, list(hints))
        raise UsageError(f"{path}: {name} is not a setting of this command{f'; did you mean {near}?' if near else '.'}")
    kind = config.kinds(hints[name])[0]
    types, what = WANTED.get(kind, TEXT)
    if not isinstance(value, types) or (isinstance(value, bool) and kind is not bool):  # to Python, true is a whole number
        raise UsageError(f"{path}: {name} is {value!r}; {what} is needed there.")
    try:
        config.converter(hints[name])(str(value))
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"{path}: {name}: {error}.") from None
    return f"--{name}={value}"


def text_of(*configs: Any, without: tuple[str, ...] = ()) -> str:
    """The file that makes the configs again; of a name in several the first one's value counts. What is None is left out."""
    lines: dict[str, str] = {}
    for found in configs:
        comments = config.field_comments(type(found))
        for name, value in dataclasses.asdict(found).items():
            if name not in without and value is not None:
                lines.setdefault(name, f"{name} = {spelled(value)}  # {comments.get(name, '')}".rstrip(" #"))
    return "".join(f"{line}\n" for line in lines.values())


def spelled(value: str | bool | int | float) -> str:
    """JSON's spelling is TOML's, too, for what is not nested; but for the one control character that JSON leaves as it is."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
