"""A frozen dataclass to command-line flags."""

from dataclasses import dataclass
from typing import Literal

import pytest

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


@pytest.mark.parametrize("words", [["--max_iters=7"], ["--max_iters", "7"], ["--max-iters=7"], ["--max-iters", "7"]])
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
    [("--compile", True), ("--compile=true", True), ("--compile=1", True), ("--compile=yes", True), ("--compile=False", False)]
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
    with pytest.raises(config.UsageError, match=f"^{named} is not a flag of this command; did you mean {near}\\?$"):
        parse(*words, aliases={"lr": "learning_rate"})


def test_a_flag_like_no_other_and_a_stray_word_are_refused():
    with pytest.raises(config.UsageError, match="--zzzzzz is not a flag .*--help"):
        parse("--zzzzzz=1")
    with pytest.raises(config.UsageError, match="stray is not a flag"):
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


def test_unknown_flags_can_be_passed_on():
    found, rest = config.parse_known(Sample, ["--max_iters=3", "--dim", "64", "--tall", "--width=2"], None)
    assert found == Sample(max_iters=3)
    assert rest == ["--dim=64", "--tall", "--width=2"]


def test_a_field_without_default_is_a_word_without_flag():
    assert parse("a.bin", "--half", cls=Positional) == Positional("a.bin", half=True)
    assert parse("--half=true", "a.bin", cls=Positional) == Positional("a.bin", half=True)
    with pytest.raises(config.UsageError, match="required: OUT"):
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
