"""One frozen dataclass to command-line flags, nothing else.

A field `name: type = default  # what it is` becomes `--name=value`, with its comment as help. `--name value`,
`--my-name` for my_name, and `--flag` alone for a bool work too. A field without a default is a word without a flag. A
`tuple[str, ...]` takes its flag any number of times.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import inspect
import re
import sys
import typing
from types import NoneType
from typing import Any, Literal, NoReturn, TypeVar

from arianna.system import environment

T = TypeVar("T")


class UsageError(ValueError):
    """Something wrong in what the user gave: one sentence, exit code 2."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. See `python {self.prog} --help`.")


def parse(cls: type[T], argv: list[str] | None, description: str | None, aliases: dict[str, str] | None = None) -> T:
    """Build `cls` from a command line (default: sys.argv). `aliases` maps a second name of a flag to its field.

    Raises UsageError for an unknown flag (naming the nearest one), a value of the wrong type, and whatever
    ValueError the class itself raises. `--help` prints and exits.
    """
    values, unknown = read(cls, argv, description, aliases)
    if unknown:  # before the class misses a flag that was only mistyped
        refuse_unknown(unknown, [cls], aliases)
    return build(cls, values)


def parse_known(
    cls: type[T], argv: list[str] | None, description: str | None, aliases: dict[str, str] | None = None, prog: str | None = None
) -> tuple[T, list[str]]:
    """As `parse`, but what belongs to no field is returned as `--name=value` strings."""
    values, unknown = read(cls, argv, description, aliases, prog)
    return build(cls, values), unknown


def read(
    cls: type, argv: list[str] | None, description: str | None, aliases: dict[str, str] | None = None, prog: str | None = None
) -> tuple[dict[str, Any], list[str]]:
    """The values that were given by field, and what belongs to no field as `--name=value` strings."""
    parser = Parser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    hints, comments = typing.get_type_hints(cls), field_comments(cls)
    for field in dataclasses.fields(cls):
        comment = comments.get(field.name, "").replace("%", "%%")
        if field.default is dataclasses.MISSING:
            parser.add_argument(field.name, type=converter(hints[field.name]), metavar=field.name.upper(), help=comment)
            continue
        names = [field.name, *(a for a, name in (aliases or {}).items() if name == field.name)]
        options = list(dict.fromkeys(f"--{n}" for name in names for n in (name, name.replace("_", "-"))))
        default = "" if field.default in (None, ()) else f" (default {field.default})".replace("%", "%%")
        extra = {"nargs": "?", "const": True} if bool in kinds(hints[field.name]) else {}
        extra |= {"action": "append"} if typing.get_origin(hints[field.name]) is tuple else {}
        parser.add_argument(*options, dest=field.name, type=converter(hints[field.name]), metavar="X", help=comment + default, **extra)
    values, unknown = parser.parse_known_args(argv)
    return vars(values), joined(unknown)


def build(cls: type[T], values: dict[str, Any]) -> T:
    try:
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from None


def refuse_unknown(unknown: list[str], classes: list[type], aliases: dict[str, str] | None = None) -> NoReturn:
    """Raise UsageError for the first flag that no class has, with the nearest that there is."""
    known = [f.name for cls in classes for f in dataclasses.fields(cls)] + list(aliases or {})
    name = unknown[0].split("=")[0]
    near = nearest(name.lstrip("-").replace("-", "_"), known)
    hint = f"; did you mean --{near}?" if near else "; --help lists what there is."
    raise UsageError(f"{name} is not a flag of this command{hint}")


def nearest(name: str, known: list[str]) -> str | None:
    """The name that is most like this one, if any is."""
    return next(iter(difflib.get_close_matches(name, known, n=1)), None)


def to_flags(config: Any) -> list[str]:
    """The command line that makes `config` again, defaults left out."""
    given = [(f.name, getattr(config, f.name)) for f in dataclasses.fields(config) if getattr(config, f.name) not in (f.default, None)]
    return [f"--{name}={item}" for name, value in given for item in (value if isinstance(value, tuple) else (value,))]


def joined(words: list[str]) -> list[str]:
    """["--a", "1", "--b=2"] to ["--a=1", "--b=2"]."""
    out: list[str] = []
    for word in words:
        if out and not word.startswith("--") and "=" not in out[-1]:
            out[-1] += f"={word}"
        else:
            out.append(word)
    return out


def kinds(hint: Any) -> tuple[Any, ...]:
    """The types that a hint allows, None and the dots of a tuple left out."""
    if typing.get_origin(hint) is Literal:
        return (hint,)
    return tuple(a for a in typing.get_args(hint) if a not in (NoneType, ...)) or (hint,)


def converter(hint: Any):
    """A function from a flag's text to a value of the hint; argparse reports its ArgumentTypeError."""
    (kind,) = kinds(hint)

    def convert(text: str) -> Any:
        if typing.get_origin(kind) is Literal:
            choices = typing.get_args(kind)
            if text in choices:
                return text
            raise argparse.ArgumentTypeError(f"'{text}' is not one of {', '.join(choices)}")
        if kind is bool:
            if text.lower() == "auto" and NoneType in typing.get_args(hint):
                return None
            if text.lower() in ("true", "false", "1", "0", "yes", "no"):
                return text.lower() in ("true", "1", "yes")
            raise argparse.ArgumentTypeError(f"'{text}' is neither true nor false")
        try:
            return kind(text)
        except ValueError:
            name = {int: "a whole number", float: "a number"}.get(kind, kind.__name__)
            raise argparse.ArgumentTypeError(f"'{text}' is not {name}") from None

    return convert


def field_comments(cls: type) -> dict[str, str]:
    """What stands behind the `#` on each field's line, so that a setting and its help are written once."""
    return dict(re.findall(r"^    (\w+):[^#\n]*#\s*(.+)$", inspect.getsource(cls), re.MULTILINE))


def run_main(main, argv: list[str] | None = None) -> NoReturn:
    """Call main and exit with its code; the user's mistakes (UsageError) become one line and exit code 2."""
    environment.open_streams()
    if not isinstance(sys.stdout, environment.Stream):
        environment.speak_on(lasting=False)
    try:
        sys.exit(main(argv))
    except UsageError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        sys.stdout.flush()  # while a failure can still be told
