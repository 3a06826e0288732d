"""Text as a model writes it, what a person types, and the conversation at the terminal."""

import io
import re
import sys

import pytest
from helpers import ROOT, Scripted, train_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from arianna import chat
from arianna.chat import Chat, Continuation, Reader, Sampling, complete, converse, until_next_question
from arianna.corpus import encoding
from arianna.corpus.conversations import Conversation
from arianna.corpus.template import prompt
from tokenizer import BOS, EOS, FIRST_PIECE, Tokenizer

TOKENIZER = Tokenizer(ROOT / "data/tok4096.model")
pytestmark = pytest.mark.usefixtures("scripted_generation")


def text(words: str, end: int = BOS) -> list[int]:
    """The tokens of an answer as a model says it behind "A:"."""
    return [*TOKENIZER.encode(words), end]


def said(ids: list[int], prompt: str = "Q: a\nA:", **settings) -> list[str]:
    return list(
        Continuation(Scripted(ids), TOKENIZER, [BOS, *TOKENIZER.encode(prompt)], Sampling(**settings))
    )


# ---- text as it comes ----

TEXTS = [
    "The sea is a slow breath.",
    "  two  spaces, a tab\tand\n\n new lines ",
    "“Don’t,” she said — naïve, œuvre…",
    "日本語 и русский, 🎵🎶 and 👩‍👩‍👧",
    "byte \ufffd itself \ufffd",
    "",
]


@pytest.mark.parametrize("words", TEXTS)
@pytest.mark.parametrize("prompt", ["", "Q: Wo?\nA:", "é 🎵", "ends with a space "])
def test_the_pieces_of_a_text_are_the_text(words, prompt):
    ids = text(words)[:-1]
    before = [BOS, *TOKENIZER.encode(prompt)]
    pieces = said([*ids, BOS], prompt)
    assert "".join(pieces) == TOKENIZER.decode([*before, *ids])[len(TOKENIZER.decode(before)) :]
    assert TOKENIZER.decode(before) == prompt
    if "\ufffd" not in words:
        assert "\ufffd" not in "".join(pieces)


def test_no_piece_ends_within_a_character_and_none_is_late():
    ids = TOKENIZER.encode("a 🎵 b")
    assert len(ids) > 5, "the note takes four bytes"
    shown = said([*ids, BOS], prompt="x")
    assert [piece for piece in shown if piece] == [" a", " ", "🎵", " b"]


BYTES = st.integers(3, FIRST_PIECE - 1)


@given(st.lists(st.integers(3, TOKENIZER.vocab_size - 1) | BYTES, max_size=30), st.lists(BYTES, max_size=3))
def test_any_tokens_give_the_text_they_decode_to(ids, first):
    before = [BOS, *TOKENIZER.encode("A:"), *first]
    pieces = list(Continuation(Scripted(ids), TOKENIZER, before, Sampling()))
    if not TOKENIZER.decode(before).endswith("\ufffd"):  # which the text would go on to change
        assert TOKENIZER.decode(before) + "".join(pieces) == TOKENIZER.decode([*before, *ids])


@pytest.mark.parametrize("end", [BOS, EOS])
def test_a_text_ends_at_bos_and_eos(end):
    assert "".join(said([*text("Yes.", end), *text("No.")])) == " Yes."


def test_a_text_ends_after_max_new_tokens_and_half_a_character_is_shown_then():
    assert "".join(said(text("one, two, three"), max_new_tokens=3)) == " one, two"
    assert "".join(said(TOKENIZER.encode("🎵")[:3], prompt="x")).endswith("\ufffd")


# ---- the conversation ----


def talk(monkeypatch, model, *lines: str, system: str = "", **settings) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    return converse(Chat(model, TOKENIZER, Sampling(**settings), system))


def rendered(*turns: tuple[str, str], then: str, system: str = "") -> list[int]:
    """What the model is given after some turns, by the code that prepares its training."""
    past = encoding.encode_turns(Conversation(turns, system), TOKENIZER)[0].tolist() if turns else [BOS]
    return [*past, *TOKENIZER.encode(prompt(then, "" if turns else system))]


def test_a_chat_keeps_the_turns_in_sight_as_they_were_trained(monkeypatch, capsys):
    model = Scripted(text("I am well."), text("Blue.\n", EOS), text("Bye."))
    assert talk(monkeypatch, model, "How are you?", "", "Which colour?", "Good bye") == 0
    assert capsys.readouterr().out == "I am well.\nBlue.\n\nBye.\n"
    first, second = ("How are you?", "I am well."), ("Which colour?", "Blue.")
    assert model.prompts == [
        rendered(then=first[0]),
        rendered(first, then=second[0]),
        rendered(first, second, then="Good bye"),
    ]
    assert len(set(model.seeds)) == 3


