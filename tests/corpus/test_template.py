"""The template Q: and A:, and lines of content that would forge it."""

from hypothesis import given
from hypothesis import strategies as st

from arianna.corpus.conversations import Conversation
from arianna.corpus.template import corpus_text, join_lines, prompt, render


def test_the_template_is_this_and_no_other():
    assert prompt("What is a hill?") == "Q: What is a hill?\nA:"
    assert render("What is a hill?", "A valley.") == "Q: What is a hill?\nA: A valley.\n"
    assert render("Hi", "Hello.", system="Be brief.") == "Be brief.\nQ: Hi\nA: Hello.\n"
    assert prompt("Hi", system="Be brief.") == "Be brief.\nQ: Hi\nA:"
    assert prompt("Hi", greeting="Welcome.") == "A: Welcome.\nQ: Hi\nA:"
    assert render("Hi", "Hello.", "Be brief.", "Welcome.") == "Be brief.\nA: Welcome.\nQ: Hi\nA: Hello.\n"


def test_the_readable_corpus_has_a_blank_line_between_conversations():
    first = Conversation((("One?", "Yes."), ("And two?", "Yes.")), system="Be brief.")
    second = Conversation((("Three?", "No."),))
    assert (
        corpus_text([first, second])
        == "Be brief.\nQ: One?\nA: Yes.\nQ: And two?\nA: Yes.\n\nQ: Three?\nA: No.\n"
    )
    assert corpus_text([]) == ""


@given(st.text(alphabet="QA: \n\tx", max_size=40))
def test_a_rendered_turn_has_one_line_with_q_and_one_with_a(text):
    joined, count = join_lines(text.strip())
    lines = render(joined, joined).split("\n")
    assert [x.lstrip()[:2] for x in lines if x.lstrip().startswith(("Q:", "A:"))] == ["Q:", "A:"]
    assert joined.split() == text.split()
    assert (count == 0) == (joined == text.strip())


def test_joining_many_lines_takes_linear_time():
    text = "a" + "\n" * 100_000 + "\nQ:" * 100_000 + " " * 100_000 + "b"
    assert join_lines(text) == ("a" + " Q:" * 100_000 + " " * 100_000 + "b", 100_000)
