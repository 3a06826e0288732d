"""Turn a frozen dataclass into command-line flags and a settings file. Standard library only.

A field `name: type = default  # what it is` becomes `--name=value`, with its comment as help. `--name value`,
`--my-name` for my_name, and `--flag` alone for a bool work too. A field without a default is a word without a
flag. A `tuple[str, ...]` takes its flag any number of times, any other takes it once. `--config=my.toml`
stands for many flags, which win over it:

    max_iters = 300
    loss_on = "answers"
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import inspect
import json
import re
import shlex
import sys
import tomllib
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from arianna.system import environment
from arianna.system.misspelling import nearest
from arianna.system.setting import Once, Setting, Several, UsageError, is_decision
from arianna.system.visible import visible

T = TypeVar("T")
Sentences = Mapping[str, str]
DASHES = ("\u2010", "\u2011", "\u2012", "\u2013", "\u2014", "\u2015", "\u2212")  # that a word processor makes
SETTINGS_FILE = "config.toml"  # a run writes it; given with --config, it repeats the run
TOML_KINDS = {int: ((int,), "a whole number"), float: ((int, float), "a number")}
TOML_KINDS |= {bool: ((bool,), "true or false"), str: ((str,), 'a text in "quotes"')}


@contextlib.contextmanager
def usage_errors(*kinds: type[Exception]) -> Iterator[None]:
    """A context whose errors of these kinds are the user's mistakes: each becomes a UsageError."""
    try:
        yield
    except kinds as error:
        raise error if isinstance(error, UsageError) else UsageError(in_words(error)) from None


def parse(
    cls: type[T],
    argv: Sequence[str] | None,
    description: str | None,
    aliases: Mapping[str, str] | None = None,
    word: str | None = None,
) -> T:
    """Build `cls` from a command line (default: sys.argv). `aliases`: second names of flags and their fields.

    Raises UsageError for an unknown flag, one given twice, a value of the wrong type, and whatever ValueError
    the class itself raises. `word` is the flag that a bare word is pointed to. `--help` prints and exits.
    """
    return build(cls, read_flags([cls], argv, description, aliases, word))


def build(cls: type[T], values: Mapping[str, Any]) -> T:
    """An object of `cls` from those of the values that are its fields; its ValueErrors become UsageErrors."""
    names = {field.name for field in dataclasses.fields(cls)}
    with usage_errors(ValueError):
        return cls(**{name: value for name, value in values.items() if name in names})


def read_flags(
    classes: Sequence[type],
    argv: Sequence[str] | None,
    description: str | None,
    aliases: Mapping[str, str] | None = None,
    word: str | None = None,
    instead: Sentences | None = None,
) -> dict[str, Any]:
    """The values given in the settings file and by flags, by the names of the fields of all classes.

    A name that several classes have is one flag. The help shows the fields of the first class alone.
    `instead` names flags that are refused here, or that other programs have, each with what to do.
    """
    settings = fields_by_name(classes, instead or {})
    aliases = {alias: name for alias, name in (aliases or {}).items() if name in settings}
    parser = make_parser(settings, [f.name for f in dataclasses.fields(classes[0])], description, aliases)
    bools = {name for name, setting in settings.items() if bool in setting.kinds}
    words = alone(sys.argv[1:] if argv is None else argv, bools)
    namespace, unknown = parser.parse_known_args(words)
    values = vars(namespace)
    path = values.pop("config", None)
    if unknown:  # before the class misses a flag that was only mistyped
        word = f"{word}=" if word in values else word
        refuse_unknown(unknown[0], [*settings, *aliases], word, instead or {})
    return (from_file(Path(path), settings, aliases, instead or {}) if path is not None else {}) | values