def test_a_chat_drops_the_oldest_turns_and_leaves_room_for_an_answer(monkeypatch):
    questions = [f"Question number {i}?" for i in range(8)]
    model = Scripted(*[text("An answer of some words.")] * 8, context=96)
    talk(monkeypatch, model, *questions, max_new_tokens=40)
    turns = [(q, "An answer of some words.") for q in questions]
    lengths = [len(p) for p in model.prompts]
    assert max(lengths) <= 96 - 40
    assert model.prompts[1] == rendered(turns[0], then=questions[1])
    kept = [
        next(n for n in range(i + 1) if model.prompts[i] == rendered(*turns[n:i], then=questions[i]))
        for i in range(8)
    ]
    assert kept == sorted(kept) and kept[-1] > 3
    longer = [len(rendered(*turns[max(n - 1, 0) : i], then=questions[i])) for i, n in enumerate(kept)]
    assert all(n == 0 or length > 96 - 40 for n, length in zip(kept, longer, strict=True)), (
        "no turn is dropped that would fit"
    )


def test_reset_forgets_and_quit_leaves(monkeypatch, capsys):
    model = Scripted(text("One."), text("Two."), text("Three."))
    talk(monkeypatch, model, "First?", "/reset", "Second?", "/dance", "/quit", "Third?")
    assert model.prompts == [rendered(then="First?"), rendered(then="Second?")]
    assert model.seeds[0] == model.seeds[1]
    out, err = capsys.readouterr()
    assert out == "One.\nTwo.\n"
    assert err == "(/dance is not known here; there are /reset and /quit)\n"


def test_ctrl_c_stops_the_answer_and_the_chat_goes_on(monkeypatch, capsys):
    model = Scripted([*TOKENIZER.encode("Half of"), None], [None], text("Whole."))
    assert talk(monkeypatch, model, "One?", "Two?", "Three?") == 0
    assert capsys.readouterr().out == "Half of\n\nWhole.\n"
    assert model.prompts[1:] == [rendered(("One?", "Half of"), then=q) for q in ("Two?", "Three?")], (
        "a turn without an answer is none"
    )


@pytest.mark.parametrize(("on_the_line", "asks"), [([""], 1), (["half a ques", ""], 2)])
def test_ctrl_c_leaves_only_at_an_empty_prompt(monkeypatch, on_the_line, asks):
    calls = []

    def pressed(prompt):
        calls.append(prompt)
        raise KeyboardInterrupt

    lines = iter(on_the_line)
    monkeypatch.setattr("builtins.input", pressed)
    monkeypatch.setattr(chat, "typed", lambda: next(lines))
    assert chat.ask(interactive=True) is None
    assert calls == ["> "] * asks


def test_a_question_too_long_for_the_context_is_told_and_forgotten(monkeypatch, capsys):
    model = Scripted(text("One."), text("Two."), context=32)
    talk(monkeypatch, model, "First?", "word " * 40, "Second?", max_new_tokens=3)
    assert "too many for a context of 32; ask a shorter one" in capsys.readouterr().err
    assert model.prompts == [rendered(then="First?"), rendered(("First?", "One."), then="Second?")]


def test_an_answer_ends_before_a_question_that_the_model_invents(monkeypatch, capsys):
    model = Scripted([*TOKENIZER.encode("Yes.\nQuite.\n Q: And?\nA: Never."), BOS], text("No."))
    talk(monkeypatch, model, "Is it?", "Really?")
    assert capsys.readouterr().out == "Yes.\nQuite.\nNo.\n"
    assert model.prompts[1] == rendered(("Is it?", "Yes.\nQuite."), then="Really?")


@given(st.lists(st.text("aQ: \n", max_size=4), max_size=12))
def test_a_text_is_shown_up_to_the_next_question_however_it_is_cut(parts):
    whole = "".join(parts)
    assert "".join(until_next_question(parts)) == re.split(r"\n[^\S\n]*Q:", whole)[0]


def test_a_full_context_is_told_in_the_chat(monkeypatch, capsys):
    talk(monkeypatch, Scripted(text("word " * 40), context=32), "First?")
    assert capsys.readouterr().err == "(the context of 32 tokens is full)\n"


