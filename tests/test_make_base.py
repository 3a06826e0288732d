"""The recipe of the base: what is cleaned and what is refused; a preparation is whole and repeats itself."""

import json
import sys

import numpy as np
import pytest
from helpers import ROOT

from arianna.system import config
from arianna.system.files import sha256

sys.path.insert(0, str(ROOT / "data"))
import make_base  # noqa: E402
import source_texts  # noqa: E402

HEAD = "file\tkind\tbroad\tclose\tlicence\tsource\tbytes\tsha256"
STORY = "There was a small dog in the house by the sea. He was old and he did not like the rain. "


@pytest.fixture
def cfg(tmp_path):
    """Two small sources and a table that names them."""
    talk, prose = tmp_path / "in/talk.jsonl", tmp_path / "in/prose.txt"
    talk.parent.mkdir()
    lines = [
        [turn("user", f"do you like the number {i}"), turn("assistant", f"I like {i} as I like you.")]
        for i in range(400)
    ]
    talk.write_text("".join(json.dumps(line) + "\n" for line in lines))
    prose.write_text("".join(f"{STORY}It was day {i} of the year. {STORY}\n" for i in range(600)))
    rows = [
        ("talk.jsonl", "dialogue", 1, 0.5, "MIT", "here"),
        ("prose.txt", "prose", 2, 0.1, "public domain", "there"),
    ]
    table = [HEAD, *("\t".join(map(str, (*row, 0, sha256(tmp_path / "in" / row[0])))) for row in rows)]
    (tmp_path / "mix.tsv").write_text("\n".join(table) + "\n")
    return make_base.BaseConfig(
        sources=str(tmp_path / "in"), out=str(tmp_path / "out"), mix=str(tmp_path / "mix.tsv"), vocab_size=450
    )


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def cleaned(tmp_path, *talks) -> list[tuple[tuple[str, str], ...]]:
    (tmp_path / "t.jsonl").write_text(
        "".join(json.dumps([turn("user", m) for m in talk]) + "\n" for talk in talks)
    )
    return [c.turns for c in source_texts.clean_talks(tmp_path / "t.jsonl")]


def test_a_preparation_holds_each_document_as_often_as_the_table_says_and_repeats_itself(cfg):
    make_base.prepare(cfg)
    first = hashes(cfg)
    broad, close = (np.fromfile(f"{cfg.out}/{stage}/train.bin", "<u2") for stage in make_base.STAGES)
    assert 0.1 < len(close) / len(broad) < 0.3  # a half and a tenth of what is once and twice there
    (make_base.Path(cfg.out) / "prepared.json").unlink()
    make_base.prepare(cfg)
    assert hashes(cfg) == first


def hashes(cfg) -> dict[str, str]:
    out = make_base.Path(cfg.out)
    return {
        str(p.relative_to(out)): sha256(p) for p in sorted(out.rglob("*")) if p.suffix in (".bin", ".txt")
    }


def test_what_is_held_out_is_in_no_stage(cfg):
    make_base.prepare(cfg)
    held = np.fromfile(f"{cfg.out}/scored/val_dialogue.bin", "<u2").tobytes()
    documents = [d for d in held.split(np.array([1], "<u2").tobytes()) if d]
    assert documents
    for stage in make_base.STAGES:
        text = np.fromfile(f"{cfg.out}/{stage}/train.bin", "<u2").tobytes()
        assert not any(document in text for document in documents)


