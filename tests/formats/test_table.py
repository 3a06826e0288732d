"""Models and their tokenizers found by what lies at a path."""

import dataclasses
import shutil

import pytest
from helpers import ROOT, TINY, lively, train_tokenizer

from arianna import formats
from arianna.formats import checkpoint
from arianna.formats.table import SHIPPED_TOKENIZER, format_at
from arianna.formats.write import write_model
from arianna.system.files import sha256
from tokenizer import Tokenizer

MODEL = dataclasses.replace(TINY, vocab_size=340)


@pytest.fixture
def tokenizer(tmp_path) -> Tokenizer:
    """A tokenizer of 340 tokens in a folder of its own."""
    (tmp_path / "data").mkdir()
    return train_tokenizer(tmp_path / "data" / "tok340.model")


def test_weights_note_their_tokenizer_and_it_is_found_where_it_was_or_beside_them(tmp_path, tokenizer):
    path = tmp_path / "a.pt"
    write_model(lively(MODEL), path, "checkpoint", tokenizer=tokenizer)
    noted = {"sha256": sha256(tokenizer.path), "path": str(tokenizer.path)}
    assert checkpoint.tokenizer_of(checkpoint.load(path)) == noted
    assert formats.find_tokenizer(path) == tokenizer.path
    assert formats.open_tokenizer(path).path == tokenizer.path
    moved = shutil.move(tokenizer.path, tmp_path / "tok340.model")
    assert formats.find_tokenizer(path) == moved
    moved.write_bytes(moved.read_bytes() + b"\0")
    assert formats.find_tokenizer(path) is None, "another file of its name is not it"


def test_another_tokenizer_of_the_same_size_is_refused(tmp_path, tokenizer):
    path, other = tmp_path / "a.pt", train_tokenizer(tmp_path / "other.model", text="the other words, " * 20)
    write_model(lively(MODEL), path, "checkpoint", tokenizer=tokenizer)
    for model in (path, with_run(path, tmp_path / "state.pt")):
        with pytest.raises(
            ValueError,
            match=r"was trained with the tokenizer .*tok340\.model .*; .*other\.model is another one",
        ):
            formats.open_tokenizer(model, other.path)
        assert formats.open_tokenizer(model, tokenizer.path).vocab_size == 340
    with pytest.raises(ValueError, match="has 340 tokens, but the model was trained with 512"):
        write_model(
            lively(dataclasses.replace(MODEL, vocab_size=512)), path, "checkpoint", tokenizer=tokenizer
        )


def with_run(path, out):
    """The state of a run whose weights are those of a checkpoint, with the note in `run`."""
    contents = checkpoint.load(path)
    noted = contents["config"].pop("tokenizer")
    checkpoint.save(out, {**contents, "run": {"tokenizer": noted}})
    return out


@pytest.mark.parametrize(
    "entry", [{}, {"run": 3}, {"run": {"tokenizer": {"path": 3}}}, {"config": {"tokenizer": "a.model"}}]
)
def test_a_checkpoint_without_a_note_fits_any_tokenizer(tmp_path, tokenizer, entry):
    checkpoint.save(tmp_path / "a.pt", checkpoint.pack(lively(MODEL)) | entry)
    assert checkpoint.tokenizer_of(checkpoint.load(tmp_path / "a.pt")) is None
    assert formats.find_tokenizer(tmp_path / "a.pt") is None
    formats.check_tokenizer(tmp_path / "a.pt", tokenizer)
    assert formats.open_tokenizer(tmp_path / "a.pt").path == SHIPPED_TOKENIZER == ROOT / "data/tok4096.model"


@pytest.mark.parametrize("name", ["a.bin", "a.dat", "a.pt"])
def test_a_model_is_opened_by_its_first_bytes_whatever_its_name(tmp_path, name):
    for format in ("llama2c-int8", "checkpoint"):
        suffix = {"llama2c-int8": ".bin", "checkpoint": ".pt"}[format]
        write_model(lively(MODEL), tmp_path / f"model{suffix}", format)
        (tmp_path / f"model{suffix}").rename(tmp_path / name)
        assert format_at(tmp_path / name) == format
        assert formats.open_model(tmp_path / name).args == MODEL
