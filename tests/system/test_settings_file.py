"""Settings from a file, and the file that repeats a run."""

import tomllib
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arianna.system import config, settings_file


@dataclass(frozen=True)
class Sample:
    """Settings of nothing."""

    learning_rate: float | None = None  # peak rate
    max_iters: int = 1000  # steps
    name: str = "none yet"  # what it is called
    compile: bool = False  # slower start, faster steps
    mode: Literal["scratch", "resume"] = "resume"  # how it starts


@dataclass(frozen=True)
class Other:
    """More settings."""

    max_iters: int = 7
    width: int = 3  # of it


ALIASES = {"lr": "learning_rate"}


def parse(tmp_path, text: str, *words: str) -> Sample:
    path = tmp_path / "my.toml"
    path.write_bytes(text.encode())
    return config.parse(Sample, settings_file.expand([f"--config={path}", *words], [Sample], ALIASES), None, ALIASES)


def test_a_file_gives_settings_and_flags_win_over_it(tmp_path):
    text = '\ufeff# mine\nmax_iters = 3\nlr = 1\nname = "a b\\n\'c\'"\ncompile = true\nmode = "scratch"\n'
    assert parse(tmp_path, text) == Sample(1.0, 3, "a b\n'c'", True, "scratch")
    assert parse(tmp_path, text, "--max-iters", "9", "--compile=no", "--learning_rate=2") == Sample(2.0, 9, "a b\n'c'", False, "scratch")
    assert parse(tmp_path, "") == Sample()


def test_without_a_file_the_words_are_as_they_were(tmp_path):
    assert settings_file.expand(["--max_iters", "3", "x"], [Sample]) == ["--max_iters", "3", "x"]
    (tmp_path / "a.toml").write_text("max_iters = 3")
    assert settings_file.expand(["--config", str(tmp_path / "a.toml"), "x"], [Sample]) == ["--max_iters=3", "x"]


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
        parse(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "my.toml")) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_not_text_is_told(tmp_path):
    with pytest.raises(config.UsageError, match="none.toml cannot be read .No such file"):
        settings_file.expand([f"--config={tmp_path / 'none.toml'}"], [Sample])
    (tmp_path / "a.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(config.UsageError, match="a.toml is not TOML"):
        settings_file.expand([f"--config={tmp_path / 'a.toml'}"], [Sample])
    with pytest.raises(config.UsageError, match="--config: expected one argument"):
        settings_file.expand(["--config"], [Sample])


@given(st.builds(Sample, st.none() | st.floats(allow_nan=False, allow_infinity=False), st.integers(), st.text(), st.booleans()))
def test_a_file_makes_the_same_settings_again(settings):
    found = tomllib.loads(settings_file.text_of(settings))
    assert Sample(**found) == settings


def test_the_first_of_two_settings_counts_and_some_are_left_out():
    assert settings_file.text_of(Sample(max_iters=5), Other(), without=("compile", "mode")) == (
        'max_iters = 5  # steps\nname = "none yet"  # what it is called\nwidth = 3  # of it\n'
    )
