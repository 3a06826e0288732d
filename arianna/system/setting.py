"""A setting of a command, given by a flag or in a file: its type, and the value that a text means.

Standard library only.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import typing
from types import NoneType
from typing import Any, Literal


class UsageError(ValueError):
    """A mistake in what the user gave: one sentence, exit code 2."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A field of a dataclass as it is given: by a flag or in a file."""

    name: str
    hint: Any
    default: Any
    comment: str

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The types that its hint allows, without None and the dots of a tuple."""
        if typing.get_origin(self.hint) is Literal:
            return (self.hint,)
        return tuple(a for a in typing.get_args(self.hint) if a not in (NoneType, ...)) or (self.hint,)

    @property
    def repeats(self) -> bool:
        return typing.get_origin(self.hint) is tuple

    def convert(self, text: str) -> Any:
        """The value that a flag's text means; argparse reports its ArgumentTypeError."""
        (kind,) = self.kinds
        if typing.get_origin(kind) is Literal:
            return self.choose(text, typing.get_args(kind))
        if kind is bool:
            return self.decide(text)
        if kind is str and not self.repeats:  # what may be repeated is prose: questions and starts
            return self.name_or_path(text)
        try:
            return kind(text)
        except ValueError:
            name = {int: "a whole number", float: "a number"}.get(kind, kind.__name__)
            raise argparse.ArgumentTypeError(f"'{text}' is not {name}") from None

    def choose(self, text: str, choices: tuple[str, ...]) -> str:
        if text in choices:
            return text
        raise argparse.ArgumentTypeError(f"'{text}' is not one of {', '.join(choices)}")

    def decide(self, text: str) -> bool | None:
        if text.lower() == "auto" and NoneType in typing.get_args(self.hint):
            return None
        if is_decision(text):
            return text.lower() in ("true", "1", "yes")
        raise argparse.ArgumentTypeError(f"'{text}' is neither true nor false")

    def name_or_path(self, text: str) -> str:
        """A text in which `~/` is the home folder, as no shell makes of `--out_dir=~/runs`."""
        if not text and self.default != "":
            raise argparse.ArgumentTypeError("it is empty; give a value, or leave it out")
        return os.path.expanduser(text) if text == "~" or text.startswith("~/") else text


class Once(argparse.Action):
    """An action that refuses a second value, by whatever name: the last would win without a word."""

    def __call__(self, parser: Any, namespace: Any, value: Any, flag: str | None = None) -> None:
        if hasattr(namespace, self.dest):
            raise UsageError(f"{flag} is given twice; which of the values is meant? Leave one out.")
        setattr(namespace, self.dest, value)


class Several(argparse.Action):
    """An action that adds its value to a tuple."""

    def __call__(self, parser: Any, namespace: Any, value: Any, flag: str | None = None) -> None:
        setattr(namespace, self.dest, (*getattr(namespace, self.dest, ()), value))


def is_decision(text: str) -> bool:
    """Whether a word says true or false (or auto), as it may stand behind a flag."""
    return text.lower() in ("true", "false", "1", "0", "yes", "no", "auto")
