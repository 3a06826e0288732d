"""Which conversations are held out."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arianna.corpus.conversations import Conversation
from arianna.corpus.sources import FaultyError
from arianna.corpus.split import Split, digests, draw, key, split_sides

PINNED = [
    28,
    31,
    37,
    38,
    42,
    62,
    66,
    67,
    69,
    73,
    113,
    115,
    131,
    141,
    144,
    161,
    163,
]  # lines of 171 numbered questions


def test_the_key_folds_case_punctuation_and_spaces():
    same = [
        "What's a hill?",
        "whats a HILL",
        "  What's   a\thill?! ",
        "What\u2019s a hill\u2026",
        "\uff37hats a hill",
    ]
    assert {key(Conversation(((q, "x"),))) for q in same} == {"whatsahill"}
    assert (
        key(Conversation((("Straße É", "x"),)))
        == key(Conversation((("STRASSE E\u0301", "x"),)))
        == "strasseé"
    )
    assert key(Conversation((("?!", "x"),))) == "?!"
    assert key(Conversation((("Hi", "x"), ("Other", "y")), system="z")) == "hi"


def numbered(count: int, per_key: int = 1) -> list[Conversation]:
    return [Conversation(((f"Question {n // per_key}?", f"Answer {n}."),), line=n + 1) for n in range(count)]


def test_this_is_the_split_of_twenty():
    train, held_out = split_sides(numbered(20))
    assert [c.line for c in held_out] == [1, 3, 5, 6, 8, 12, 14, 17]
    assert [c.line for c in train] == [2, 4, 7, 9, 10, 11, 13, 15, 16, 18, 19, 20]


@pytest.mark.parametrize(("count", "expected"), [(20, 8), (79, 8), (84, 8), (86, 9), (171, 17), (1000, 100)])
def test_a_tenth_and_at_least_eight_are_held_out(count, expected):
    train, held_out = split_sides(numbered(count))
    assert (len(train), len(held_out)) == (count - expected, expected)


@given(st.lists(st.integers(0, 60), min_size=20, max_size=120))
def test_the_lowest_hashes_are_held_out_and_no_key_is_parted(questions):
    every = [Conversation(((f"q{q}", str(i)),)) for i, q in enumerate(questions)]
    try:
        train, held_out = split_sides(every)
    except FaultyError:
        assert len(set(questions)) < 20
        return
    if drawn(every).parted:  # too many of one question
        return
    assert sorted(train + held_out, key=lambda c: int(c.turns[0][1])) == every
    digest = {c: hashlib.sha256(key(c).encode()).digest() for c in every}
    assert max(digest[c] for c in held_out) < min(digest[c] for c in train)
    last = max(digest[c] for c in held_out)
    wanted = max(8, round(len(every) / 10))
    assert len(held_out) >= wanted > sum(digest[c] < last for c in held_out)


def test_conversations_with_one_first_question_stay_on_one_side():
    train, held_out = split_sides(numbered(300, per_key=3))
    assert not {key(c) for c in train} & {key(c) for c in held_out}
    assert len(held_out) == 30


def test_the_split_hardly_moves_when_conversations_are_added_or_their_order_changes():
    before = {key(c) for c in split_sides(numbered(171))[1]}
    assert {key(c) for c in split_sides(numbered(171)[::-1])[1]} == before
    after = {key(c) for c in split_sides(numbered(191))[1]}
    assert len(after - before) + len(before - after) <= 6


def test_a_split_that_cannot_be_made_is_refused():
    with pytest.raises(FaultyError, match="19 conversations are too few: at least 20"):
        split_sides(numbered(19))
    with pytest.raises(FaultyError, match="30 conversations have only 1 different texts"):
        split_sides([Conversation((("Hi", "Hello."),))] * 30)


def test_the_split_of_a_file_without_faults_is_pinned():
    """Another one would part new scores from old ones, and let a run that goes on train what was held out."""
    assert [c.line for c in split_sides(numbered(171))[1]] == PINNED


# ---- many conversations with one first question ----


def greeted(number: int, of: int, second: bool, greeting: str = "Hello!") -> list[Conversation]:
    """Conversations of which so many open alike, and differ in their second question or in their answers."""
    asking = [((greeting, "What do you need?"), (f"Where is door {n}?", "There.")) for n in range(number)]
    alone = [((greeting, f"Yes {n}."),) for n in range(number)]
    return [Conversation(turns) for turns in (asking if second else alone)] + numbered(of - number)


def drawn(every: list[Conversation]) -> Split:
    return draw(b"".join(d for c in every for d in digests(c)))


@pytest.mark.parametrize("second", [True, False])
def test_a_split_that_would_hold_out_too_many_takes_in_more_of_the_conversation(second):
    depths = set()
    for n in range(30):  # whether all of one question are held out depends on its hash
        every = greeted(120, 200, second, f"Hello {n}!")
        train, held_out = split_sides(every)
        assert len(held_out) == drawn(every).held_out == 20 < (drawn(every).before or 200)
        assert not {c.turns for c in held_out} & {c.turns for c in train}
        depths.add(len(drawn(every).parted))
    assert depths == ({0, 1} if second else {0, 1, 2})


def test_conversations_with_the_same_questions_stay_together_when_the_first_is_too_common():
    every = [
        Conversation((("Hello!", "Yes?"), (f"Where is door {n // 2}?", f"Answer {n}."))) for n in range(200)
    ]
    train, held_out = split_sides(every)
    assert len(held_out) == 20
    assert not {c.turns[1][0] for c in held_out} & {c.turns[1][0] for c in train}


def test_where_too_many_are_equal_they_are_trained_and_others_are_held_out():
    for n in range(30):  # whether the equal ones come first depends on their hash
        every = [*numbered(80), *[Conversation(((f"Hello {n}!", "Hi."),))] * 120]
        train, held_out = split_sides(every)
        assert len(held_out) == 20 == drawn(every).held_out and len(train) == 180
        assert drawn(every).equal in (0, 120) and not {*held_out} & {*train}
    few = [*numbered(7), *[Conversation((("Hello!", "Hi."),))] * 20]
    assert split_sides(few)[1] == few[:7]


def test_a_split_that_misses_its_tenth_by_less_than_half_stays_as_it_is():
    stayed = set()
    for start in range(60):  # whether the twelve of one question are held out depends on their hash
        every = [*numbered(188), *[Conversation(((f"Same {start}?", f"{n}"),)) for n in range(12)]]
        ranked = sorted(every, key=lambda c: hashlib.sha256(key(c).encode()).digest())
        last = key(ranked[19])
        held = max(n for n, c in enumerate(ranked, 1) if key(c) == last)
        if held <= 30:
            stayed.add(held > 20)
            assert (drawn(every).held_out, drawn(every).parted, drawn(every).before) == (held, (), 0)
    assert stayed == {True, False}
