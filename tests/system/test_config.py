"""A frozen dataclass to command-line flags and a settings file."""

import re
import tomllib
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arianna.system import config


@dataclass(frozen=True)
class Sample:
    """Settings of nothing."""

    learning_rate: float = 1e-5  # peak rate, 100% of it
    max_iters: int = 1000  # steps
    name: str = "none yet"  # what it is called
    base: str | None = None  # where it starts
    warmup: int | None = None  # steps before the peak
    compile: bool = False  # slower start, faster steps
    mode: Literal["scratch", "resume"] = "resume"  # how it starts
    way: Literal["up", "down"] | None = None  # where it goes

    def __post_init__(self) -> None:
        if self.max_iters < 1:
            raise ValueError(f"max_iters is {self.max_iters}; it must be at least 1")


@dataclass(frozen=True)
class Positional:
    """Settings with a word that has no flag."""

    out: str  # the file to write
    half: bool = False  # smaller


def parse(*words: str, cls=Sample, aliases=None):
    return config.parse(cls, list(words), "A description.", aliases)


@pytest.mark.parametrize(
    "words", [["--max_iters=7"], ["--max_iters", "7"], ["--max-iters=7"], ["--max-iters", "7"]]
)
def test_a_flag_is_taken_in_every_spelling(words):
    assert parse(*words) == Sample(max_iters=7)


def test_without_flags_the_defaults_hold():
    assert parse() == Sample()
    assert parse().base is None and parse().warmup is None


def test_an_alias_sets_its_field():
    assert parse("--lr=2", aliases={"lr": "learning_rate"}) == Sample(learning_rate=2.0)
    assert parse("--learning_rate=2", aliases={"lr": "learning_rate"}) == Sample(learning_rate=2.0)


def test_a_field_that_may_be_none_takes_a_value_of_its_type():
    assert parse("--warmup=3", "--base=a.pt", "--way=up") == Sample(warmup=3, base="a.pt", way="up")


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("--compile", True),
        ("--compile=true", True),
        ("--compile=1", True),
        ("--compile=yes", True),
        ("--compile=False", False),
    ]
    + [("--compile=0", False), ("--compile=no", False)],
)
def test_a_bool_stands_alone_or_says_which(word, value):
    assert parse(word).compile is value


def test_a_bool_does_not_swallow_the_next_flag():
    assert parse("--compile", "--max_iters=3") == Sample(compile=True, max_iters=3)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--max_iters=1.5", "'1.5' is not a whole number"),
        ("--max_iters=many", "'many' is not a whole number"),
        ("--warmup=None", "'None' is not a whole number"),
        ("--learning_rate=fast", "'fast' is not a number"),
        ("--compile=maybe", "'maybe' is neither true nor false"),
        ("--mode=continue", "'continue' is not one of scratch, resume"),
        ("--way=left", "'left' is not one of up, down"),
        ("--max_iters=0", "max_iters is 0; it must be at least 1"),
        ("--max_iters", "expected one argument"),
    ],
)
def test_a_wrong_value_is_refused_in_one_sentence(word, message):
    with pytest.raises(config.UsageError) as caught:
        parse(word)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "named", "near"),
    [
        (["--max_iter=3"], "--max_iter", "--max_iters"),
        (["--learning-rat", "3"], "--learning-rat", "--learning_rate"),
        (["--lrr=3"], "--lrr", "--lr"),
    ],
)
def test_an_unknown_flag_is_named_with_the_nearest_one(words, named, near):
    with pytest.raises(
        config.UsageError, match=f"^{named} is not a flag of this command; did you mean {near}\\?$"
    ):
        parse(*words, aliases={"lr": "learning_rate"})


def test_a_flag_like_no_other_and_a_stray_word_are_refused():
    with pytest.raises(config.UsageError, match="--zzzzzz is not a flag .*--help"):
        parse("--zzzzzz=1")
    with pytest.raises(config.UsageError, match="stray has no flag before it; --help"):
        parse("stray")


def test_a_mistyped_flag_is_named_before_what_it_leaves_out():
    @dataclass(frozen=True)
    class Needy:
        checkpoint: str | None = None

        def __post_init__(self) -> None:
            if self.checkpoint is None:
                raise ValueError("--checkpoint is missing")

    with pytest.raises(config.UsageError, match="did you mean --checkpoint"):
        parse("--checkpont=x", cls=Needy)
    with pytest.raises(config.UsageError, match="--checkpoint is missing"):
        parse(cls=Needy)


def test_no_flag_may_be_shortened():
    with pytest.raises(config.UsageError, match="--max is not a flag"):
        parse("--max=3")


def test_a_field_without_default_is_a_word_without_flag():
    assert parse("a.bin", "--half", cls=Positional) == Positional("a.bin", half=True)
    assert parse("--half=true", "a.bin", cls=Positional) == Positional("a.bin", half=True)
    with pytest.raises(config.UsageError, match="OUT is missing; it is a word without a flag"):
        parse("--half", cls=Positional)
    with pytest.raises(config.UsageError, match="--out is not a flag"):
        parse("a.bin", "--out=b.bin", cls=Positional)


