"""Conversations as rows of tokens: how they are spelled, flagged and cut."""

from collections import Counter
from itertools import groupby

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from arianna.corpus.conversations import Conversation
from arianna.corpus.encoding import (
    ANSWER,
    CONTEXT,
    CONTINUED,
    ROW,
    SHORTEST_CONTEXT,
    TERMINATOR,
    TRAIN_ALL,
    TRAIN_ANSWERS,
    Prepared,
    ascii_typography,
    encode_turns,
    plain_conversation,
    prepare_conversations,
    rows_of,
)
from arianna.corpus.template import render
from arianna.system.files import write_missing
from arianna_data import Rows
from tokenizer import BOS, Tokenizer

# the flags of a token, by its part in a turn
FIRST, FIRST_CONTINUED, REPEATED = ROW, ROW | CONTINUED, 0
QUESTION, GIVEN = TRAIN_ALL, 0
WORD, END = TRAIN_ALL | TRAIN_ANSWERS | ANSWER, TRAIN_ALL | TRAIN_ANSWERS | TERMINATOR


def talk(*texts: str, system: str = "") -> Conversation:
    return Conversation(tuple(zip(texts[::2], texts[1::2], strict=True)), system)


def spelled(row: tuple[np.ndarray, np.ndarray], tokenizer) -> list[tuple[int, list[str]]]:
    """A row as runs of pieces with the same flags."""
    runs: list[tuple[int, list[str]]] = []
    for token, flag in zip(*row, strict=True):
        if not runs or runs[-1][0] != flag:
            runs.append((int(flag), []))
        runs[-1][1].append(tokenizer.sp.id_to_piece(int(token)))
    return runs


# ---- conversations to tokens and flags ----


def test_this_is_how_a_turn_is_spelled_and_flagged(tokenizer):
    assert spelled(encode_turns(talk("why so?", "yes, well"), tokenizer), tokenizer) == [
        (FIRST, ["<s>"]),
        (GIVEN, ["▁Q", ":"]),
        (QUESTION, ["▁why", "▁so", "?"]),
        (GIVEN, ["<0x0A>", "A", ":"]),
        (WORD, ["▁yes", ",", "▁well"]),
        (END, ["<0x0A>", "<s>"]),
    ]


def test_this_is_how_system_text_and_a_second_turn_are_spelled(tokenizer):
    row = encode_turns(talk("hi", "yes", "why so?", "I do\nnot  know", system="Be brief."), tokenizer)
    assert row[0].dtype == np.uint16 and row[1].dtype == np.uint8
    assert spelled(row, tokenizer) == [
        (FIRST, ["<s>"]),
        (QUESTION, ["▁Be", "▁b", "rief", "."]),
        (GIVEN, ["<0x0A>", "Q", ":"]),
        (QUESTION, ["▁h", "i"]),
        (GIVEN, ["<0x0A>", "A", ":"]),
        (WORD, ["▁yes"]),
        (END, ["<0x0A>", "<s>"]),
        (GIVEN, ["▁Q", ":"]),
        (QUESTION, ["▁why", "▁so", "?"]),
        (GIVEN, ["<0x0A>", "A", ":"]),
        (WORD, ["▁I", "▁do", "<0x0A>", "not", "▁", "▁know"]),
        (END, ["<0x0A>", "<s>"]),
    ]


def test_a_prompt_is_spelled_as_the_beginning_of_its_turn(tokenizer):
    tokens, _ = encode_turns(talk("What is resonance?", "A glass."), tokenizer)
    prompt = tokenizer.encode("Q: What is resonance?\nA:", bos=True)
    assert tokens[: len(prompt)].tolist() == prompt


LETTER = st.characters(exclude_categories=["C", "Z"], exclude_characters="\u2581") | st.sampled_from(
    " \nQA:<s>"
)
TEXT = st.text(LETTER, min_size=1, max_size=30)


