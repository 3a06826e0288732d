"""The stage of the base in which it learns which of its answers a reader liked."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT, TINY, build, equal

from arianna.formats import checkpoint
from arianna.system import config
from tokenizer import Tokenizer

sys.path.insert(0, str(ROOT / "data"))
import learn_marks  # noqa: E402
from learn_marks import Marked, MarksConfig  # noqa: E402

ARGS = dataclasses.replace(TINY, vocab_size=4096)
WORDS = "the cat sat on a mat and it was warm in the sun so we all had tea".split()


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    """A small untrained base, its text, and 24 messages of whose four answers the first is liked best."""
    generator = np.random.default_rng(0)
    lines = []
    for _ in range(24):
        texts = [" ".join(generator.choice(WORDS, 5)) for _ in range(5)]
        answers = [[texts[i], 2 - (i > 1), 2 - 2 * (i > 0)] for i in range(4)]
        lines.append(json.dumps({"message": texts[4], "answers": answers}))
    (tmp_path / "marks.jsonl").write_text("".join(line + "\n" for line in lines))
    monkeypatch.setattr(learn_marks, "MARKS", [tmp_path / "marks.jsonl"])
    monkeypatch.setattr(learn_marks, "MESSAGES", 2)
    monkeypatch.setattr(learn_marks, "WARMUP", 1)
    monkeypatch.setattr(learn_marks, "SAVED", 2)
    monkeypatch.setattr(learn_marks, "RATE", 1e-2)
    model = build(ARGS)
    checkpoint.save(tmp_path / "base.pt", checkpoint.pack(model))
    text = generator.integers(3, 4000, 40 * (model.args.max_seq_len + 1))
    text.astype("<u2").tofile(tmp_path / "train.bin")
    return MarksConfig(base=str(tmp_path / "base.pt"), text=str(tmp_path), out=str(tmp_path / "out"))


def gained(cfg: MarksConfig, result) -> torch.Tensor:
    """What the log-likelihood of each answer gained, in nats, (messages, answers)."""
    tokenizer, rows = Tokenizer(cfg.tokenizer), []
    messages = list(learn_marks.read_marks(learn_marks.MARKS))
    for marked in messages:
        rows += learn_marks.rows_of(marked, tokenizer)
    nats = []
    for path in (cfg.base, result):
        model = checkpoint.read(path)
        with torch.no_grad():
            nats.append(learn_marks.nats(model, *learn_marks.collate(rows, model.args.max_seq_len)))
    return (nats[0] - nats[1]).view(len(messages), -1)


def test_answers_that_were_liked_gain_over_the_others(cfg):
    gain = gained(cfg, learn_marks.learn(cfg))
    assert gain[:, 0].mean() > gain[:, 1:].mean() + 0.5


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(cfg, tmp_path, monkeypatch):
    whole = checkpoint.load(learn_marks.learn(cfg))["model"]
    cut = MarksConfig(base=cfg.base, text=cfg.text, out=str(tmp_path / "cut"))
    steps, loss_of = [], learn_marks.loss_of

    def stopping(*of):
        steps.append(of)
        if len(steps) == 4:  # two steps are saved then, and one is lost
            raise KeyboardInterrupt
        return loss_of(*of)

    monkeypatch.setattr(learn_marks, "loss_of", stopping)
    with pytest.raises(KeyboardInterrupt):
        learn_marks.learn(cut)
    again = checkpoint.load(learn_marks.learn(cut))["model"]
    assert len(steps) == 4 + 10  # of twelve steps two were saved
    assert equal(whole, again)


def test_a_state_of_another_base_is_not_gone_on_with(cfg, tmp_path):
    first = checkpoint.load(learn_marks.learn(cfg))["model"]
    other = build(ARGS)
    with torch.no_grad():
        other.tok_embeddings.weight.mul_(1.5)
    checkpoint.save(cfg.base, checkpoint.pack(other))
    assert not equal(first, checkpoint.load(learn_marks.learn(cfg))["model"])


def test_the_loss_is_least_where_gains_follow_the_marks():
    marks = [4, 1, 0]
    ideal = torch.tensor(marks) / learn_marks.TAU / learn_marks.BETA
    at_best = learn_marks.listed_loss(ideal, marks)
    for other in (torch.zeros(3), -ideal, 2 * ideal):
        assert learn_marks.listed_loss(other, marks) > at_best


def test_only_the_answer_is_scored():
    tokenizer = Tokenizer(ROOT / "data/tok4096.model")
    ((x, y),) = learn_marks.rows_of(Marked("Are you there?", ["I am here."], [4]), tokenizer)
    assert len(x) == len(y)
    assert tokenizer.decode(y[y >= 0].tolist()).strip() == "I am here."


@pytest.mark.parametrize(
    "line",
    ["", "[]", '{"message": "a"}', '{"message": "a", "answers": []}']
    + ['{"message": "a", "answers": [["b", 1]]}', '{"message": "a", "answers": [["b", 1, 3]]}']
    + ['{"message": "a", "answers": [["b", 1, 2], ["c", 1]]}', '{"message": 1, "answers": [["b", 1, 1]]}']
    + ['{"message": "a", "answers": [[2, 1, 1]]}'],
)
def test_a_line_of_another_form_is_named(tmp_path, line):
    path = tmp_path / "marks.jsonl"
    path.write_text('{"message": "a", "answers": [["b", 1, 2]]}\n' + line + "\n")
    with pytest.raises(config.UsageError, match="marks.jsonl:2 is no marked message; a line must be"):
        list(learn_marks.read_marks([path]))


@pytest.mark.parametrize("missing", ["base", "text", "tokenizer"])
def test_a_missing_file_is_named_before_anything_is_written(cfg, tmp_path, missing):
    spoilt = dataclasses.replace(cfg, **{missing: str(tmp_path / "nowhere")})
    with pytest.raises(config.UsageError, match="nowhere"):
        learn_marks.learn(spoilt)
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_or_a_text_of_another_vocabulary_is_refused(cfg):
    small = build(dataclasses.replace(TINY, vocab_size=512))
    checkpoint.save(cfg.base, checkpoint.pack(small))
    with pytest.raises(config.UsageError, match="4096 tokens, but .* was trained with 512"):
        learn_marks.learn(cfg)


def test_without_marks_nothing_is_learned(cfg, monkeypatch):
    monkeypatch.setattr(learn_marks, "MARKS", [])
    with pytest.raises(config.UsageError, match="no arianna_marks"):
        learn_marks.learn(cfg)
