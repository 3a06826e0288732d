"""The command that scores one model or two."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from helpers import ROOT, TINY, build

from arianna import evaluate
from arianna.corpus import prepare
from arianna.formats import checkpoint
from arianna.system import config


def furnish(folder: Path, tokenizer) -> dict[str, str]:
    """Flags for a folder with 30 conversations, a base and a tuned model of a longer context, a text, and a
    word list.
    """
    folder.mkdir(exist_ok=True)
    lines = [
        json.dumps(
            {
                "prompt": f"What stands at {i}?",
                "completion": f"At {i} stands a house with a «zblorg» of its own.",
            }
        )
        for i in range(30)
    ]
    (folder / "talk.jsonl").write_text("\n".join(lines))
    (folder / "text.txt").write_text(
        "\n\n".join(f"Paragraph {i} of the qwertish book says what it says. " * 8 for i in range(60))
    )
    (folder / "words.txt").write_text("at\nstands\n")
    (folder / "questions.txt").write_text("\ufeffhi\n\nwho is «it»?\n", encoding="utf-8")
    checkpoint.save(folder / "base.pt", checkpoint.pack(build()))
    checkpoint.save(
        folder / "tuned.pt", checkpoint.pack(build(dataclasses.replace(TINY, max_seq_len=96), seed=8))
    )
    checkpoint.save(folder / "other.pt", checkpoint.pack(build(dataclasses.replace(TINY, vocab_size=512))))
    names = {
        "checkpoint": "tuned.pt",
        "compare": "base.pt",
        "conversations": "talk.jsonl",
        "base_text": "text.txt",
    }
    names |= {"words": "words.txt", "questions": "questions.txt", "out": "scores.json"}
    return {n: str(folder / f) for n, f in names.items()} | {
        "tokenizer": str(ROOT / "data/tok4096.model"),
        "samples_each": "2",
    }


def run(flags: dict[str, str]) -> int:
    return evaluate.main([f"--{name}={value}" for name, value in flags.items()])


@pytest.fixture(scope="module")
def scored(tmp_path_factory, tokenizer) -> tuple[dict[str, str], str]:
    flags = furnish(tmp_path_factory.mktemp("all"), tokenizer)
    assert run(flags) == 0
    return flags, Path(flags["out"]).read_text()


def without_times(text: str) -> str:
    found = json.loads(text)
    assert [set(found[name].pop("times")) for name in ("checkpoint", "compare")] == [
        {"losses", "generation", "tokens_per_second"}
    ] * 2
    return json.dumps(found)


def test_two_scorings_differ_in_nothing_but_the_times(scored):
    flags, first = scored
    assert run(flags | {"force": "True"}) == 0
    assert without_times(Path(flags["out"]).read_text()) == without_times(first)


def test_all_scores_are_there_for_both_models(scored):
    found = json.loads(scored[1])
    for name in ("checkpoint", "compare"):
        scores = found[name]
        assert len(scores["answers"]["conversation_nats"]) == 8 and set(scores["base_text"]) == {
            "samples",
            "text",
        }
        assert len(scores["samples"]) == 2 * (8 + 2) == scores["generated"]["answers"]
        assert [s["held_out"] for s in scores["samples"]] == [True] * 16 + [False] * 4
        assert {s["question"] for s in scores["samples"][16:]} == {"hi", 'who is "it"?'}
        assert all(s["tokens"] < 64 for s in scores["samples"]), "in the base's context"
        marked = sum(len(s["non_words"]) for s in scores["samples"])
        assert 0 < scores["generated"]["non_words"]["low"] < 100 and marked > 0
        assert scores["listening"]["conversations"] == 8 and len(scores["listening"]["pairs"]) == 8 * 7
    assert set(found["difference"]["forgetting"]) == {"samples", "text"}
    assert found["difference"]["answers"]["value"] != 0


def test_the_base_against_itself_differs_by_nothing_at_all(scored, tmp_path, capsys):
    assert run(scored[0] | {"checkpoint": scored[0]["compare"], "out": str(tmp_path / "same.json")}) == 0
    found = json.loads((tmp_path / "same.json").read_text())
    assert found["difference"]["answers"] == {"step": 1, "value": 0, "unseen": 0, "low": 0, "high": 0}
    assert {name: rise["value"] for name, rise in found["difference"]["forgetting"].items()} == {
        "samples": 0,
        "text": 0,
    }
    assert found["checkpoint"]["samples"] == found["compare"]["samples"]
    told = capsys.readouterr().out.split("the first less the second")[1]
    assert re.search(r"held-out answers, nats a token +\+0.000 \(\+0.000 to \+0.000\)\n", told)
    assert re.search(r"fit their own question +\+0.0% \(\+0.0% to \+0.0%\)\n", told)


def test_one_model_alone_is_scored(scored, capsys):
    flags = {name: value for name, value in scored[0].items() if name not in ("compare", "base_text", "out")}
    assert run(flags) == 0
    out = capsys.readouterr().out
    assert (
        "held-out answers, nats a token" in out
        and "stopped, of 20 answers" in out
        and "forgetting" not in out
    )


def test_words_of_list_text_and_conversations_count_as_words(scored, tokenizer, tmp_path):
    cfg = config.parse(evaluate.EvaluateConfig, [f"--{n}={v}" for n, v in scored[0].items()], None)
    known = prepare.survey(cfg.conversations, print)
    inputs = evaluate.prepare_inputs(cfg, known, build(), tokenizer, tmp_path)
    assert {
        "stands",
        "qwertish",
        "zblorg",
        "house",
        "paragraph",
    } <= inputs.known and "surfive" not in inputs.known
    assert all('"zblorg"' in c.turns[0][1] for c in inputs.held_out) and len(inputs.held_out) == 8, (
        "typography as in the rows"
    )


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--pairs_each=3"], "--pairs_each belongs to --pairs"),
        (["--force"], "--force belongs to --out"),
        (["b.pt"], "b.pt has no flag before it; --checkpoint is given already"),
    ],
)
def test_a_flag_that_would_not_be_used_is_refused(flags, told):
    with pytest.raises(config.UsageError, match=told):
        evaluate.main(["--checkpoint=a.pt", *flags])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"checkpoint": None}, "--checkpoint is missing"),
        ({"checkpoint": "nowhere.pt"}, "nowhere.pt is missing"),
        ({"compare": "other.pt"}, "has 4096 tokens, but other.pt was trained with 512"),
        ({"words": "nowhere.txt"}, "nowhere.txt cannot be read as text (No such file or directory)"),
        ({"questions": "base.pt"}, "base.pt cannot be read as text"),
        ({"conversations": "words.txt"}, "words.txt is no JSON but plain text"),
        ({"base_text": "words.txt"}, "too short to measure with"),
        ({"temperature": "-1"}, "temperature is -1.0; it must be at least 0"),
        ({"top_p": "nan"}, "top_p is nan"),
        ({"seed": "-1"}, "seed is -1; it must be at least 0"),
        ({"samples_each": "0"}, "samples_each is 0; it must be at least 1"),
        ({"out": "nowhere/scores.json"}, "nowhere is not a folder"),
    ],
)
def test_what_is_wrong_gets_one_sentence(scored, monkeypatch, changes, sentence):
    flags = {
        name: value for name, value in (scored[0] | {"force": "True"} | changes).items() if value is not None
    }
    monkeypatch.chdir(Path(scored[0]["out"]).parent)
    with pytest.raises(config.UsageError) as error:
        run(flags)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    "name",
    ["checkpoint", "compare", "conversations", "tokenizer", "base_text", "words", "questions", "pairs"],
)
def test_scores_are_never_written_over_an_input(scored, tmp_path, name):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(config.UsageError, match="is an input of this run"):
        run(scored[0] | {name: str(tmp_path / "mine"), "out": str(tmp_path / "mine"), "force": "True"})
    assert (tmp_path / "mine").read_text() == "mine"


def test_what_is_there_is_replaced_only_when_that_is_asked_for(scored):
    with pytest.raises(config.UsageError, match="scores.json exists"):
        run(scored[0])


def test_minimal_pairs_alone_are_told_for_each_model(scored, tmp_path, capsys):
    pair = {"sentence_good": "A dog barks.", "sentence_bad": "A dog bark."}
    (tmp_path / "agreement.jsonl").write_text(f"{json.dumps(pair)}\n" * 9)
    flags = scored[0] | {
        "pairs": str(tmp_path / "agreement.jsonl"),
        "pairs_each": "8",
        "out": str(tmp_path / "pairs.json"),
    }
    assert run(flags | {"conversations": "nowhere.jsonl"}) == 0, "conversations are not needed"
    told, found = capsys.readouterr().out, json.loads((tmp_path / "pairs.json").read_text())
    assert [score["pairs"] for score in found["scores"]] == [8, 8] and set(found["scores"][0]["kinds"]) == {
        "agreement"
    }
    assert told.count("of 8 minimal pairs right (files: 1; 50% is chance)") == 2