@settings(max_examples=60)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3))
def test_tokens_are_the_text_and_flags_its_parts_for_any_text(tokenizer, turns):
    turns = tuple((q.strip() or "q", a.strip() or "a") for q, a in turns)
    tokens, flags = encode_turns(Conversation(turns), tokenizer)
    ends = np.flatnonzero(tokens == BOS)
    assert len(ends) == len(turns) + 1  # no text can spell a BOS
    for (question, answer), first, last in zip(turns, ends, ends[1:], strict=False):
        turn, flag = tokens[first + 1 : last], flags[first + 1 : last]
        assert tokenizer.decode(turn.tolist()) == render(question, answer)
        assert tokenizer.decode(turn[(flag & ANSWER) > 0].tolist()).strip() == answer
        assert turn[(flag & TERMINATOR) > 0].tolist() == tokenizer.encode("a\n")[-1:]
        assert tokenizer.decode(turn[flag == QUESTION].tolist()).strip() == question
        assert [kind for kind, _ in groupby(flag.tolist())] == [GIVEN, QUESTION, GIVEN, WORD, END]
    assert flags[0] == ROW and all(flags[ends[1:]] == END)


def test_a_greeting_is_context_of_the_first_turn_and_never_trained(tokenizer):
    greeted = Conversation((("hi", "yes"),), "Be brief.", greeting="well")
    assert spelled(encode_turns(greeted, tokenizer), tokenizer) == [
        (FIRST, ["<s>"]),
        (QUESTION, ["▁Be", "▁b", "rief", "."]),
        (GIVEN, ["<0x0A>", "A", ":", "▁well", "<0x0A>", "Q", ":"]),
        (QUESTION, ["▁h", "i"]),
        (GIVEN, ["<0x0A>", "A", ":"]),
        (WORD, ["▁yes"]),
        (END, ["<0x0A>", "<s>"]),
    ]


def test_texts_that_are_given_are_neither_trained_nor_scored(tokenizer):
    conversation = Conversation(
        (("hi", "yes"), ("why so?", "well")), "Be brief.", given=frozenset({-1, 1, 2})
    )
    assert spelled(encode_turns(conversation, tokenizer), tokenizer) == [
        (FIRST, ["<s>"]),
        (GIVEN, ["▁Be", "▁b", "rief", ".", "<0x0A>", "Q", ":"]),
        (QUESTION, ["▁h", "i"]),
        (GIVEN, ["<0x0A>", "A", ":"]),
        (CONTEXT, ["▁yes", "<0x0A>", "<s>"]),
        (GIVEN, ["▁Q", ":", "▁why", "▁so", "?", "<0x0A>", "A", ":"]),
        (WORD, ["▁well"]),
        (END, ["<0x0A>", "<s>"]),
    ]
    assert not CONTEXT & (TRAIN_ALL | TRAIN_ANSWERS | ANSWER | TERMINATOR)


def test_a_long_conversation_with_given_answers_is_cut_as_one_without(tokenizer):
    turns = (("so?", "I do not know, and you do not know. We will see."), ("hi", "yes")) * 2
    trained, given = (encode_turns(Conversation(turns, given=frozenset(g)), tokenizer) for g in ((), (1, 7)))
    rows = [[row.tolist() for row, _ in rows_of(*encoded, 20)] for encoded in (trained, given)]
    assert rows[0] == rows[1] and len(rows[0]) > 3


class Joining:
    """A tokenizer with pieces that reach over the parts of a turn: 'a\\n', ': y' and 's\\n'."""

    vocab_size = 300
    pieces = ("?\n", ": y", "s\n")

    def encode(self, text: str) -> list[int]:
        ids = []
        while text:
            piece = next((p for p in self.pieces if text.startswith(p)), text[0])
            ids.append(259 + self.pieces.index(piece) if piece in self.pieces else 3 + ord(piece))
            text = text[len(piece) :]
        return ids

    sp, by_words, encode_to = property(lambda self: self), False, Tokenizer.encode_to

    def spelled_in_bytes(self, char: str) -> bool:
        return True


