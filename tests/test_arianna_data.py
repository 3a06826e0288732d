"""Rows of shards and the order in which a run reads them; train_vocab and pretokenize."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

import arianna_data
from arianna.corpus.encoding import ANSWER, CONTINUED, ROW, TERMINATOR, TRAIN_ALL, TRAIN_ANSWERS
from arianna.system import config
from arianna_data import Rows, Task, collate, shuffled
from tokenizer import BOS, IGNORE

MODEL = str(ROOT / "data/tok4096.model")
# the flags of a token, by its place in a turn
REPEATED, QUESTION, GIVEN = 0, TRAIN_ALL, 0
WORD, END = TRAIN_ALL | TRAIN_ANSWERS | ANSWER, TRAIN_ALL | TRAIN_ANSWERS | TERMINATOR

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
    assert [rows.row(n)[0].tolist() for n in range(len(rows))] == [
        list(range(100, 110)),
        list(range(110, 120)),
        [120, 121],
    ]
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
        assert sum(len(x) for x, _ in batch.micro_batches) == len(batch.rows) == size - again
        assert all((x[:, 0] == 7).all() for x, _ in batch.micro_batches) and all(
            (x[:, 0] == 9).all() for x, _ in batch.replay
        )
        assert all(len(x) <= batch_size for x, _ in batch.micro_batches + batch.replay)
        replayed += again


def test_replay_leaves_out_no_row_of_either_side(conversations, texts):
    task = Task(texts, 4, 1, 3, conversations, 0.25)
    batches = [task.batch(step) for step in range(2 * arianna_data.POOL * 4)]
    assert sorted(n for batch in batches[:37] for n in batch.rows.tolist()) == sorted([*range(37)] * 3)
    replayed = Counter(int(x[row, 1]) for batch in batches for x, _ in batch.replay for row in range(len(x)))
    assert len(replayed) == 37 and set(replayed.values()) == {3, 4}


def test_the_targets_of_a_step_are_counted_over_all_its_parts(conversations):
    batch = Task(conversations, 2, 3, seed=1).batch(0)
    assert (
        batch.n_targets
        == sum(int((y != IGNORE).sum()) for _, y in batch.micro_batches)
        == int((conversations.lengths[batch.rows] - 1).sum())
    )


def test_epochs_count_only_a_runs_own_rows(conversations, texts):
    assert Task(texts, 4, 2, 1).epochs(37) == 8
    assert Task(texts, 4, 2, 1, conversations, 0.25).epochs(37) == 6
    assert dataclasses.is_dataclass(Task(texts, 4, 2, 1).batch(0))


def test_windows_are_shuffled_one_after_the_other_and_every_row_comes_once(monkeypatch):
    whole = shuffled(1000, 0, 2000, 3)
    monkeypatch.setattr(arianna_data, "BLOCK", 300)
    arianna_data.block_order.cache_clear()
    order = shuffled(1000, 0, 2000, 3)
    for epoch in (order[:1000], order[1000:]):
        for first in (0, 300, 600, 900):
            assert sorted(epoch[first : first + 300]) == list(range(first, min(first + 300, 1000)))
    assert not np.array_equal(order[:1000], order[1000:]) and not np.array_equal(whole, order)
    for start in (0, 299, 850, 1900):
        assert np.array_equal(shuffled(1000, start, 100, 3), order[start : start + 100])
    arianna_data.block_order.cache_clear()


# ---- commands ----

PROSE = "The rain said: wait. A stone lies by the road, and a cart passed it at noon in 1984.\n"


def folder_of_texts(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text(PROSE * 50)
    return tmp_path / "texts"


def refusal(words: list[str]) -> str:
    with pytest.raises(config.UsageError) as caught:
        arianna_data.main(words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_tokenizer_is_trained_and_never_written_over_another(tmp_path):
    texts = folder_of_texts(tmp_path)
    words = ["train_vocab", f"--data={texts}", f"--model={texts}/new.model", "--vocab_size=400"]
    assert arianna_data.main(words) == 0
    made = (texts / "new.model").read_bytes()
    assert (texts / "new.bin").exists()
    assert "new.model exists and was not made by this run" in refusal([*words[:-1], "--vocab_size=390"])
    assert (texts / "new.model").read_bytes() == made
    assert arianna_data.main([*words[:-1], "--vocab_size=390", "--force"]) == 0
    (texts / "new.model").unlink()
    assert "new.bin exists and was not made by this run" in refusal(words)


def test_the_shipped_tokenizer_is_not_replaced_by_a_forgotten_flag(tmp_path, monkeypatch):
    texts = folder_of_texts(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/tok4096.model").write_bytes(b"shipped")
    monkeypatch.chdir(tmp_path)
    assert "data/tok4096.model exists" in refusal(["train_vocab", f"--data={texts}", "--vocab_size=400"])
    assert (tmp_path / "data/tok4096.model").read_bytes() == b"shipped"


def test_a_text_is_no_place_for_a_tokenizer(tmp_path):
    text = folder_of_texts(tmp_path) / "a.txt"
    assert "a tokenizer's name ends in .model" in refusal(
        ["train_vocab", f"--data={text}", f"--model={text}"]
    )
    named = text.rename(text.with_suffix(".model"))
    assert "is an input of this run" in refusal(
        ["train_vocab", f"--data={named}", f"--model={named}", "--force"]
    )
    assert named.read_text() == PROSE * 50


def test_records_are_no_prose_for_either_command(tmp_path):
    (tmp_path / "a.txt").write_text('{"prompt": "why", "completion": "because"}\n' * 40)
    for words in (
        ["train_vocab", f"--model={tmp_path}/a.model"],
        ["pretokenize", f"--out={tmp_path}/out", f"--model={MODEL}"],
    ):
        assert "holds JSON records" in refusal([*words, f"--data={tmp_path / 'a.txt'}"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train_vocab", "--out=x"], "--out is not a flag of this command: it belongs to pretokenize"),
        (["train_vocab", "--val_tail=0.1"], "--val_tail is not a flag of this command"),
        (
            ["pretokenize", "--vocab_size=512"],
            "--vocab_size is not a flag of this command: it belongs to train",
        ),
        (
            ["pretokenize", "--data=a.jsonl", "--val_tail=0.1"],
            "--val_tail is for texts, and a.jsonl holds none",
        ),
        (
            ["pretokenize", "--data=a.txt", "--max_seq_len=64"],
            "--max_seq_len is for conversations, and a.txt",
        ),
        (["train_vocab", "--vocab_size=-4"], "vocab_size is -4; it must be from 260 to 65,536"),
        (["train_vocab", "--vocab_size=99999999999"], "it must be from 260 to 65,536"),
        (["train_vocab", "--threads=0"], "threads is 0; it must be from 1 to 1,024"),
        (["pretokenize", "--data=a.jsonl", "--max_seq_len=0"], "max_seq_len is 0; it must be from 1"),
        (["pretokenize", "--data=none"], "none is missing; give a folder of texts"),
        (
            ["pretokenize", "--model=none.model"],
            "none.model is missing; a SentencePiece model is needed there",
        ),
        (
            ["train_vocab", "--data=a.txt", "--model=none/a.model"],
            "none is no folder, so none/a.model cannot",
        ),
        (["a.txt"], "'a.txt' is neither train_vocab nor pretokenize"),
        (["pretokenize", "a.txt"], "a.txt has no flag before it; did you mean --data=a.txt"),
    ],
)
def test_what_a_command_cannot_use_is_one_sentence(tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text(PROSE)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/tok4096.model").write_bytes(Path(MODEL).read_bytes())
    before = sorted(tmp_path.rglob("*"))
    assert told in refusal(words)
    assert sorted(tmp_path.rglob("*")) == before


def test_without_a_command_the_help_is_shown(capsys):
    with pytest.raises(SystemExit) as left:
        arianna_data.main([])
    assert left.value.code == 0 and "train_vocab" in capsys.readouterr().out


def test_shards_are_put_into_a_folder_of_their_own(tmp_path):
    texts = folder_of_texts(tmp_path)
    (tmp_path / "file").write_text("mine")
    words = ["pretokenize", f"--data={texts}", f"--model={MODEL}"]
    assert "is a file; the shards need a folder" in refusal([*words, f"--out={tmp_path}/file", "--force"])
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/train.bin").write_bytes(b"another's")
    assert "taken exists and was not made by this run" in refusal([*words, f"--out={tmp_path}/taken"])
    assert (tmp_path / "taken/train.bin").read_bytes() == b"another's"
    assert arianna_data.main([*words, f"--out={tmp_path}/taken", "--force"]) == 0
    assert arianna_data.main([*words, f"--out={tmp_path}/taken"]) == 0, "the same again"
    assert "was not made by this run" in refusal([*words, f"--out={tmp_path}/taken", "--val_tail=0.5"])