def test_a_finished_preparation_is_left_alone_and_a_changed_table_makes_it_again(cfg, monkeypatch):
    make_base.prepare(cfg)
    monkeypatch.setattr(make_base, "write_shards", lambda *_: pytest.fail("made again"))
    make_base.prepare(cfg)
    mix = make_base.Path(cfg.mix)
    mix.write_text(mix.read_text().replace("0.5", "0.6"))
    with pytest.raises(pytest.fail.Exception):
        make_base.prepare(cfg)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("talk.jsonl", "gone.jsonl", "gone.jsonl is not in"),
        ("MIT", "", "talk.jsonl has no licence"),
        ("\t0.5\t", "\tmuch\t", "close of talk.jsonl is 'much'; it must be a number from 0 to 100"),
        ("\t0.5\t", "\t-1\t", "close of talk.jsonl is '-1'"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_a_sentence_and_nothing_is_written(cfg, old, new, said):
    mix = make_base.Path(cfg.mix)
    mix.write_text(mix.read_text().replace(old, new))
    with pytest.raises(config.UsageError, match=said):
        make_base.prepare(cfg)
    assert not make_base.Path(cfg.out).exists()


def test_a_changed_source_is_named_with_both_hashes(cfg):
    source = make_base.Path(cfg.sources) / "talk.jsonl"
    before = sha256(source)
    source.write_text(source.read_text() + "\n")
    with pytest.raises(config.UsageError, match=f"SHA-256 {sha256(source)}, expected {before}"):
        make_base.prepare(cfg)


def test_a_stage_that_reads_nothing_is_refused(cfg):
    mix = make_base.Path(cfg.mix)
    mix.write_text(mix.read_text().replace("\t0.5\t", "\t0\t").replace("\t0.1\t", "\t0\t"))
    with pytest.raises(config.UsageError, match="the close stage reads nothing"):
        make_base.prepare(cfg)


def test_a_long_talk_is_cut_into_pieces_and_a_long_turn_is_left_out(tmp_path):
    turns = ["I like to talk to you in the evening " * 4] * 12
    pieces = cleaned(tmp_path, turns)
    assert len(pieces) > 1
    assert all(
        sum(len(t.split()) for pair in piece for t in pair) <= source_texts.PIECE_WORDS for piece in pieces
    )
    assert cleaned(tmp_path, ["so it is", "a word and a word " * 30, "what is it", "it is a dog"]) == [
        (("what is it", "it is a dog"),)
    ]


def test_one_answer_stands_behind_few_questions(tmp_path):
    assert (
        len(cleaned(tmp_path, *([f"what is it {i}", "It is what it is."] for i in range(50))))
        == source_texts.SAME_ANSWER
    )


def test_links_and_other_languages_are_left_out_and_typography_is_plain(tmp_path):
    foreign = "Это не английский текст"
    assert cleaned(tmp_path, ["see www.there.com", "I will"], [foreign, foreign]) == []
    assert cleaned(tmp_path, ["It\u2019s \u201cgood\u201d", "Yes \u2014 it is"]) == [
        (('It\'s "good"', "Yes -- it is"),)
    ]


def test_of_talk_about_films_and_full_of_names_a_share_is_kept(tmp_path):
    films = [
        [f"did you see the film number {i}", f"No, the film and the actor {i} are not for me."]
        for i in range(200)
    ]
    assert 0.25 < len(cleaned(tmp_path, *films)) / 200 < 0.55
    names = [
        [f"we went to see Paul and Mary and John {i}", "Did Paul go with Mary and John?"] for i in range(200)
    ]
    assert len(cleaned(tmp_path, *names)) < 120


@pytest.mark.parametrize(
    ("question", "lower", "tidied"),
    [
        ("Im sad", "im sad", "Im sad."),
        ("what's that", "whats that", "What's that?"),
        ("Hello, Arianna!", "hello arianna", "Hello, Arianna!"),
        ("??", "??", "??"),
    ],
)
def test_a_question_is_typed_as_written_in_lower_case_and_tidy(question, lower, tidied):
    talk = source_texts.Conversation(((question, "An answer, as written."),))
    asked = [source_texts.typed(talk, way).turns[0] for way in range(3)]
    assert asked == [(text, "An answer, as written.") for text in (question, lower, tidied)]


def test_ariannas_talks_are_typed_in_turns_and_nobody_elses(cfg, tmp_path):
    make_base.prepare(cfg)
    tokenizer = make_base.Tokenizer(f"{cfg.out}/tok4096.model")
    talk = source_texts.Conversation((("Are you there?", "I am here."),))
    rows = make_base.readings(talk, 4, tokenizer, "voice")
    assert len(rows) == 4 and np.array_equal(rows[0], rows[3]) and not np.array_equal(rows[0], rows[1])
    assert all(np.array_equal(rows[0], row) for row in make_base.readings(talk, 4, tokenizer, "dialogue"))
