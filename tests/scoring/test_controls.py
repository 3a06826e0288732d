"""Does the report tell the truth? Small runs on data that are right, random, or shuffled."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT

import train_arianna
from arianna import formats, report
from arianna.corpus import encoding, texts
from arianna.corpus.conversations import Conversation
from arianna.corpus.prepare import read_conversations
from arianna.corpus.split import split_sides
from arianna.formats import checkpoint
from arianna.reporting import charts, scored_run
from arianna.scoring import base_text, choose
from arianna.system.files import write_missing
from arianna.training.settings import TrainConfig
from tokenizer import Tokenizer

ANIMALS = {
    "fox": "It sleeps by day and hunts along the hedge at night.",
    "whale": "It sings under water and the others answer from far away.",
    "bee": "She dances to tell her sisters where the lime trees bloom.",
    "owl": "Its feathers make no sound, and its eyes are full of the moon.",
    "snail": "It carries its house and leaves a silver line on the wall.",
    "horse": "It stands in the rain with its back to the wind and waits.",
}
PLACES = (
    "In the garden",
    "By the sea",
    "Behind the house",
    "In your dreams",
    "In the old book",
    "Under the roof",
)
ASKED = (
    "who lives? The",
    "who is at home? The",
    "whom have you met? The",
    "what did you see? The",
    "what waits? The",
)
SHAPE = {"dim": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 64}
SAMPLING = {"samples_each": 1, "temperature": 0.8, "top_p": 0.9, "top_k": 300, "seed": 1}


def honest() -> list[Conversation]:
    """180 conversations in which the question says which answer is right."""
    return [
        Conversation(((f"{place}, {asked} {animal}", ANIMALS[animal]),))
        for place in PLACES
        for asked in ASKED
        for animal in ANIMALS
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory, tokenizer: Tokenizer) -> Path:
    """A tiny model that has read the sentences, in no order."""
    folder, sentences = (
        tmp_path_factory.mktemp("base"),
        [text for c in honest() for turn in c.turns for text in turn],
    )
    random.Random(1).shuffle(sentences)
    tokens = texts.encode_text("\n".join(sentences), tokenizer)
    write_missing({"train.bin": tokens.tobytes(), "val.bin": tokens[-500:].tobytes()}, folder)
    shape = TrainConfig(
        init_from="scratch",
        data_dir=str(folder),
        out_dir=str(folder / "run"),
        max_iters=100,
        learning_rate=5e-3,
        **SHAPE,
    )
    train_arianna.train(shape)
    checkpoint.save(folder / "base.pt", checkpoint.pack(formats.open_model(folder / "run/ckpt.pt")))
    return folder / "base.pt"


@pytest.fixture
def facts(base: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch):
    """What the report says of a short run on some conversations."""
    monkeypatch.setattr(charts, "to_svg", lambda *_: "")
    (tmp_path / "questions.txt").write_text("hi\n")
    monkeypatch.setattr(scored_run, "QUESTIONS", tmp_path / "questions.txt")

    def of(talk: list[Conversation]) -> dict:
        run = tmp_path / "ft"
        (tmp_path / "talk.jsonl").write_text("\n".join(map(line, talk)))
        halves = split_sides(read_conversations(tmp_path / "talk.jsonl"))
        write_missing(encoding.prepare_conversations(*halves, tokenizer, 64, 64)[0], run / "data")
        samples = base_text.sampled_rows(formats.open_model(base), 8, 1)
        write_missing({"val_samples.bin": samples.tobytes()}, run / "base_text")
        folders = {
            "data_dir": str(run / "data"),
            "base_text_dir": str(run / "base_text"),
            "out_dir": str(run),
        }
        train_arianna.train(
            TrainConfig(base=str(base), max_iters=300, eval_interval=100, learning_rate=1e-2, **folders)
        )
        paths = scored_run.Paths(
            str(tmp_path / "talk.jsonl"), str(base), str(ROOT / "data/tok4096.model"), "out.pt", "out.bin"
        )
        scored_run.remember_job(run, paths, step=0)
        points = choose.evaluations(run)
        choose.remember(choose.choose(points, 9.0, None, None), {"max_forgetting": 9.0, "blend": None}, run)
        return report.make(run, SAMPLING)

    return of


def line(conversation: Conversation) -> str:
    (question, answer), *_ = conversation.turns
    return json.dumps([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])


def listens(facts: dict) -> bool:
    return not any("may not listen" in note for note in facts["verdict"]["notes"])


def test_answers_that_follow_from_their_questions_are_better_and_listen(facts):
    found = facts(honest())
    assert found["verdict"]["word"] == "better" and listens(found)
    heard = found["listening"]
    assert heard["tuned"]["low"] > 0.6 and heard["tuned"]["gain_low"] > 0.1 and heard["rise"]["low"] > 0
    assert re.search(
        r"; it fits answers to questions in \d+% of pairs, before \d+%; 50% is chance;",
        found["verdict"]["sentence"],
    )


def test_random_tokens_as_answers_are_not_better(facts, tokenizer):
    trained = split_sides(honest())[0]
    rng = np.random.default_rng(0)
    nonsense = {c: tokenizer.decode(rng.integers(300, 4096, 15).tolist()).replace("\n", " ") for c in trained}
    found = facts([Conversation(((c.turns[0][0], nonsense.get(c, c.turns[0][1])),)) for c in honest()])
    assert found["verdict"]["word"] != "better" and found["verdict"]["use"].endswith("base.pt")


def test_shuffled_answers_do_not_listen_and_the_report_says_so(facts, tmp_path):
    talk = honest()
    answers = [c.turns[0][1] for c in talk]
    random.Random(2).shuffle(answers)
    found = facts([Conversation(((c.turns[0][0], a),)) for c, a in zip(talk, answers, strict=True)])
    heard = found["listening"]
    assert (
        heard["tuned"]["low"] < 0.5 < heard["tuned"]["high"]
        and abs(heard["tuned"]["gain"]) < 0.05
        and not listens(found)
    )
    likelier = found["scores"]["tuned"]["answers"]["loss"] < found["scores"]["base"]["answers"]["loss"]
    assert likelier and re.search(
        "listens no better: |whether it listens better is not sure: ", found["verdict"]["sentence"]
    )
    assert "may not listen" in (tmp_path / "ft/report.md").read_text()