def test_a_piece_that_reaches_into_the_next_part_belongs_to_that_part():
    tokens, flags = encode_turns(talk("hm?", "yes"), Joining())
    runs = [(int(f), int(t)) for t, f in zip(tokens, flags, strict=True)]
    assert runs[5:7] == [(QUESTION, 3 + ord("m")), (GIVEN, 259)]  # "?\n"
    assert runs[7:] == [(GIVEN, 3 + ord("A")), (WORD, 260), (WORD, 3 + ord("e")), (END, 261), (END, BOS)]


class Fickle(Joining):
    """A tokenizer that spells a text which ends with a colon in pieces of its own."""

    def encode(self, text: str) -> list[int]:
        return [299] if text.endswith(":") else super().encode(text)


def test_a_prompt_spelled_otherwise_than_its_turn_has_no_tokens_of_its_own():
    flags = encode_turns(talk("hm", "ye"), Fickle())[1].tolist()
    assert flags == [
        FIRST,
        *[QUESTION] * 5,
        *[WORD] * 4,
        END,
        END,
    ]  # "Q: hm"; new line, "A", ": y", "e"; new line, BOS


# ---- long conversations to rows ----


def test_a_conversation_that_fits_is_one_row(tokenizer):
    tokens, flags = encode_turns(talk("why so?", "I do not know.", "hi", "yes"), tokenizer)
    ((row, row_flags),) = rows_of(tokens, flags, len(tokens))
    assert row.tolist() == tokens.tolist() and row_flags.tolist() == flags.tolist()
    assert len(rows_of(tokens, flags, len(tokens) - 1)) == 2


def test_this_is_how_a_long_answer_goes_on_in_further_rows(tokenizer):
    rows = rows_of(
        *encode_turns(talk("so?", "I do not know, and you do not know. We will see."), tokenizer), 16
    )
    asked = ["▁Q", ":", "▁so", "?", "<0x0A>", "A", ":"]
    assert [spelled(row, tokenizer) for row in rows] == [
        [
            (FIRST, ["<s>"]),
            (GIVEN, ["▁Q", ":"]),
            (QUESTION, ["▁so", "?"]),
            (GIVEN, ["<0x0A>", "A", ":"]),
            (WORD, ["▁I", "▁do", "▁not", "▁know", ",", "▁and", "▁you", "▁do"]),
        ],
        [
            (FIRST_CONTINUED, ["<s>"]),
            (REPEATED, [*asked, ",", "▁and", "▁you", "▁do"]),
            (WORD, ["▁not", "▁know", ".", "▁We"]),
        ],
        [
            (FIRST_CONTINUED, ["<s>"]),
            (REPEATED, [*asked, "▁not", "▁know", ".", "▁We"]),
            (WORD, ["▁will", "▁see", "."]),
            (END, ["<0x0A>"]),
        ],
        [
            (FIRST_CONTINUED, ["<s>"]),
            (REPEATED, [*asked, "▁will", "▁see", ".", "<0x0A>"]),
            (END, ["<s>"]),
        ],
    ]


def test_this_is_how_several_turns_go_on_and_no_row_ends_within_a_question(tokenizer):
    rows = rows_of(*encode_turns(talk("hi", "yes, I do not know", "why so?", "well"), tokenizer), 17)
    assert [spelled(row, tokenizer) for row in rows] == [
        [
            (FIRST, ["<s>"]),
            (GIVEN, ["▁Q", ":"]),
            (QUESTION, ["▁h", "i"]),
            (GIVEN, ["<0x0A>", "A", ":"]),
            (WORD, ["▁yes", ",", "▁I", "▁do", "▁not", "▁know"]),
            (END, ["<0x0A>", "<s>"]),
        ],
        [
            (FIRST_CONTINUED, ["<s>"]),
            (GIVEN, ["▁Q", ":"]),
            (QUESTION, ["▁why", "▁so", "?"]),
            (GIVEN, ["<0x0A>", "A", ":"]),
            (WORD, ["▁well"]),
            (END, ["<0x0A>", "<s>"]),
        ],
    ]