def test_help_shows_the_comments_and_the_defaults(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "A description." in text
    assert "--max_iters X, --max-iters X steps (default 1000)" in text
    assert "peak rate, 100% of it (default 1e-05)" in text
    assert "where it starts --warmup" in text, "None is not worth showing"


def test_flags_make_the_same_settings_again():
    settings = Sample(learning_rate=0.1, base="a b.pt", compile=True, mode="scratch")
    flags = config.to_flags(settings)
    assert flags == ["--learning_rate=0.1", "--base=a b.pt", "--compile=True", "--mode=scratch"]
    assert parse(*flags) == settings


def test_a_usage_error_is_one_line_and_exit_code_2(capsys):
    def main(argv):
        raise config.UsageError("one sentence")

    with pytest.raises(SystemExit) as caught:
        config.run_main(main, [])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "one sentence\n"


def test_the_code_of_main_is_the_exit_code():
    with pytest.raises(SystemExit) as caught:
        config.run_main(lambda argv: 7, [])
    assert caught.value.code == 7


def test_ctrl_c_is_exit_code_130_without_a_traceback():
    def main(argv):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        config.run_main(main, [])
    assert caught.value.code == 130


# ---- the settings file ----


@dataclass(frozen=True)
class Other:
    """More settings."""

    max_iters: int = 7
    width: int = 3  # of it


ALIASES = {"lr": "learning_rate"}


def parse_file(tmp_path, text: str, *words: str) -> Sample:
    path = tmp_path / "my.toml"
    path.write_bytes(text.encode())
    return parse(f"--config={path}", *words, aliases=ALIASES)


def test_a_file_gives_settings_and_flags_win_over_it(tmp_path):
    text = '\ufeff# mine\nmax_iters = 3\nlr = 1\nname = "a b\\n\'c\'"\ncompile = true\nmode = "scratch"\n'
    assert parse_file(tmp_path, text) == Sample(1.0, 3, "a b\n'c'", compile=True, mode="scratch")
    flags = ("--max-iters", "9", "--compile=no", "--learning_rate=2")
    assert parse_file(tmp_path, text, *flags) == Sample(2.0, 9, "a b\n'c'", mode="scratch")
    assert parse_file(tmp_path, "") == Sample()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_iter = 3", r"max_iter is not a setting of this command; did you mean max_iters\?"),
        ("lrr = 3", r"did you mean lr\?"),
        ("zzzz = 3", r"zzzz is not a setting of this command\.$"),
        ("config = 'other.toml'", "config is not a setting of this command"),
        ("[max_iters]\na = 1", "max_iters is {'a': 1}; a whole number is needed there"),
        ("max_iters = '3'", "max_iters is '3'; a whole number is needed there"),
        ("max_iters = 3.0", "max_iters is 3.0; a whole number"),
        ("max_iters = true", "max_iters is True; a whole number"),
        ("lr = true", "lr is True; a number is needed there"),
        ("compile = 1", "compile is 1; true or false is needed there"),
        ("name = 3", 'name is 3; a text in "quotes" is needed there'),
        ("name = ['a']", "name is .'a'.; a text"),
        ("mode = 'continue'", "mode: 'continue' is not one of scratch, resume"),
        ("max_iters = ", "is not TOML: Invalid value"),
        ("max_iters = 3\nmax_iters = 4", "is not TOML: "),
        ("a = " + "[" * 5000, "is not TOML: "),
    ],
)
def test_what_a_file_cannot_say_is_one_sentence(tmp_path, text, message):
    with pytest.raises(config.UsageError, match=message) as caught:
        parse_file(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "my.toml")) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_not_text_is_told(tmp_path):
    with pytest.raises(config.UsageError, match="none.toml cannot be read .No such file"):
        parse(f"--config={tmp_path / 'none.toml'}")
    (tmp_path / "a.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(config.UsageError, match="a.toml is not TOML"):
        parse(f"--config={tmp_path / 'a.toml'}")
    with pytest.raises(config.UsageError, match="--config: expected one argument"):
        parse("--config")


@given(
    st.builds(
        Sample,
        learning_rate=st.floats(allow_nan=False, allow_infinity=False),
        max_iters=st.integers(min_value=1),
        name=st.text(),
        compile=st.booleans(),
    )
)
def test_a_file_makes_the_same_settings_again(settings):
    found = tomllib.loads(config.text_of(settings))
    assert Sample(**found) == settings


def test_the_first_of_two_settings_counts_and_some_are_left_out():
    without = ("compile", "mode", "learning_rate")
    assert config.text_of(Sample(max_iters=5), Other(), without=without) == (
        'max_iters = 5  # steps\nname = "none yet"  # what it is called\nwidth = 3  # of it\n'
    )


def test_a_file_that_gives_a_setting_twice_is_refused(tmp_path):
    with pytest.raises(config.UsageError, match="my.toml: learning_rate is given twice"):
        parse_file(tmp_path, "lr = 1\nlearning_rate = 2")


@pytest.mark.parametrize(
    "words",
    [
        ["--max_iters=3", "--max-iters=3"],
        ["--base=a", "--base=b"],
        ["--lr=1", "--learning_rate=1"],
        ["--compile"] * 2,
    ],
)
def test_a_flag_is_given_once_by_whatever_name(words):
    with pytest.raises(config.UsageError, match=f"^{words[1].split('=')[0]} is given twice"):
        parse(*words, aliases=ALIASES)


def test_a_tuple_takes_its_flag_any_number_of_times_as_it_stands():
    @dataclass(frozen=True)
    class Prose:
        question: tuple[str, ...] = ()

    assert parse("--question=~/", "--question=", cls=Prose).question == ("~/", "")
    assert parse(cls=Prose).question == ()


@pytest.mark.parametrize("words", [["--base=~/runs"], ["--base", "~/runs"]])
def test_the_home_folder_is_found_where_no_shell_does_it(words, monkeypatch):
    monkeypatch.setenv("HOME", "/home/her")
    assert parse(*words).base == "/home/her/runs"
    assert parse("--base=~").base == "/home/her" and parse("--base=a~/b").base == "a~/b"


def test_an_empty_value_is_refused_unless_it_is_the_default():
    @dataclass(frozen=True)
    class Texts:
        system: str = ""
        out_dir: str = "out"

    assert parse("--system=", cls=Texts) == Texts()
    with pytest.raises(config.UsageError, match="argument --out_dir/--out-dir: it is empty; give a value"):
        parse("--out_dir=", cls=Texts)


@pytest.mark.parametrize(
    "flag", ["--max_length=3", "--min_iters=3", "--a_base=3", "--modes_2=up", "--x=1", "--way2=up"]
)
def test_a_flag_that_is_only_near_gets_no_hint(flag):
    with pytest.raises(config.UsageError, match="is not a flag of this command; --help lists what there is"):
        parse(flag)


def test_a_negation_is_pointed_to_what_it_means():
    for flag in ("--no-compile", "--nocompile"):
        with pytest.raises(
            config.UsageError, match=f"{flag} is not a flag of this command; did you mean --compile=False"
        ):
            parse(flag)


@pytest.mark.parametrize("word", ["mine.jsonl", "What is time?"])
def test_a_bool_does_not_swallow_the_next_word(word):
    with pytest.raises(config.UsageError, match=f"^{re.escape(word)} has no flag before it"):
        parse("--compile", word)
    assert parse("--compile", "no", "--max_iters", "3") == Sample(compile=False, max_iters=3)
    assert parse("--compile", "--max_iters=3").compile is True


def test_control_characters_in_a_sentence_are_spelled_out(capsys):
    def fails(argv):
        raise config.UsageError("a\x1b[2J\u202eb.jsonl is missing.\nAnd c.")

    with pytest.raises(SystemExit):
        config.run_main(fails, [])
    assert capsys.readouterr().err == "a\\x1b[2J\\u202eb.jsonl is missing.\nAnd c.\n"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(13, "Permission denied", "a.bin"), "a.bin cannot be used: Permission denied.\n"),
        (
            OSError(28, "a.bin could not be written: No space left on device"),
            "a.bin could not be written: No",
        ),
    ],
)
def test_what_the_machine_refuses_is_a_sentence_and_exit_code_1(error, told, capsys):
    def fails(argv):
        raise error

    with pytest.raises(SystemExit) as left:
        config.run_main(fails, [])
    assert left.value.code == 1 and capsys.readouterr().err.startswith(told)


