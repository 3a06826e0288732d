"""Minimal pairs, with models that know which sentence is right."""

import json

import pytest
import torch
from helpers import Stub, build

from arianna.scoring.minimal_pairs import read_pairs, score_pairs, sentence_nats
from tokenizer import BOS

PAIRS = [("The cats sleep.", "The cats sleeps."), ("A dog barks.", "A dog bark.")]


def write(path, pairs) -> None:
    lines = [json.dumps({"sentence_good": good, "sentence_bad": bad, "UID": "x"}) for good, bad in pairs]
    path.write_text("\n".join(lines) + "\n")


def test_a_folder_has_a_kind_a_file_and_of_each_the_first_so_many_are_read(tmp_path):
    write(tmp_path / "b.jsonl", PAIRS)
    write(tmp_path / "a.jsonl", PAIRS[:1])
    assert read_pairs(tmp_path) == {"a": PAIRS[:1], "b": PAIRS}
    assert read_pairs(tmp_path / "b.jsonl", most=1) == {"b": PAIRS[:1]}


def test_kinds_count_alike_whatever_their_size(tokenizer):
    shorter = Stub()  # a nat a token: the shorter sentence is likelier
    right, wrong = ("A dog.", "A dog that barks at me."), ("A dog that barks at me.", "A dog.")
    found = score_pairs(shorter, {"one": [right], "two": [wrong, wrong, right, wrong]}, tokenizer)
    assert found["kinds"] == {"one": 1.0, "two": 0.25} and found["value"] == 0.625 and found["pairs"] == 5
    assert found["low"] is None, "two kinds are too few for an interval"
    alone = score_pairs(shorter, {"two": [wrong, right] * 10}, tokenizer)
    assert alone["value"] == 0.5 and 0 < alone["low"] < 0.5 < alone["high"]


def test_equal_sentences_are_not_counted_as_right(tokenizer):
    assert score_pairs(build(), {"same": [("It is.", "It is.")]}, tokenizer)["value"] == 0


def test_all_tokens_behind_the_beginning_are_summed(tokenizer):
    seen = []

    def note(x, y):
        seen.append((x[0, 0].item(), y[y >= 0].tolist()))
        return torch.full(y.shape, 2.0)

    (nats,) = sentence_nats(Stub(note), ["The cats sleep."], tokenizer)
    tokens = tokenizer.encode("The cats sleep.")
    assert nats == 2.0 * len(tokens) and seen == [(BOS, tokens)]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is empty"),
        ("[]\n", "some.jsonl:1: needed is an object with the texts"),
        ('{"sentence_good": "a"}\n', "some.jsonl:1: needed"),
        ('{"sentence_good": "a", "sentence_bad": 3}\n', "some.jsonl:1: needed"),
        ('{"sentence_good": "a", "sentence_bad": "b"}\n\nno\n', "some.jsonl:3: needed"),
    ],
)
def test_what_is_no_pair_is_named_by_its_line(tmp_path, content, told):
    (tmp_path / "some.jsonl").write_text(content)
    with pytest.raises(ValueError, match=told):
        read_pairs(tmp_path / "some.jsonl")


def test_a_folder_without_pairs_and_a_sentence_beyond_the_context_are_refused(tmp_path, tokenizer):
    with pytest.raises(ValueError, match=r"has no \.jsonl file"):
        read_pairs(tmp_path)
    with pytest.raises(ValueError, match="has a context of 64"):
        score_pairs(build(), {"long": [("word " * 100, "word")]}, tokenizer)
