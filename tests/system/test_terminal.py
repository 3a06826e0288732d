"""What a person at a terminal sees and types."""

import io
import os
import sys

import pytest

from arianna.system import terminal

CELLS = ["The sea is a slow breath, and I listen to it all day long.\nThen night.", "A fish."]


def test_control_characters_are_spelled_out(capsys):
    terminal.say("a\x1b[2Jb\tc\nd\x07\x9b")
    assert capsys.readouterr().out == "a\\x1b[2Jb\tc\nd\\x07\\x9b"


def test_a_wide_terminal_shows_two_columns():
    assert terminal.beside("Q: What is\nthe sea?", ["out/tuned.pt", "out/base.pt"], CELLS, 69) == "\n".join(
        [
            "Q: What is",
            "the sea?",
            "",
            "out/tuned.pt                      | out/base.pt",
            "--------------------------------- | ---------------------------------",
            "The sea is a slow breath, and I   | A fish.",
            "listen to it all day long.        |",
            "Then night.                       |",
        ]
    )


def test_a_narrow_terminal_shows_one_below_the_other():
    assert terminal.beside("Q: What?", ["out/tuned.pt", "out/base.pt"], CELLS, 60) == "\n".join(
        [
            "Q: What?",
            "",
            "[out/tuned.pt]",
            "The sea is a slow breath, and I listen to it all day long.",
            "Then night.",
            "",
            "[out/base.pt]",
            "A fish.",
        ]
    )


def test_no_line_is_wider_than_the_terminal_and_no_word_is_lost():
    cells = ["long" * 30 + " end", "short words " * 20]
    for width in (20, 60, 67, 68, 80, 200):
        shown = terminal.beside("Q: " + "why " * 40, ["folder/" * 20, "b.pt"], cells, width)
        assert max(map(len, shown.split("\n"))) <= width
        assert shown.count("short") == 20 and shown.count("why") == 40


def test_a_remark_goes_to_stderr_in_brackets(capsys):
    terminal.note("a bell \a")
    assert capsys.readouterr() == ("", "(a bell \\x07)\n")


def test_without_a_terminal_a_line_stands_for_a_key(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("1\n  = and more\n\n2"))
    assert [terminal.one_key("? ") for _ in range(5)] == ["1", "=", "\n", "2", ""]
    assert capsys.readouterr().out == "? " * 5


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals there")
@pytest.mark.parametrize(("typed", "key"), [(b"2", "2"), (b"=", "="), (b"\x04", "")])
def test_at_a_terminal_one_key_is_enough_and_the_terminal_is_left_as_it_was(monkeypatch, capsys, typed, key):
    import pty
    import termios
    import tty

    ours, its = pty.openpty()
    by_keys = tty.setcbreak
    monkeypatch.setattr(tty, "setcbreak", lambda *args: (by_keys(*args), os.write(ours, typed)))
    with open(its) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        before = termios.tcgetattr(its)
        assert terminal.one_key("? ") == key
        assert termios.tcgetattr(its) == before
    os.close(ours)