def test_a_dash_of_a_word_processor_is_told():
    with pytest.raises(config.UsageError, match="^—width=3 begins with another sign; a flag begins with two"):
        config.parse(Sample, ["\u2014width=3"], "", word="way")


def test_a_second_word_is_not_pointed_to_a_flag_that_is_given():
    with pytest.raises(config.UsageError, match="^b has no flag before it; --way is given already"):
        config.parse(Sample, ["--way=up", "b"], "", word="way")


def test_an_empty_settings_file_is_no_folder():
    with pytest.raises(config.UsageError, match="--config: it is empty; give a value"):
        parse("--config=")


def test_a_bare_word_is_pointed_to_its_flag():
    with pytest.raises(
        config.UsageError, match=r"^my file has no flag before it; did you mean --base='my file'\?$"
    ):
        config.parse(Sample, ["my file"], None, word="base")


def test_several_classes_are_read_at_once_and_flags_of_elsewhere_are_told_what_to_do(tmp_path):
    instead = {"width": "it follows from the name", "data": "give --name=NAME"}
    (tmp_path / "a.toml").write_text("width = 3")
    flags = config.read_flags([Sample, Other], ["--max_iters=3", "--lr=1"], None, ALIASES, instead=instead)
    assert flags == {"max_iters": 3, "learning_rate": 1.0}
    for words, message in (
        (["--width=3"], "^--width is not a flag of this command: it follows from the name.$"),
        (["--data=3"], "^--data is not a flag of this command: give --name=NAME.$"),
        (["--widht=3"], "--help lists"),
        ([f"--config={tmp_path / 'a.toml'}"], "a.toml: width is not a setting of this command: it follows"),
    ):
        with pytest.raises(config.UsageError, match=message):
            config.read_flags([Sample, Other], words, None, ALIASES, instead=instead)