def test_of_a_question_longer_than_half_the_context_the_end_is_repeated(tokenizer):
    question = "why do you not know what you do not know and what you will know then?"
    asked = [f"▁{word}" for word in question.split()[:13]]
    rows = rows_of(*encode_turns(talk(question, "I do not know, and you do not"), tokenizer), 16)
    assert [spelled(row, tokenizer) for row in rows[:3]] == [
        [
            (FIRST, ["<s>"]),
            (GIVEN, ["▁Q", ":"]),
            (QUESTION, [*asked]),
        ],
        [
            (FIRST_CONTINUED, ["<s>"]),
            (REPEATED, ["▁you", "▁do", "▁not", "▁know", "▁and", "▁what", "▁you"]),
            (QUESTION, ["▁will", "▁know", "▁then", "?"]),
            (GIVEN, ["<0x0A>", "A", ":"]),
            (WORD, ["▁I"]),
        ],
        [
            (FIRST_CONTINUED, ["<s>"]),
            (REPEATED, ["▁will", "▁know", "▁then", "?", "<0x0A>", "A", ":", "▁I"]),
            (WORD, ["▁do", "▁not", "▁know", ",", "▁and", "▁you", "▁do"]),
        ],
    ]


def numbered(turns: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """A conversation of turns with so many tokens of question (with what introduces it), answer and
    terminator, each token another."""
    tokens, flags = [BOS], [ROW]
    for question, answer, terminator in turns:
        first = tokens[-2] + 1 if len(tokens) > 1 else 10
        tokens += [*range(first, first + question + answer + terminator), BOS]
        flags += [QUESTION] * question + [WORD] * answer + [END] * (terminator + 1)
    return np.array(tokens, dtype="<u2"), np.array(flags, dtype=np.uint8)


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 90), st.integers(0, 2)), min_size=1, max_size=3),
    st.integers(SHORTEST_CONTEXT, 48),
)
def test_any_conversation_is_cut_so_that_every_token_is_a_target_once(turns, context):
    tokens, flags = numbered(turns)
    rows = rows_of(tokens, flags, context)
    new = [(int(t), int(f)) for row in rows for t, f in zip(*row, strict=True) if int(f) & ~(ROW | CONTINUED)]
    assert new == list(zip(tokens.tolist(), flags.tolist(), strict=True))[1:]
    starts = np.flatnonzero(tokens == BOS)
    end = 0  # of what the rows before have
    for number, (row, row_flags) in enumerate(rows):
        assert 2 <= len(row) <= context and row[0] == BOS
        assert row_flags[0] == (ROW | CONTINUED if number else ROW) and not (row_flags[1:] & ROW).any()
        head = int(np.flatnonzero(row_flags[1:])[0])  # repeated tokens behind the BOS
        if number:
            turn = int(starts[starts <= end][-1])
            answer = turn + 1 + turns[list(starts).index(turn)][0]
            whole = tokens[turn + 1 : min(end + 1, answer)]
            asked = whole if len(whole) < context // 2 else whole[len(whole) - context // 2 + 1 :]
            overlap = tokens[max(answer, end + 1 - context // 4) : end + 1]
            assert row[1 : 1 + head].tolist() == [*asked, *overlap]
        assert (
            len(row) - 1 - head >= context // 4
            or number == len(rows) - 1
            or tokens[end + len(row) - 1 - head] == BOS
        )
        end += len(row) - 1 - head
    assert end == len(tokens) - 1


@example([(3, 11, 1), (12, 5, 1)], 16)  # the first row ends ahead of a BOS
@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 90), st.just(1)), min_size=1, max_size=4),
    st.integers(16, 64),
)
def test_no_row_ends_within_a_question_that_fits(turns, context):
    for row, flags in rows_of(*numbered(turns), context):
        assert flags[-1] & (ANSWER | TERMINATOR)
        assert row[0] == BOS


def test_a_context_too_short_to_cut_for_is_refused():
    with pytest.raises(ValueError, match="the context is 15 tokens; conversations need at least 16"):
        rows_of(*numbered([(3, 30, 1)]), 15)


# ---- typography ----