def fields_by_name(classes: Sequence[type], refused: Sentences) -> dict[str, Setting]:
    """The settings of all classes; of a name that several have, the first one's."""
    settings: dict[str, Setting] = {}
    for cls in classes:
        hints, comments = typing.get_type_hints(cls), field_comments(cls)
        for field in dataclasses.fields(cls):
            if field.name not in refused:
                setting = Setting(field.name, hints[field.name], field.default, comments.get(field.name, ""))
                settings.setdefault(field.name, setting)
    return settings


# ---- the command line ----


def alone(argv: Sequence[str], bools: Collection[str]) -> list[str]:
    """A command line in which a flag of true or false that stands alone says so, and takes no next word."""
    behind = [*argv[1:], ""]
    return [
        f"{flag}=True" if names_one(flag, bools) and not is_decision(word) else flag
        for flag, word in zip(argv, behind, strict=False)
    ]


def names_one(flag: str, bools: Collection[str]) -> bool:
    """Whether a word is one of the flags of true or false, without a value."""
    return flag.startswith("--") and flag[2:].replace("-", "_") in bools


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if (missing := message.removeprefix("the following arguments are required: ")) != message:
            message = f"{missing} is missing; it is a word without a flag"
        raise UsageError(f"{message}. See `{self.prog} --help`.")


