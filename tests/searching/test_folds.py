"""Folds: parted by key, and made of nothing but the conversations to train on."""

import hashlib
import json
from pathlib import Path

import pytest
from helpers import ROOT, command, conversation, furnish, talk

import arianna_ft
from arianna import search
from arianna.corpus.prepare import read_conversations
from arianna.corpus.split import digest, key, split_sides
from arianna.searching import folds
from arianna.searching.folds import FOLDS, fold_of, gathered, write_folds
from arianna.system.config import UsageError
from arianna_data import Rows
from tokenizer import Tokenizer

MANY = [talk(f"What is at {i // 2}?", f"At {i} there is a house.") for i in range(90)]


def test_every_conversation_is_held_out_by_one_fold_and_its_key_with_it():
    keys = len({key(c) for c in MANY})
    halves = [fold_of(MANY, fold, keys / FOLDS) for fold in range(FOLDS)]
    assert sorted(c.turns for _, held in halves for c in held) == sorted(c.turns for c in MANY)
    for train, held in halves:
        assert len(train) + len(held) == len(MANY) and abs(len(held) - len(MANY) / FOLDS) <= 2
        assert not {key(c) for c in train} & {key(c) for c in held}


def test_the_first_tenth_is_the_projects_own_split():
    different = [talk(f"What is at {i}?", "A house.") for i in range(90)]
    train, held = split_sides(different)
    assert fold_of(different, 0, len(held)) == (train, held)


def test_too_few_questions_for_folds_are_told_with_the_number_that_is_needed():
    with pytest.raises(UsageError, match="begin with 19 different questions; a search needs 20"):
        gathered(talk(f"What is at {i % 19}?", f"A house with {i} windows.") for i in range(60))
    assert len(gathered(talk(f"What is at {i}?", "A house.") for i in range(20))) == 20


def test_of_very_many_conversations_those_with_the_lowest_hashes_are_looked_at():
    some = gathered(MANY, 50)
    highest = max(digest(key(c)) for c in some)
    left = [c for c in MANY if c not in some]
    assert len(some) == 50 and all(digest(key(c)) >= highest for c in left)


def written(tmp_path: Path, held_out_answer: str) -> tuple[dict[str, str], Path]:
    """The hashes of all that is written of 40 conversations, of which those held out have another answer."""
    lines = [conversation(i) for i in range(40)]
    path = tmp_path / "talk.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    _, held = split_sides(read_conversations(path))
    for number in (c.line for c in held):
        lines[number - 1][1]["content"] = held_out_answer
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    train, held = split_sides(read_conversations(path))
    assert held and all(c.turns[0][1] == held_out_answer for c in held)
    write_folds(gathered(train), Tokenizer(ROOT / "data/tok4096.model"), (64, 64), tmp_path / "search")
    files = sorted(p for p in (tmp_path / "search").rglob("*") if p.is_file())
    return {str(p.relative_to(tmp_path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}, tmp_path


def test_no_held_out_token_is_in_what_a_search_is_given(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    hashes, _ = written(tmp_path / "a", "A valley.")
    others, _ = written(
        tmp_path / "b", "Seven towers stand there, and a lighthouse, which nobody else has ever named."
    )
    assert hashes == others and len(hashes) == 4 * FOLDS + 2  # train and val with masks; of all, train alone


def test_the_command_gives_a_search_the_conversations_to_train_on_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(furnish(tmp_path))
    given = []

    def searched(wanted, trainer, conversations, *others):
        given.extend(c.turns for c in conversations)
        return 7

    monkeypatch.setattr(search, "search", searched)
    assert arianna_ft.main([*command()[2:], "--hours=1"]) == 7
    train, _ = split_sides(read_conversations("talk.jsonl"))
    assert given == [c.turns for c in train] and len(given) == 22


def test_the_rows_of_the_folds_are_those_of_the_training_side(tmp_path):
    written(tmp_path, "A valley.")
    whole = rows_in(tmp_path / "search" / folds.ALL, "train")
    held = [row for fold in range(FOLDS) for row in rows_in(tmp_path / "search" / str(fold), "val")]
    assert sorted(held) == sorted(whole)
    for fold in range(FOLDS):
        halves = [set(rows_in(tmp_path / "search" / str(fold), split)) for split in ("train", "val")]
        assert not halves[0] & halves[1] and halves[0] | halves[1] == set(whole)


def rows_in(folder: Path, split: str) -> list[bytes]:
    rows = Rows(folder, split, 64, 4096)
    return [rows.tokens[s][first:last].tobytes() for s, first, last in rows.index]


def test_conversations_that_all_begin_alike_are_parted_by_more_of_their_words():
    alike = [talk("Hello.", f"Hello, number {i}.", f"What is at {i}?", "A house.") for i in range(60)]
    some = gathered(alike)
    sides = [fold_of(some, fold, len(some) / FOLDS) for fold in range(FOLDS)]
    assert all(len(held) == 12 for _, held in sides)
