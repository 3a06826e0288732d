import dataclasses
from collections import Counter
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import arianna_data
from arianna.corpus import encoding
from arianna.corpus.conversations import Conversation, render
from arianna.corpus.encoding import (
    ANSWER,
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
    windows,
    write_prepared,
)
from arianna_data import Rows, Task, collate
from tokenizer import BOS, IGNORE, Tokenizer

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
        (WORD, ["▁y", "es", ",", "▁well"]),
        (END, ["<0x0A>", "<s>"]),
    ]


def test_this_is_how_system_text_and_a_second_turn_are_spelled(tokenizer):
    row = encode_turns(talk("hi", "yes", "why so?", "I do\nnot  know", system="Be brief."), tokenizer)
    assert row[0].dtype == np.uint16 and row[1].dtype == np.uint8
    assert spelled(row, tokenizer) == [
        (FIRST, ["<s>"]),
        (QUESTION, ["▁Be", "▁br", "ief", "."]),
        (GIVEN, ["<0x0A>", "Q", ":"]),
        (QUESTION, ["▁h", "i"]),
        (GIVEN, ["<0x0A>", "A", ":"]),
        (WORD, ["▁y", "es"]),
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


LETTER = st.characters(exclude_categories=["C", "Z"], exclude_characters="\u2581") | st.sampled_from(" \nQA:<s>")
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
    assert flags == [FIRST, *[QUESTION] * 5, *[WORD] * 4, END, END]  # "Q: hm"; new line, "A", ": y", "e"; new line, BOS


# ---- long conversations to rows ----


def test_a_conversation_that_fits_is_one_row(tokenizer):
    tokens, flags = encode_turns(talk("why so?", "I do not know.", "hi", "yes"), tokenizer)
    ((row, row_flags),) = windows(tokens, flags, len(tokens))
    assert row.tolist() == tokens.tolist() and row_flags.tolist() == flags.tolist()
    assert len(windows(tokens, flags, len(tokens) - 1)) == 2


def test_this_is_how_a_long_answer_goes_on_in_further_rows(tokenizer):
    rows = windows(*encode_turns(talk("so?", "I do not know, and you do not know. We will see."), tokenizer), 16)
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
    rows = windows(*encode_turns(talk("hi", "yes, I do not know", "why so?", "well"), tokenizer), 18)
    assert [spelled(row, tokenizer) for row in rows] == [
        [
            (FIRST, ["<s>"]),
            (GIVEN, ["▁Q", ":"]),
            (QUESTION, ["▁h", "i"]),
            (GIVEN, ["<0x0A>", "A", ":"]),
            (WORD, ["▁y", "es", ",", "▁I", "▁do", "▁not", "▁know"]),
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
    rows = windows(*encode_turns(talk(question, "I do not know, and you do not"), tokenizer), 16)
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
    """A conversation of turns with so many tokens of question (with what introduces it), answer and terminator, each token another."""
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
    rows = windows(tokens, flags, context)
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
        assert len(row) - 1 - head >= context // 4 or number == len(rows) - 1 or tokens[end + len(row) - 1 - head] == BOS
        end += len(row) - 1 - head
    assert end == len(tokens) - 1


@example([(3, 11, 1), (12, 5, 1)], 16)  # the first row ends ahead of a BOS
@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 90), st.just(1)), min_size=1, max_size=4), st.integers(16, 64))
def test_no_row_ends_within_a_question_that_fits(turns, context):
    for row, flags in windows(*numbered(turns), context):
        assert flags[-1] & (ANSWER | TERMINATOR)
        assert row[0] == BOS


def test_a_context_too_short_to_cut_for_is_refused():
    with pytest.raises(ValueError, match="the context is 15 tokens; conversations need at least 16"):
        windows(*numbered([(3, 30, 1)]), 15)


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
    write_prepared(files, tmp_path / "data")
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
    )
    assert (prepared.bytes_spelled, prepared.spelled) == (20, "ß")
    for flag in (TRAIN_ALL, TRAIN_ANSWERS, ANSWER, TERMINATOR):
        kept = sum(int(((rows.row(n)[2] & flag) > 0).sum()) for rows in (train, val) for n in range(len(rows)))
        assert kept == sum(int(((flags & flag) > 0).sum()) for _, flags in encoded)


def test_held_out_rows_are_never_longer_than_the_bases_context_or_the_models(tokenizer, talks):
    masks = [prepare_conversations(*talks, tokenizer, *contexts)[0]["val.mask"] for contexts in ((64, 32), (32, 64))]
    assert masks[0] == masks[1]


def test_preparing_twice_gives_the_same_bytes_and_writes_nothing(tokenizer, talks, tmp_path):
    first = prepare_conversations(*talks, tokenizer, 64, 64)
    assert first == prepare_conversations(*talks, tokenizer, 64, 64)
    assert list(tmp_path.iterdir()) == []