def program() -> str:
    """The words that start this program: `python arianna_ft.py`, `python -m arianna.report`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python {shlex.quote(sys.argv[0])}" if spec is None else f"python -m {spec.name}"


def make_parser(
    settings: Mapping[str, Setting], shown: Sequence[str], description: str | None, aliases: Mapping[str, str]
) -> Parser:
    words = [name.upper() for name, s in settings.items() if s.default is dataclasses.MISSING]
    parser = Parser(
        prog=program(),
        usage=" ".join(["%(prog)s [--name=value ...]", *words]),
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for name, setting in settings.items():
        add_argument(parser, setting, [a for a, meant in aliases.items() if meant == name], name in shown)
    path = Setting("config", str, None, "")
    config = {"action": Once, "type": path.convert, "metavar": "X"}
    parser.add_argument("--config", **config, help="a file of settings (TOML); flags win over it")
    return parser


def add_argument(parser: Parser, setting: Setting, aliases: Sequence[str], shown: bool) -> None:
    comment = setting.comment.replace("%", "%%")
    if setting.default is dataclasses.MISSING:
        parser.add_argument(setting.name, type=setting.convert, metavar=setting.name.upper(), help=comment)
        return
    names = [spelling for name in (setting.name, *aliases) for spelling in (name, name.replace("_", "-"))]
    default = "" if setting.default in (None, ()) else f" (default {setting.default})".replace("%", "%%")
    parser.add_argument(
        *dict.fromkeys(f"--{name}" for name in names),
        dest=setting.name,
        action=Several if setting.repeats else Once,
        type=setting.convert,
        metavar="X",
        help=comment + default if shown else argparse.SUPPRESS,
        **({"nargs": "?", "const": True} if bool in setting.kinds else {}),
    )


def refuse_unknown(argument: str, known: Sequence[str], word: str | None, instead: Sentences) -> NoReturn:
    """Raise UsageError for an argument that is no flag here, with the flag that was meant if certain.

    `word`: the flag that a bare word is pointed to, with "=" behind it if that is given already.
    """
    flag = argument.split("=")[0]
    if argument.startswith(DASHES):
        raise UsageError(
            f"{argument} begins with another sign; a flag begins with two hyphens, as --help does."
        )
    if word and not argument.startswith("-"):
        pointed = f"did you mean --{word}={shlex.quote(argument)}?"
        if word.endswith("="):
            pointed = f"--{word[:-1]} is given already; leave one out."
        raise UsageError(f"{argument} has no flag before it; {pointed}")
    name = flag.lstrip("-").replace("-", "_")
    if name in instead:
        raise UsageError(f"{flag} is not a flag of this command: {instead[name]}.")
    near = nearest(name, known) if flag.startswith("-") else None
    hint = f"did you mean --{near}?" if near else "--help lists what there is."
    what = "is not a flag of this command" if flag.startswith("-") else "has no flag before it"
    raise UsageError(f"{flag} {what}; {hint}")


def to_flags(config: Any) -> list[str]:
    """The command line that makes `config` again, without defaults."""
    flags = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is not None and value != field.default:
            flags += [f"--{field.name}={item}" for item in (value if isinstance(value, tuple) else (value,))]
    return flags


# ---- the settings file ----


def from_file(
    path: Path, settings: Mapping[str, Setting], aliases: Mapping[str, str], instead: Sentences
) -> dict[str, Any]:
    """The settings in a TOML file. Raises UsageError for an unknown name or a value of another type."""
    try:
        lines = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        reason = error.strerror
        raise UsageError(f"{path} cannot be read ({reason}); a file of settings is needed there.") from None
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path} is not TOML: {reason}. It needs lines such as max_iters = 300.") from None
    values: dict[str, Any] = {}
    for name, value in lines.items():
        setting = settings.get(aliases.get(name, name))
        if setting is None:
            refuse_setting(path, name, [*settings, *aliases], instead)
        if setting.name in values:
            raise UsageError(f"{path}: {name} is given twice; which of the values is meant? Leave one out.")
        values[setting.name] = value_of(path, name, value, setting)
    return values


def refuse_setting(path: Path, name: str, known: Sequence[str], instead: Sentences) -> NoReturn:
    if name in instead:
        raise UsageError(f"{path}: {name} is not a setting of this command: {instead[name]}.")
    near = nearest(name, known)
    raise UsageError(
        f"{path}: {name} is not a setting of this command{f'; did you mean {near}?' if near else '.'}"
    )


def value_of(path: Path, name: str, value: Any, setting: Setting) -> Any:
    kind = setting.kinds[0]
    types, what = TOML_KINDS.get(kind, TOML_KINDS[str])
    is_bool = isinstance(value, bool)  # Python takes it for a number
    if not isinstance(value, types) or is_bool != (kind is bool):
        raise UsageError(f"{path}: {name} is {value!r}; {what} is needed there.")
    try:
        return setting.convert(str(value))
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"{path}: {name}: {error}.") from None


def text_of(*configs: Any, without: Sequence[str] = ()) -> str:
    """The file that makes the configs again; the first value of a name counts, None is left out."""
    lines: dict[str, str] = {}
    for config in configs:
        comments = field_comments(type(config))
        for name, value in dataclasses.asdict(config).items():
            if name not in without and value is not None:
                lines.setdefault(name, f"{name} = {spelled(value)}  # {comments.get(name, '')}".rstrip(" #"))
    return "".join(f"{line}\n" for line in lines.values())


def spelled(value: str | bool | int | float) -> str:
    """A value in JSON's spelling, which is TOML's too; only there, U+007F must be escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def field_comments(cls: type) -> dict[str, str]:
    """The comment of each field, above it or behind it, so that a setting and its help are written once."""
    field = r"^    (?:# (?P<above>.+)\n    )?(?P<name>\w+): [^#\n]*(?:# *(?P<behind>.+))?$"
    matches = re.finditer(field, inspect.getsource(cls), re.MULTILINE)
    return {m["name"]: m["above"] or m["behind"] for m in matches if m["above"] or m["behind"]}


# ---- a command ----


def in_words(error: BaseException) -> str:
    """The sentence of an error: of one from the system without its number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename} cannot be used: {error.strerror}." if error.filename else error.strerror
    return str(error)


def run_main(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> NoReturn:
    """Call main and exit with its code. A UsageError becomes one line and code 2, an OSError code 1."""
    environment.open_streams()
    if not isinstance(sys.stdout, environment.Stream):
        environment.speak_on(lasting=False)
    try:
        sys.exit(main(argv))
    except UsageError as error:
        print(visible(str(error)), file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # of the machine: a full disk, a folder that may not be written
        print(visible(in_words(error)), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        sys.stdout.flush()  # while a failure can still be told