def test_typography_that_has_its_own_token_stays(tokenizer):
    text = "“Don’t” – no… é"
    assert ascii_typography(text, tokenizer) == (text, 0, Counter())


def test_typography_spelled_in_bytes_becomes_ascii_and_the_rest_is_counted(tokenizer):
    text, changed, others = ascii_typography("a\u2011b \u00abc\u00bb\u202fd\u2212e ß日ß \t\n’", tokenizer)
    assert (text, changed) == ('a-b "c" d-e ß日ß \t\n’', 5)
    assert others == Counter({"ß": 2, "日": 1})


def test_quotes_dashes_and_ellipses_become_ascii_where_the_tokenizer_has_none_of_them():
    text, changed, others = ascii_typography("‘a’ “b” – c—d… é {\u00a0}", Joining())
    assert (text, changed, others) == ("'a' \"b\" - c--d... é { }", 8, Counter({"é": 1}))


def test_all_texts_of_a_conversation_lose_their_typography():
    found, changed, others = plain_conversation(Conversation((("a—", "b…"), ("c’", "ß")), "“d", 7), Joining())
    assert found == Conversation((("a--", "b..."), ("c'", "ß")), '"d', 7)
    assert (changed, others) == (4, Counter({"ß": 1}))


# ---- files ----


@pytest.fixture
def talks() -> tuple[list[Conversation], list[Conversation]]:
    train = [talk(f"why {n}?", "I do not know. " * (1 + n % 3)) for n in range(20)]
    return [*train, talk("so?", "yes, well " * 30)], [talk("hi", "well…\u2212ß " * 20, "why?", "yes")]


def test_prepared_conversations_are_rows_that_can_be_read(tokenizer, talks, tmp_path):
    files, prepared = prepare_conversations(*talks, tokenizer, 64, 32)
    assert sorted(files) == ["train.bin", "train.mask", "val.bin", "val.mask"]
    write_missing(files, tmp_path / "data")
    train, val = Rows(tmp_path / "data", "train", 64, 4096), Rows(tmp_path / "data", "val", 64, 4096)
    assert max(train.lengths) == 64 and max(val.lengths) <= 32
    assert prepared.rows == len(train) + len(val)
    encoded = [encode_turns(plain_conversation(c, tokenizer)[0], tokenizer) for half in talks for c in half]
    lengths = [len(tokens) for tokens, _ in encoded]
    assert prepared == Prepared(
        conversations=22,
        held_out=1,
        rows=prepared.rows,
        tokens=sum(lengths),
        longest=max(lengths),
        longer=2,
        typographic=20,
        others=Counter({"ß": 20}),
        characters=sum(len(text) for c in (*talks[0], *talks[1]) for text in c.texts),
    )
    assert (prepared.bytes_spelled, prepared.spelled) == (20, "ß")
    for flag in (TRAIN_ALL, TRAIN_ANSWERS, ANSWER, TERMINATOR):
        kept = sum(
            int(((rows.row(n)[2] & flag) > 0).sum()) for rows in (train, val) for n in range(len(rows))
        )
        assert kept == sum(int(((flags & flag) > 0).sum()) for _, flags in encoded)


def test_held_out_rows_are_never_longer_than_the_bases_context_or_the_models(tokenizer, talks):
    masks = [
        prepare_conversations(*talks, tokenizer, *contexts)[0]["val.mask"]
        for contexts in ((64, 32), (32, 64))
    ]
    assert masks[0] == masks[1]


def test_preparing_twice_gives_the_same_bytes_and_writes_nothing(tokenizer, talks, tmp_path):
    first = prepare_conversations(*talks, tokenizer, 64, 64)
    assert first == prepare_conversations(*talks, tokenizer, 64, 64)
    assert list(tmp_path.iterdir()) == []


def test_a_vocabulary_too_large_for_shards_is_refused(talks):
    class Large(Joining):
        vocab_size, path = 70_000, "large.model"

    with pytest.raises(ValueError, match=r"large.model has 70000 tokens; token shards hold at most 65,536"):
        prepare_conversations(*talks, Large(), 64, 64)