def test_the_system_text_stands_ahead_of_the_first_question_in_sight(monkeypatch):
    model = Scripted(text("Red."), text("Blue."))
    talk(monkeypatch, model, "Which colour?", "And now?", system=" Be\nbrief. ")
    first = ("Which colour?", "Red.")
    assert model.prompts[0] == rendered(then=first[0], system="Be\nbrief.")
    assert model.prompts[1] == rendered(first, then="And now?", system="Be\nbrief.")
    assert TOKENIZER.decode(model.prompts[0]).startswith("Be\nbrief.\nQ: Which")


def test_the_system_text_goes_on_when_the_first_turns_are_dropped(monkeypatch):
    model = Scripted(*[text("An answer of some words.")] * 6, context=96)
    talk(
        monkeypatch,
        model,
        *[f"Question number {i}?" for i in range(6)],
        system="Be brief.",
        max_new_tokens=40,
    )
    assert all(TOKENIZER.decode(ids).startswith("Be brief.\nQ: Question") for ids in model.prompts)
    assert max(map(len, model.prompts)) <= 96 - 40
    assert "number 0" not in TOKENIZER.decode(model.prompts[-1])


# ---- what a person types ----


@pytest.fixture(scope="module")
def ascii_tokenizer(tmp_path_factory):
    """A tokenizer that spells typography in bytes, and reads two spaces as one."""
    path = tmp_path_factory.mktemp("ascii") / "ascii.model"
    return train_tokenizer(path, remove_extra_whitespaces=True)


def test_typography_becomes_ascii_as_in_training_and_is_told_once(ascii_tokenizer, capsys):
    reader = Reader(ascii_tokenizer)
    typed = Conversation((("“Don’t” – why…", "A."),))
    trained = encoding.plain_conversation(typed, ascii_tokenizer)[0].turns[0][0]
    assert (
        [reader.plain("“Don’t” – why…"), reader.plain("‘so’")]
        == [trained, "'so'"]
        == ['"Don\'t" - why...', "'so'"]
    )
    assert (
        capsys.readouterr().err == "(typographic quotes, dashes and ellipses become ASCII, as in training)\n"
    )
    assert Reader(TOKENIZER).plain("“Don’t”") == "“Don’t”", "what has tokens of its own stays"


def test_a_chat_asks_in_ascii_and_remembers_it(monkeypatch, ascii_tokenizer):
    model = Scripted([*ascii_tokenizer.encode("So."), BOS], [BOS])
    monkeypatch.setattr(sys, "stdin", io.StringIO("It’s?\nWhy?\n"))
    converse(Chat(model, ascii_tokenizer, Sampling()))
    assert [ascii_tokenizer.decode(ids) for ids in model.prompts] == [
        "Q: It's?\nA:",
        "Q: It's?\nA: So.\n Q: Why?\nA:",
    ]


def test_a_tokenizer_that_reads_two_spaces_as_one_is_told_once_and_only_where_it_matters(
    ascii_tokenizer, capsys
):
    reader = Reader(ascii_tokenizer)
    reader.encode("one space")
    assert capsys.readouterr().err == ""
    reader.encode("two  spaces")
    reader.encode("and  again")
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "ascii.model reads two spaces as one, llama2.c's run as two" in err
    Reader(TOKENIZER).encode("two  spaces")
    assert capsys.readouterr().err == ""


def test_half_a_character_is_refused():
    with pytest.raises(
        ValueError, match=r"^the prompt 'half \\udcff' is not UTF-8 text \(character 6\); type it anew\.$"
    ):
        Reader(TOKENIZER).plain("half \udcff")


# ---- many at a time ----


def test_texts_to_compare_are_generated_many_at_a_time():
    class Counting(Scripted):
        def generate(self, prompts, max_new_tokens, stop, **sampling):
            self.calls = [*getattr(self, "calls", []), (len(prompts), sampling["seed"])]
            return [TOKENIZER.encode(f"number {i}") for i in range(len(prompts))]

    model = Counting()
    texts = complete(model, TOKENIZER, [[BOS, 300]] * 70, Sampling(seed=4))
    assert model.calls == [(32, 4), (32, 5), (6, 6)]
    assert len(texts) == 70 and texts[33] == " number 1"


def test_compared_texts_that_fill_the_context_are_told(capsys):
    words = TOKENIZER.encode("word " * 40)
    complete(Scripted(words, text("word")[:-1], context=16), TOKENIZER, [[BOS, 300]] * 2, Sampling())
    assert capsys.readouterr().err == "(1 of 2 texts filled the context of 16 tokens)\n"