def test_files_that_hold_it_already_are_left_alone(tmp_path, monkeypatch):
    write_prepared({"train.bin": b"one", "val.bin": b"two"}, tmp_path / "a" / "b")
    written = []
    monkeypatch.setattr(encoding, "write_atomic", lambda path, data: written.append((path.name, data)))
    write_prepared({"train.bin": b"one", "val.bin": b"other"}, tmp_path / "a" / "b")
    assert written == [("val.bin", b"other")]


def test_a_vocabulary_too_large_for_shards_is_refused(talks):
    class Large(Joining):
        vocab_size, path = 70_000, "large.model"

    with pytest.raises(ValueError, match=r"large.model has 70000 tokens; token shards hold at most 65,536"):
        prepare_conversations(*talks, Large(), 64, 64)


# ---- rows ----


def shard(folder: Path, name: str, tokens: list[int] | np.ndarray, mask: list[int] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.bin").write_bytes(np.asarray(tokens, dtype="<u2").tobytes())
    if mask is not None:
        (folder / f"{name}.mask").write_bytes(bytes(mask))
    return folder


def masked(folder: Path, lengths: list[int], name: str = "train") -> Path:
    """A shard of rows of so many tokens, row n holding the token 100 + n."""
    tokens = [BOS if i == 0 else 100 + n for n, length in enumerate(lengths) for i in range(length)]
    flags = [ROW if i == 0 else QUESTION if i < 3 else WORD for length in lengths for i in range(length)]
    return shard(folder, name, tokens, flags)


def test_a_text_is_cut_into_windows_in_which_every_token_but_the_first_is_a_target_once(tmp_path):
    rows = Rows(shard(tmp_path, "train", range(100, 123)), "train", 10, 4096)
    assert [rows.row(n)[0].tolist() for n in range(len(rows))] == [list(range(100, 110)), list(range(110, 120)), [120, 121]]
    assert [t for n in range(len(rows)) for t in rows.row(n)[1].tolist()] == list(range(101, 123))


def test_the_flags_of_a_row_say_what_is_trained(tmp_path):
    flags = [ROW, GIVEN, QUESTION, GIVEN, WORD, END, ROW | CONTINUED, REPEATED, END]
    folder = shard(tmp_path, "train", [1, 10, 11, 12, 13, 1, 1, 20, 1], flags)
    everything, answers = (Rows(folder, "train", 8, 4096, trained) for trained in (TRAIN_ALL, TRAIN_ANSWERS))
    assert [everything.row(n)[1].tolist() for n in (0, 1)] == [[IGNORE, 11, IGNORE, 13, 1], [IGNORE, 1]]
    assert [answers.row(n)[1].tolist() for n in (0, 1)] == [[IGNORE, IGNORE, IGNORE, 13, 1], [IGNORE, 1]]
    assert everything.row(0)[0].tolist() == [1, 10, 11, 12, 13]
    assert everything.row(0)[2].tolist() == [GIVEN, QUESTION, GIVEN, WORD, END]


def test_several_shards_are_read_as_one(tmp_path):
    masked(tmp_path, [3, 4], "train_0")
    masked(tmp_path, [5], "train_1")
    masked(tmp_path, [6], "val")
    rows = Rows(tmp_path, "train", 8, 4096)
    assert rows.lengths.tolist() == [3, 4, 5]


def refused(folder: Path, match: str, context: int = 8) -> None:
    with pytest.raises(ValueError, match=match):
        Rows(folder, "train", context, 4096)


def test_files_that_are_no_shards_are_refused(tmp_path):
    refused(tmp_path, r"has no train\*.bin")
    (tmp_path / "train.bin").write_bytes(b"")
    refused(tmp_path, "train.bin has 0 bytes; a token shard holds two bytes a token and at least one")
    (tmp_path / "train.bin").write_bytes(b"123")
    refused(tmp_path, "train.bin has 3 bytes")
    shard(tmp_path, "train", [1])
    refused(tmp_path, r"has no row of two tokens or more in train\*.bin")


def test_ids_beyond_the_vocabulary_are_refused_with_both_numbers(tmp_path):
    refused(shard(tmp_path, "train", [1, 4096, 5]), "holds the token id 4096, but the model has 4096 tokens")
    assert len(Rows(shard(tmp_path, "train", [1, 4095, 5]), "train", 8, 4096)) == 1


def test_masks_that_do_not_belong_are_refused(tmp_path):
    refused(shard(tmp_path, "train", [1, 5, 6], [ROW, QUESTION]), "train.mask has 2 flags for the 3 tokens")
    refused(shard(tmp_path, "train", [1, 5, 6], [QUESTION, ROW, QUESTION]), "Prepare it again")
    refused(shard(tmp_path, "train", [1, 5, 6], [QUESTION] * 3), "Prepare it again")
    refused(masked(tmp_path, [5, 10]), "has rows of up to 10 tokens; the context is 8")
    assert len(Rows(masked(tmp_path, [5, 9]), "train", 8, 4096)) == 2


# ---- the order of a run ----


def test_padding_is_ignored():
    rows = [(np.arange(5), np.arange(5) + 1), (np.arange(18), np.arange(18) + 1)]
    x, y = collate(rows, 64)
    assert x.shape == y.shape == (2, 32)
    assert x[0].tolist() == [*range(5), *[0] * 27] and y[0].tolist() == [*range(1, 6), *[IGNORE] * 27]
    assert collate(rows, 20)[0].shape == (2, 20)


def seen(task: Task, steps: range) -> list[list[int]]:
    return [task.batch(step).rows.tolist() for step in steps]


@pytest.fixture
def conversations(tmp_path: Path) -> Rows:
    return Rows(masked(tmp_path / "conversations", [4 + n % 13 for n in range(37)]), "train", 20, 4096)


@pytest.fixture
def texts(tmp_path: Path) -> Rows:
    return Rows(shard(tmp_path / "texts", "train", range(100, 841)), "train", 20, 4096)


def test_the_rows_of_a_step_depend_on_seed_and_step_alone(conversations, texts):
    for rows in (conversations, texts):
        first = seen(Task(rows, 4, 1, seed=5), range(60))
        np.random.seed(1)
        assert seen(Task(rows, 4, 1, seed=5), range(60)) == first
        backwards = Task(rows, 4, 1, seed=5)
        assert [backwards.batch(step).rows.tolist() for step in reversed(range(60))] == first[::-1]
        batches = Task(rows, 4, 1, seed=5).iter_batches(40)
        assert [next(batches).rows.tolist() for _ in range(20)] == first[40:]
        assert seen(Task(rows, 4, 1, seed=6), range(60)) != first
        assert seen(Task(rows, 2, 2, seed=5), range(60)) == first  # accumulation does not change a step


def test_every_row_of_a_text_stands_once_in_an_epoch(texts):
    order = texts.order(0, 3 * 37, seed=1, batch_size=4)
    epochs = [order[i : i + 37].tolist() for i in (0, 37, 74)]
    assert all(sorted(epoch) == list(range(37)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_every_conversation_stands_as_often_as_another_after_any_pool(conversations):
    pool = arianna_data.POOL * 4
    for pools in range(1, 38):
        counts = np.bincount(conversations.order(0, pools * pool, seed=1, batch_size=4), minlength=37)
        assert counts.max() - counts.min() == (1 if pools % 37 else 0)


def test_conversations_of_a_batch_are_of_like_length(conversations):
    def width(order: np.ndarray) -> int:
        return int(conversations.lengths[order].reshape(-1, 4).max(axis=1).sum())

    order = conversations.order(0, 640, seed=1, batch_size=4)
    assert width(order) < 0.75 * width(arianna_data.shuffled(37, 0, 640, 1))


@settings(max_examples=15)
@given(st.integers(1, 6), st.integers(1, 3), st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.75]))
def test_replay_takes_its_share_to_the_row(tmp_path_factory, batch_size, parts, share):
    folder = tmp_path_factory.mktemp("replay")
    own = Rows(shard(folder / "own", "train", [7] * 371), "train", 10, 4096)
    replay = Rows(shard(folder / "replay", "train", [9] * 200), "train", 10, 4096)
    task, size, replayed = Task(own, batch_size, parts, 3, replay, share), batch_size * parts, 0
    for step in range(12):
        assert replayed == int(step * size * share)
        batch = task.batch(step)
        again = sum(len(x) for x, _ in batch.replay)
        assert sum(len(x) for x, _ in batch.parts) == len(batch.rows) == size - again
        assert all((x[:, 0] == 7).all() for x, _ in batch.parts) and all((x[:, 0] == 9).all() for x, _ in batch.replay)
        assert all(len(x) <= batch_size for x, _ in batch.parts + batch.replay)
        replayed += again


def test_replay_leaves_out_no_row_of_either_side(conversations, texts):
    task = Task(texts, 4, 1, 3, conversations, 0.25)
    batches = [task.batch(step) for step in range(2 * arianna_data.POOL * 4)]
    assert sorted(n for batch in batches[:37] for n in batch.rows.tolist()) == sorted([*range(37)] * 3)
    replayed = Counter(int(x[row, 1]) for batch in batches for x, _ in batch.replay for row in range(len(x)))
    assert len(replayed) == 37 and set(replayed.values()) == {3, 4}


def test_the_targets_of_a_step_are_counted_over_all_its_parts(conversations):
    batch = Task(conversations, 2, 3, seed=1).batch(0)
    assert batch.n_targets == sum(int((y != IGNORE).sum()) for _, y in batch.parts) == int((conversations.lengths[batch.rows] - 1).sum())


def test_epochs_count_only_a_runs_own_rows(conversations, texts):
    assert Task(texts, 4, 2, 1).epochs(37) == 8
    assert Task(texts, 4, 2, 1, conversations, 0.25).epochs(37) == 6
    assert dataclasses.is_dataclass(Task(texts, 4, 2, 1).batch(0))
