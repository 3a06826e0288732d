import pytest
from helpers import ROOT
from hypothesis import given
from hypothesis import strategies as st

from arianna.corpus import conversations
from arianna.corpus.prepare import read_conversations
from arianna.corpus.split import key
from arianna.scoring import text_statistics
from arianna.scoring.text_statistics import copy_source, distinct, look_at

TEN = "one two three four five six seven eight nine ten"


def marked(text: str, spans: list[tuple[int, int]]) -> list[str]:
    return [text[a:b] for a, b in spans]


# ---- words ----


@given(st.text(alphabet="abCD'’ 7.-é_\n", max_size=40))
def test_words_are_those_of_the_word_list(text):
    found = list(text_statistics.words_in(text))
    assert [w.text for w in found] == text_statistics.words_of(text)
    assert all(text[w.start : w.end].lower().replace("’", "'") == w.text for w in found)


def test_words_that_are_none_are_counted_and_placed():
    text = "The surfive of the Sea, a tetrif; the sea's end."
    look = look_at(text, {"the", "of", "sea", "a", "end"}, {})
    assert marked(text, look.non_words) == ["surfive", "tetrif"]
    assert (look.words, look.judged) == (10, 10)


@pytest.mark.parametrize("word", ["cat", "Cat", "cat's", "CAT’S", "don't"])
def test_a_known_word_counts_in_any_case_and_as_a_possessive(word):
    assert look_at(word, {"cat", "don't"}, {}).non_words == []


@pytest.mark.parametrize("word", ["cats", "don", "cat's's"])
def test_other_forms_are_no_known_words(word):
    assert look_at(word, {"cat", "don't"}, {}).non_words == [(0, len(word))]


@pytest.mark.parametrize(
    ("text", "judged"), [("the surf", 1), ("the surf.", 2), ("surf", 0), ("", 0), ("the 1", 1)]
)
def test_the_last_word_of_a_text_that_was_cut_off_is_not_judged(text, judged):
    cut = look_at(text, {"the"}, {}, whole=False)
    assert cut.judged == judged
    assert marked(text, cut.non_words) == (["surf"] if "surf." in text else [])
    assert look_at(text, {"the"}, {}).judged == cut.words


# ---- copies ----


def test_eight_words_in_a_row_are_a_copy_and_seven_are_not():
    source = copy_source([TEN])
    eight = look_at("One two, three four five six seven - EIGHT!", (), source)
    assert (eight.grams, eight.copied, eight.longest_copy) == (1, 1, 8)
    seven = look_at("two three four five six seven eight zero", (), source)
    assert (seven.grams, seven.copied, seven.longest_copy, seven.copies) == (1, 0, 0, [])


def test_copies_are_counted_and_placed():
    text = "so: one two three four five six seven eight nine, they said"
    look = look_at(text, (), copy_source([TEN]))
    assert (look.grams, look.copied, look.longest_copy) == (5, 2, 9)
    assert marked(text, look.copies) == ["one two three four five six seven eight nine"]


def test_two_copies_apart_are_two_places():
    first = "a b c d e f g h"
    text = f"{first} x {TEN}"
    look = look_at(text, (), copy_source([first, TEN]))
    assert marked(text, look.copies) == [first, TEN]
    assert look.longest_copy == 10


def test_the_longest_copy_stands_in_one_text_only():
    a, b = "a b c d e f g h i", "c d e f g h i j k"  # the text goes from the one into the other
    look = look_at("a b c d e f g h i j k", (), copy_source([a, b]))
    assert (look.grams, look.copied, look.longest_copy) == (4, 4, 9)


def test_a_copy_that_began_inside_another_is_found_at_its_whole_length():
    short, long = "a b c d e f g h i j k", "d e f g h i j k l m n o"
    assert look_at("a b c d e f g h i j k l m n o", (), copy_source([short, long])).longest_copy == 12


def test_no_copy_goes_from_one_text_of_the_source_into_the_next():
    halves = ["a b c d e", "f g h i j"]
    assert look_at("a b c d e f g h i j", (), copy_source(halves)).copied == 0
    eights = ["a b c d e f g h", "b c d e f g h i"]  # the second's place is not the first's plus one
    assert look_at("a b c d e f g h i", (), copy_source(eights)).longest_copy == 8


# ---- repetition ----


def test_four_words_that_stood_before_are_repeated():
    look = look_at("i am here now, I am here now. i am here", (), {})
    assert (look.four_grams, look.repeated) == (8, 4)
    assert look_at("one two three", (), {}).four_grams == 0


def test_distinct_pairs_are_counted_over_all_texts_and_within_each():
    assert distinct(["a b a b", "a b c"]) == 3 / 5  # a b, b a, b c
    assert distinct(["a", ""]) is None
    assert distinct(["a b c a b c"], n=3) == 3 / 4


def test_a_text_without_words_has_only_zeros():
    look = look_at(" ... 12 ", (), copy_source([TEN]))
    assert (
        look.words,
        look.judged,
        look.grams,
        look.copied,
        look.longest_copy,
        look.four_grams,
        look.repeated,
    ) == (0,) * 7


# ---- the questions that come with it ----


def test_everyday_questions_are_some_two_dozen_and_stand_in_no_conversation():
    lines = (ROOT / "data/everyday_questions.txt").read_text(encoding="utf-8").splitlines()
    assert 20 <= len(lines) <= 30 and all(line == line.strip() != "" and line.isascii() for line in lines)
    keys = {key(conversations.Conversation(((line, ""),))) for line in lines}
    assert len(keys) == len(lines)
    found = read_conversations(ROOT / "data/arianna_conversations.jsonl")
    asked = {key(conversations.Conversation(((q, ""),))) for c in found for q, _ in c.turns}
    assert not keys & asked
