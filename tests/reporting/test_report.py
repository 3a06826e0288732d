"""The morning report, on run folders that are made here: nothing is trained."""

import copy
import json
import re
import shlex
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers import ROOT, build

from arianna import report
from arianna.corpus import encoding
from arianna.formats import card, checkpoint
from arianna.reporting import charts, night, render, scored_run, verdict
from arianna.scoring import base_text, choose
from arianna.scoring.choose import Choice, Point
from arianna.system import config
from arianna.system.config import UsageError
from arianna.system.files import sha256, write_missing
from arianna.training.run_folder import RUN_FORMAT
from arianna.training.settings import TrainConfig
from tokenizer import Tokenizer

STEPS = (0, 100, 200, 300)
ANSWERS = (4.0, 3.6, 3.2, 3.3)
TEXTS = (3.0, 3.01, 3.02, 3.03)


def sample(question: str, text: str, held_out: bool = True, **marks) -> dict:
    whole = {"stopped": True, "whole": True, "tokens": 9, "non_words": [], "copies": []}
    return {"question": question, "text": text, "held_out": held_out, **whole, **marks}


def ratio(value: float | None, spread: float = 0.1) -> dict:
    return {"value": value, "low": value and value - spread, "high": value and value + spread}


def heard(right: int, conversations: int) -> dict:
    """A listening score in which each answer is right beside so many of sixteen others."""
    pairs = [
        (i, (i + k) % conversations, 1.0 if k <= right else -1.0, 10)
        for i in range(conversations)
        for k in range(1, 17)
    ]
    share = right / 16
    ends = {"low": share - 0.1, "high": share + 0.1, "gain_low": 0.1, "gain_high": 0.3}
    return {"share": share, "gain": 0.2, **ends, "conversations": conversations, "pairs": pairs}


def scores_of(loss: float, text: str, conversations: int = 17, listens: int = 12) -> dict:
    """What `evaluate.score_model` gives for a model whose every answer is `text`."""
    questions = [(f"What stands at number {i}?", True) for i in range(conversations)] + [
        ("hi, how are you", False)
    ]
    nats = [loss * 100 + 5 * (i % 5 - 2) for i in range(conversations)]
    generated = {name: ratio(0.5) for name in ("stop_rate", "non_words", "copied", "repeated")}
    generated |= {
        "answers": 18,
        "empty": 0,
        "longest_copy": 9,
        "distinct_2": 0.7,
        "words": 30.0,
        "tokens": 50.0,
    }
    answers = {"loss": loss, "terminator_loss": 0.4, "tokens": 100 * conversations, "perplexity": 2.0**loss}
    text_loss = {
        "loss": 3.0,
        "bits_per_byte": 1.2,
        "tokens": 100,
        "row_nats": [30.0] * 10,
        "row_tokens": [10] * 10,
    }
    return {
        "answers": answers | {"conversation_nats": nats, "conversation_tokens": [100] * conversations},
        "listening": heard(listens, conversations),
        "base_text": {"samples": text_loss},
        "generated": generated,
        "samples": [sample(q, f"{text} {k}", held) for q, held in questions for k in (1, 2)],
        "times": {"losses": 1.0, "generation": 2.0, "tokens_per_second": 900.0},
    }


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A folder as a run of arianna_ft.py leaves it, without scores."""
    place = tmp_path_factory.mktemp("bare")
    run, model = place / "ft", build()
    run.mkdir()
    lines = [
        {"step": s, "loss": 4.0 - s / 200, "lr": 1e-5, "step_ms": 400.0, "tokens_per_second": 900.0}
        for s in range(10, 301, 10)
    ]
    for step, loss, text in zip(STEPS, ANSWERS, TEXTS, strict=True):
        lines.append(
            {
                "step": step,
                "val_loss": loss,
                "terminator_loss": 0.5,
                "base_text": {"val_samples": text},
                "eval_seconds": 1.0,
            }
        )
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (place / "talk.jsonl").write_text("".join(json.dumps(conversation(i)) + "\n" for i in range(30)))
    checkpoint.save(place / "base.pt", checkpoint.pack(model))
    for step in STEPS:
        shutil.copy(place / "base.pt", run / f"ckpt_{step:06d}.pt")
    cfg = vars(TrainConfig(base="base.pt", max_iters=300))
    entry = {
        "format": RUN_FORMAT,
        "config": cfg,
        "inputs": {"base": sha256(place / "base.pt")},
        "best_step": 200,
        "seconds": 1234.0,
    }
    checkpoint.save(
        run / "ckpt.pt", checkpoint.pack(model, optimizer={}, iter_num=300, best_val_loss=3.2, run=entry)
    )
    names = {
        "conversations": "talk.jsonl",
        "base": "base.pt",
        "checkpoint": "out/ckpt_ft.pt",
        "binary": "out/arianna_v1_ft.bin",
    }
    paths = scored_run.Paths(
        **{n: str(place / p) for n, p in names.items()}, tokenizer=str(ROOT / "data/tok4096.model")
    )
    (place / "out").mkdir()
    for path in (paths.checkpoint, paths.binary):
        shutil.copy(place / "base.pt", path)
    scored_run.remember_job(run, paths, step=0)
    decide(run)
    return run


def conversation(i: int) -> list[dict[str, str]]:
    answer = f"At number {i} stands a house with {i + 2} windows. I counted them in a sentence once."
    return [
        {"role": "user", "content": f"What stands at number {i}?"},
        {"role": "assistant", "content": answer},
    ]


def decide(run: Path) -> Choice:
    choice = choose.choose(choose.evaluations(run), 0.1, None, lambda best, share: best)
    choose.remember(choice, {"max_forgetting": 0.1, "blend": None}, run)
    return choice


def with_scores(run: Path, base: dict, tuned: dict, counts: tuple[int, int] = (150, 17)) -> Path:
    """Put scores into a run's folder as if they had been made there."""
    found = scored_run.read_run(run)
    pairs = {
        str(p.step): [tuned["answers"][f"conversation_{name}"] for name in ("nats", "tokens")]
        for p in scored_run.candidates(found)
    }
    scores = {
        "of": scored_run.what_is_scored(found, {**scored_run.SAMPLING, "samples_each": 2}),
        "base": base,
        "tuned": tuned,
    }
    scores |= {
        "candidates": pairs,
        "conversations": {"train": counts[0], "held_out": counts[1], "rows": 300},
        "seconds": 60.0,
    }
    (run / "scores.json").write_text(json.dumps(scores))
    return run


@pytest.fixture
def run(bare: Path, tmp_path: Path) -> Path:
    """A run that got better, with its scores."""
    shutil.copytree(bare, tmp_path / "ft")
    return with_scores(tmp_path / "ft", scores_of(4.0, "I do not know."), scores_of(3.2, "A house."))


def made(run: Path, drawn: bool = False) -> dict:
    """Make the report, mostly with empty drawings, which take the most time."""
    with pytest.MonkeyPatch.context() as patch:
        if not drawn:
            patch.setattr(
                charts,
                "to_svg",
                lambda name, size, alternative, draw: f'<svg aria-label="{alternative}"></svg>',
            )
        return report.make(run, {**scored_run.SAMPLING, "samples_each": 2})


class Page(HTMLParser):
    """Tags with their attributes, and the text outside of styles."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        self.open = self.open[: -self.open[::-1].index(tag) - 1] if tag in self.open else self.open

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def page(run: Path) -> Page:
    return Page((run / "report.html").read_text(encoding="utf-8"))


# ---- the base, before anything runs ----


def test_a_base_that_guesses_and_one_that_knows_the_answers_by_heart_are_told_of():
    assert verdict.about_base(4.1, 4.0, 4096) == "" == verdict.about_base(4.1, 3.61, 4096)
    assert "near ln 4096 = 8.32" in verdict.about_base(7.4, 7.4, 4096)
    assert "by heart" in verdict.about_base(4.1, 3.5, 4096) and "near ln" in verdict.about_base(
        7.4, 0.1, 4096
    )


def test_to_a_base_that_is_worse_than_guessing_the_text_is_foreign():
    assert "near ln" in verdict.about_base(8.4, 8.4, 4096), "new weights guess"
    told = verdict.about_base(15.58, 15.5, 4096, spelled=0.93)
    assert "15.58 nats on held-out answers are above ln 4096 = 8.32" in told and "untrained" not in told
    assert "foreign to it; 93% of the characters are spelled in bytes." in told
    assert "bytes" not in verdict.about_base(15.58, 15.5, 4096)


# ---- the verdict ----

BASE = Point(0, 0.0, 4.0, {"val_samples": 3.0})


HEARD = verdict.Listening(0.62, 0.77, (0.66, 0.85), (0.05, 0.25))


def evidence(
    losses=ANSWERS,
    interval=(-0.9, -0.6),
    text=3.02,
    training=(3.0, 1.0),
    blend=1.0,
    heard=HEARD,
    held_out=17,
    non_words=(1.2, 0.9),
):
    points = [
        BASE,
        *(Point(s, 1.0, loss, {"val_samples": text}) for s, loss in zip(STEPS[1:], losses[1:], strict=True)),
    ]
    best = choose.best_checkpoint(points)
    used = Point(best.step, blend, best.answer_loss, {"val_samples": text})
    choice = Choice(
        points[0], Point(best.step, 1.0, best.answer_loss, {"val_samples": 3.4}) if blend < 1 else best, used
    )
    lines = dict(zip(range(0, 301, 300 // (len(training) - 1)), training, strict=True))
    return verdict.Evidence(
        choice, points, lines, (4.0, used.answer_loss), interval, non_words, heard, (150, held_out), 0.1
    )


def say(**changes) -> verdict.Verdict:
    return verdict.verdict(evidence(**changes), "out/ckpt_ft.pt", "out/base.pt")


def test_the_verdict_of_a_better_model_names_every_number_and_the_file():
    found = say()
    assert found.sentence == (
        "Better: held-out answers went from 4.00 to 3.20 nats (95%: -0.90 to -0.60); "
        "it fits answers to questions in 77% of pairs, before 62%; 50% is chance; base text 3.00 to 3.02; "
        "invented words 1.2% to 0.9%. "
        "Use out/ckpt_ft.pt (iteration 200)."
    )
    assert (found.word, found.use, found.reason, found.notes) == ("better", "out/ckpt_ft.pt", "", ())


@pytest.mark.parametrize(
    ("interval", "text", "word", "beginning"),
    [
        ((-0.5, -0.1), 3.05, "better", "Better: "),
        ((-0.5, -0.1), 3.15, "no clear change", "No clear change: "),
        ((-0.5, 0.1), 3.05, "no clear change", "No clear change: "),
        ((-0.5, 0.1), 3.15, "worse", "Worse: "),
        ((0.1, 0.5), 3.05, "worse", "Worse: "),
        ((0.1, 0.5), 3.15, "worse", "Worse: "),
        (None, 3.05, "no clear change", "Cannot tell: "),
        (None, 3.15, "worse", "Worse: "),
    ],
)
def test_each_row_of_the_truth_table_has_its_words(interval, text, word, beginning):
    found = say(interval=interval, text=text)
    assert found.word == word and found.sentence.startswith(beginning)
    kept = "Use out/ckpt_ft.pt" if word == "better" else "Keep out/base.pt."
    assert kept in found.sentence and bool(found.reason) == (word != "better")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"losses": (4.0, 3.9, 4.4, 4.9), "interval": (0.1, 0.5)},
            "memorised from iteration 100 on: the training loss fell from 1.67",
        ),
        ({"losses": (4.0, 4.1, 4.2, 4.3), "interval": (0.1, 0.5)}, "memorised from the start"),
        (
            {"losses": (4.0, 4.0, 3.995, 3.99), "interval": (-0.1, 0.1), "training": (3.0, 2.99)},
            "learning rate was too low",
        ),
        ({"losses": (4.0, 3.9, 3.8, 3.7), "interval": (-0.4, 0.1)}, "still getting better at iteration 300"),
        (
            {"losses": (4.0, 3.9, 3.89, 3.89), "interval": (-0.4, 0.1)},
            "Too little data to tell the two apart: 150 conversations",
        ),
        ({"text": 3.2}, "It forgot 0.20 nats a token of base text, and --max_forgetting allows 0.10"),
        (
            {"interval": None, "held_out": 5},
            "8 held-out conversations or more are needed to tell; here are 5",
        ),
        ({"losses": (4.0, 4.01, 4.01, 4.01), "interval": (0.1, 0.5)}, "little in common"),
    ],
)
def test_a_run_that_is_not_better_is_told_why(changes, reason):
    training = changes.pop("training", (3.0, 1.67, 0.9, 0.4) if "from iteration" in reason else (3.0, 1.0))
    assert reason in say(**changes, training=training).reason


def test_a_falling_held_out_loss_is_not_called_memorised_nor_one_that_rises_with_the_training_loss():
    assert "memorised" not in say(losses=(4.0, 3.6, 3.4, 3.39), interval=(-0.5, 0.1)).reason
    assert (
        "memorised" not in say(losses=(4.0, 3.6, 4.4, 4.9), interval=(0.1, 0.5), training=(3.0, 4.0)).reason
    )


def test_too_few_conversations_say_that_they_cannot_tell():
    found = say(interval=None, held_out=5)
    assert found.sentence.startswith(
        "Cannot tell: held-out answers went from 4.00 to 3.20 nats (5 conversations are too few for an "
        "interval)"
    )


def test_a_blend_is_named_with_what_it_is_blended_for():
    assert (
        "(iteration 200 blended with the base, 30% of the way; unblended it forgot 0.40 nats)"
        in say(blend=0.3).sentence
    )


@pytest.mark.parametrize(
    ("tuned", "rise", "told"),
    [
        (0.77, (0.05, 0.25), "; it fits answers to questions in 77% of pairs, before 62%; 50% is chance; "),
        (
            0.62,
            (-0.1, 0.1),
            "; but it listens no better: it fits answers to questions in 62% of pairs, before 62%; 50% is "
            "chance; ",
        ),
        (
            0.58,
            (-0.2, -0.01),
            "; but it listens no better: it fits answers to questions in 58% of pairs, before 62%; ",
        ),
        (
            0.66,
            (-0.01, 0.1),
            "; whether it listens better is not sure: it fits answers to questions in 66% of pairs, before "
            "62%; ",
        ),
        (0.66, None, "; whether it listens better is not sure: "),
    ],
)
def test_a_model_whose_answers_only_got_likelier_is_told_in_the_same_breath(tuned, rise, told):
    found = say(heard=verdict.Listening(0.62, tuned, (0.6, 0.8), rise))
    assert told in found.sentence and found.word == "better"


def test_a_model_that_fitted_every_pair_before_is_not_said_to_listen_no_better():
    every = evidence(heard=verdict.Listening(1.0, 1.0, (1.0, 1.0), (0.0, 0.0)))
    assert verdict.heard(every) == ["it fits answers to questions in every pair, as before; 50% is chance"]


def test_where_answers_got_no_likelier_the_shares_stand_alone_and_without_pairs_there_are_none():
    worse = evidence(
        losses=(4.0, 4.1, 4.2, 4.3), heard=verdict.Listening(0.62, 0.58, (0.5, 0.7), (-0.2, 0.1))
    )
    assert verdict.heard(worse) == ["it fits answers to questions in 58% of pairs, before 62%; 50% is chance"]
    assert verdict.heard(evidence(heard=verdict.Listening(None, None, None, None))) == []


def test_answers_that_may_not_listen_at_all_are_told():
    assert say().notes == ()
    note = say(heard=verdict.Listening(0.62, 0.56, (0.47, 0.65), (-0.2, 0.1))).notes[0]
    assert "may not listen to their questions at all: they fit them in 56% of pairs (95%: 47% to 65%)" in note
    assert verdict.notes(evidence(heard=verdict.Listening(0.5, 0.5, None, None))) == ()


def test_a_change_that_two_decimals_would_hide_has_three_and_zero_has_no_sign():
    assert verdict.from_to(3.0, 3.004) == "3.000 to 3.004" and verdict.from_to(3.0, 3.0) == "3.00 to 3.00"
    assert (
        verdict.signed(-0.001) == "-0.001"
        and verdict.signed(-0.0001) == "0.00"
        and verdict.signed(0.2) == "+0.20"
        and verdict.signed(-0.2) == "-0.20"
    )


def test_without_base_text_or_words_the_verdict_says_what_it_has():
    found = evidence(non_words=(None, 0.9))
    bare = [Point(p.step, p.blend, p.answer_loss, {}) for p in (found.choice.base, found.choice.best)]
    told = verdict.changes(verdict.Evidence(**{**vars(found), "choice": Choice(*bare, bare[1])}))
    assert told[2:] == ["base text was not measured"]


# ---- the report ----


def test_the_report_says_the_verdict_in_all_three_files(run):
    facts = made(run)
    sentence = facts["verdict"]["sentence"]
    assert (
        sentence.startswith("Better: held-out answers went from 4.00 to 3.20 nats (95%: ")
        and facts["verdict"]["word"] == "better"
    )
    assert (
        sentence in " ".join(page(run).text.split())
        and json.loads((run / "report.json").read_text()) == facts
    )
    assert (run / "report.md").read_text().startswith("# Better: held-out answers went from 4.00 to 3.20")
    assert facts["difference"]["step"] == 100 and facts["difference"]["value"] == pytest.approx(-0.8)


def test_the_page_has_everything_that_is_promised(run):
    made(run, drawn=True)
    found = page(run)
    images = [attrs["aria-label"] for tag, attrs in found.tags if tag == "svg" and attrs.get("role") == "img"]
    assert len(images) == 4 and all("nats" in label or "loss" in label for label in images)
    promised = [
        "hi, how are you",
        "A house. 2",
        "Checkpoints",
        "peak rate",
        "restarts",
        "max_iters = 300",
        "sample.py",
    ]
    assert not [word for word in promised if word not in found.text]
    times = [found.text.count(f"What stands at number {i}?") for i in (0, 3, 16)]
    assert times == [2, 1, 2]  # the first and the last held-out question are on the first screen, too


def test_the_page_asks_for_nothing_that_is_not_in_it(run):
    made(run, drawn=True)
    text = (run / "report.html").read_text()
    found = page(run)
    assert not {tag for tag, _ in found.tags} & {"script", "link", "img", "iframe", "object", "embed", "base"}
    places = [
        v
        for _, attrs in found.tags
        for name, v in attrs.items()
        if name in ("src", "href", "xlink:href", "srcset", "data", "action")
    ]
    assert places and all(place.startswith("#") for place in places)
    assert "@import" not in text and all(
        place.startswith("#") for place in re.findall(r"url\(([^)]*)\)", text)
    )
    policy = [attrs["content"] for tag, attrs in found.tags if tag == "meta" and attrs.get("http-equiv")]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
    ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    assert len(ids) == len(set(ids)) and {place[1:] for place in places} <= set(ids)


HOSTILE = "<script>alert(1)</script> & <b>bold</b> `x` *y* [z](http://z)"


def test_html_in_an_answer_or_a_question_appears_as_text(run):
    tuned = scores_of(3.2, HOSTILE)
    for s in tuned["samples"]:
        s["non_words"], s["copies"] = [[1, 7]], [[0, 25]]
    base = scores_of(4.0, HOSTILE)
    base["samples"][0]["question"] = HOSTILE
    with_scores(run, base, tuned)
    made(run)
    found = page(run)
    assert (
        "script" not in {tag for tag, _ in found.tags}
        and "<script>alert(1)</script> & <b>bold</b>" in found.text
    )
    assert all(not attrs for tag, attrs in found.tags if tag in ("u", "mark"))
    lines = (run / "report.md").read_text()
    assert (
        "<script" not in lines
        and "&lt;b&gt;bold&lt;/b&gt;" in lines
        and "\\[z\\](http" in lines
        and "\\`x\\` \\*y\\*" in lines
    )


def test_non_words_are_underlined_and_copies_marked():
    answer = sample("q", "a surfive <here> it is", non_words=[[2, 9]], copies=[[0, 16]])
    assert (
        str(render.marked_html(answer))
        == "<mark>a </mark><mark><u>surfive</u></mark><mark> &lt;here&gt;</mark> it is"
    )
    assert str(render.marked_markdown(answer)) == "_a_ _**surfive**_ _&lt;here&gt;_ it is"
    assert (
        str(render.marked_html(sample("q", "plain"))) == "plain"
        and str(render.marked_html(sample("q", ""))) == ""
    )


def test_an_answer_that_did_not_end_is_told(run):
    base, tuned = scores_of(4.0, "On and on"), scores_of(3.2, "So")
    for scores, whole in ((base, True), (tuned, False)):
        for s in scores["samples"]:
            s |= {"stopped": False, "whole": whole}
    with_scores(run, base, tuned)
    made(run)
    assert (
        "asked itself the next question" in page(run).text
        and "had not ended when the context did" in page(run).text
    )
    assert (
        "\n> **base, did not end:** On and on 1\n>\n> **tuned, did not end:** So 1\n"
        in (run / "report.md").read_text()
    )


def test_a_large_run_stays_under_two_megabytes_and_says_what_is_left_out(run):
    words = "a word <and> another " * 40
    with_scores(run, scores_of(4.0, words, 600), scores_of(3.2, words, 600))
    with open(run / "log.jsonl", "a") as log:
        log.writelines(json.dumps({"step": s, "loss": 3.0, "lr": 1e-5}) + "\n" for s in range(1, 20001))
    facts = made(run)
    sizes = [(run / f"report.{kind}").stat().st_size for kind in ("html", "md")]
    assert max(sizes) < 2_000_000 and "are left out here; report.json has them all" in page(run).text
    assert len(facts["scores"]["tuned"]["samples"]) == 2 * 601


def test_of_very_many_checkpoints_the_table_has_some_and_always_the_one_used():
    rows = [
        {"what": str(i), "mark": "used" if i == 777 else "", "base_text": {}, "forgetting": 0.0}
        for i in range(2000)
    ]
    rows = [row | {"training": 3.0, "answers": 3.0, "terminator": None} for row in rows]
    shown = render.checkpoint_rows({"checkpoints": rows, "base_texts": []})
    assert len(shown) == 61 and "777" in [row["what"] for row in shown]
    assert shown[0]["cells"] == ["3.000", "3.000", "–"]


def test_the_model_card_is_made_of_the_report(run):
    facts = made(run)
    found, sentence = card.card(build(), facts), facts["verdict"]["sentence"].partition(" Use ")[0]
    assert sentence.endswith("%.") and f"## How it was made\n\n{sentence}\n\n| what | value |" in found
    rows = {
        "held-out answers, nats a token": "4.000 before, 3.200 after",
        "base text (samples), nats a token": "3.000 before, 3.020 after",
        "conversations": "150 trained on, 17 held out",
        "training": "200 iterations, peak rate 1e-05",
        "blended with the base": "no",
    }
    assert found.rstrip().endswith("\n".join(f"| {name} | {value} |" for name, value in rows.items()))


def test_two_reports_are_the_same_but_for_the_times(run):
    files = [[], []]
    for kept in files:
        facts = made(run, drawn=True)
        facts["times"] = None
        kept += [json.dumps(facts), re.sub(r"made</dt><dd>[^<]*", "", (run / "report.html").read_text())]
    assert files[0] == files[1] and "+0000" not in json.dumps(facts)


def test_a_report_is_made_again_without_scoring(run, monkeypatch):
    monkeypatch.setattr(scored_run, "score", lambda *_: pytest.fail("scored again"))
    made(run)
    (run / "ckpt_000100.pt").unlink()  # what is gone has not changed
    made(run)


@pytest.mark.parametrize("change", ["weights", "sampling", "choice", "words"])
def test_scores_of_other_weights_words_or_settings_are_not_used(run, monkeypatch, change):
    class Again(Exception):
        pass

    def again(*_):
        raise Again

    monkeypatch.setattr(scored_run, "score", again)
    if change == "weights":
        checkpoint.save(run / "ckpt_000200.pt", checkpoint.pack(build(seed=8)))
    if change == "choice":
        found = scored_run.read_run(run)
        blended = Point(200, 0.5, 3.3, {"val_samples": 3.01})
        choose.remember(
            Choice(found.choice.base, found.choice.best, blended, (blended,)),
            {"max_forgetting": 0.1, "blend": 0.5},
            run,
        )
    if change == "words":
        (run / "words.txt").write_text("house\n")
        monkeypatch.setattr(scored_run, "WORDS", run / "words.txt")
    with pytest.raises(Again):
        report.make(run, {**scored_run.SAMPLING, "samples_each": 3 if change == "sampling" else 2})


def test_a_log_cut_within_a_line_is_reported_and_told(run):
    with open(run / "log.jsonl", "a") as log:
        log.write('{"step": 310, "lo')
    facts = made(run)
    assert facts["run"]["unreadable"] == 1 and "1 line was cut off by a crash and left out" in page(run).text
    assert "1 line was cut off" in (run / "report.md").read_text()


def test_a_blend_appears_in_table_frontier_and_verdict(run):
    found = scored_run.read_run(run)
    tried = tuple(
        Point(200, share / 10, 4.0 - 0.08 * share, {"val_samples": 3.0 + 0.03 * share})
        for share in range(1, 10)
    )
    best = Point(200, 1.0, 3.2, {"val_samples": 3.3})
    rows = (run / "log.jsonl").read_text().replace('"val_samples": 3.02', '"val_samples": 3.3')
    (run / "log.jsonl").write_text(rows)
    choose.remember(
        Choice(found.choice.base, best, tried[2], tried), {"max_forgetting": 0.1, "blend": None}, run
    )
    with_scores(run, scores_of(4.0, "No."), scores_of(3.7, "Yes."))
    facts = made(run)
    assert (
        "blended with the base, 30% of the way; unblended it forgot 0.30 nats" in facts["verdict"]["sentence"]
    )
    assert [row["what"] for row in facts["checkpoints"] if row["mark"]] == ["200", "blend 30%"]
    assert "9 blends" in (run / "report.html").read_text()


def test_without_base_text_there_is_no_frontier(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    (run / "log.jsonl").write_text(
        "".join(json.dumps({k: v for k, v in e.items() if k != "base_text"}) + "\n" for e in lines)
    )
    decide(run)
    base, tuned = scores_of(4.0, "No."), scores_of(3.2, "Yes.")
    base["base_text"] = tuned["base_text"] = {}
    with_scores(run, base, tuned)
    assert "base text was not measured" in made(run)["verdict"]["sentence"]
    assert "frontier" not in (run / "report.html").read_text()


def test_notes_of_the_job_are_shown(run):
    job = json.loads((run / "job.json").read_text())
    (run / "job.json").write_text(json.dumps(job | {"notes": ["A higher rate would have gained more."]}))
    made(run)
    assert "A higher rate would have gained more." in page(run).text


def test_starts_are_counted_and_the_machine_is_the_one_that_trained(run, monkeypatch):
    paths = scored_run.Paths(**json.loads((run / "job.json").read_text())["paths"])
    monkeypatch.setattr(scored_run, "this_machine", lambda: {"processor": "another"})
    scored_run.remember_job(run, paths, step=None)
    first = made(run)["run"]
    assert first["restarts"] == 0 and first["machine"]["processor"] != "another"
    scored_run.remember_job(run, paths, step=120)
    then = made(run)["run"]
    assert then["restarts"] == 1 and then["machine"] == {"processor": "another"}


def search_of(n: int = 14) -> dict:
    """What arianna/search.py leaves: trials of which every third was stopped early, each better than the
    one before.
    """
    trials = [
        {"number": i, "seconds": 60.0 * (i + 1), "value": 4.0 - i / 100, "answers": 4.1, "forgetting": 0.05}
        for i in range(n)
    ]
    for i, trial in enumerate(trials):
        trial |= {"state": "pruned", "value": None} if i % 3 == 2 else {"state": "complete"}
        trial["params"] = {"learning_rate": 1.234e-4, "optimizer": f"adamw <{i}>"}
    known = {
        "base": {"answers": 4.2},
        "presets": {"gentle": 4.0, "best": None},
        "importances": {"optimizer": 0.3, "learning_rate": 0.7},
    }
    return {"seconds": 900.0, "trials": trials, **known, "expected_gain": 0.33}


def test_what_a_search_tried_has_its_section_with_a_dot_a_trial(run):
    (run / "search.json").write_text(json.dumps(search_of()))
    facts = made(run, drawn=True)
    told = " ".join(page(run).text.split())
    for sentence in (
        "14 trials in 15 minutes, 4 of them stopped early. The best one, number 13, reached 3.870 nats a "
        "token",
        "On the same folds: gentle 4.000, best (no time for it), the base 4.200.",
        "0.330 nats a token; on the held-out conversations, which had no part in the search: 0.800.",
        "What counted most: learning_rate 70%, optimizer 30%.",
    ):
        assert sentence in told and sentence in (run / "report.md").read_text().replace("\\_", "_")
    assert (
        len(facts["night"]["best"]) == 10
        and "adamw <13>" in told
        and "adamw &lt;13&gt;" in (run / "report.md").read_text()
    )
    labels = [attrs["aria-label"] for tag, attrs in page(run).tags if tag == "svg" and "aria-label" in attrs]
    assert sum("10 trials that came to their end and 4 stopped early" in label for label in labels) == 2


def test_a_preset_that_was_given_up_is_told_apart_from_one_without_time():
    shown = night.presets_of({"gentle": None, "best": None, "other": 4.0}, {"gentle", None})
    assert shown == [
        ("gentle", "(given up: worse on the first folds)"),
        ("best", "(no time for it)"),
        ("other", "4.000"),
    ]


@pytest.mark.parametrize(
    "text", [None, "{", "[]", '{"trials": []}', '{"trials": [{"number": 1, "seconds": 2, "value": null}]}']
)
def test_without_a_trial_that_came_to_its_end_there_is_no_such_section(run, text):
    if text is not None:
        (run / "search.json").write_text(text)
    assert made(run)["night"] is None and "What the night tried" not in page(run).text


def test_what_readers_preferred_is_shown(run):
    made(run)
    assert "compared without names" not in page(run).text
    choices = ["tuned"] * 5 + ["base"] * 2 + ["equal"]
    (run / "preferences.jsonl").write_text(
        "".join(json.dumps({"question": "q", "preferred": c}) + "\n" for c in choices)
    )
    sentence = (
        "8 answers compared without names: tuned preferred in 5, base in 2, neither in 1 "
        "(71% for tuned, 95%: 36% to 92%)."
    )
    assert made(run)["preferences"]["tuned"] == 5
    assert sentence in page(run).text and sentence in (run / "report.md").read_text()


CONTROLS = "a\x1b[31mred\x07 \u202egnp.exe \u2066x\x9b \ud800"


def test_control_characters_and_direction_overrides_are_made_visible_in_all_that_people_read(run, capsys):
    base, tuned = scores_of(4.0, CONTROLS), scores_of(3.2, CONTROLS)
    for s in base["samples"] + tuned["samples"]:
        s["question"], s["non_words"], s["copies"] = CONTROLS, [[1, 8]], [[0, 9]]
    with_scores(run, base, tuned)
    facts = made(run)
    shown = (
        (run / "report.md").read_text()
        + (run / "report.html").read_text()
        + report.words_of(facts)
        + report.three_answers(facts)
    )
    assert not [c for c in shown if c in "\x1b\x07\u202e\u2066\x9b\ud800"]
    assert all(shown.count(spelled) > 4 for spelled in ("x1b", "x07", "u202e", "u2066", "x9b", "ud800"))


def test_the_first_screen_and_the_terminal_show_three_held_out_questions(run):
    facts = made(run)
    assert [q["question"] for q in render.three_of(render.questions(facts))] == [
        f"What stands at number {i}?" for i in (0, 8, 16)
    ]
    told = report.three_answers(facts).splitlines()
    assert (
        told[:3] == ["Q: What stands at number 0?", "  base   I do not know. 1", "  tuned  A house. 1"]
        and len(told) == 9
    )


def test_the_folder_of_a_run_may_stand_without_its_flag(run):
    assert report.with_flag([str(run)]) == [f"--run={run}"] and report.with_flag(["--run", "x"]) == [
        "--run",
        "x",
    ]
    with pytest.raises(UsageError, match="nowhere holds no run"):
        report.main(["nowhere"])


def test_the_next_commands_name_files_that_are_there(run):
    paths = json.loads((run / "job.json").read_text())["paths"]
    told = [step["command"] for step in made(run)["next"]]
    words = [word.partition("=")[2] or word for line in told for word in shlex.split(line)]
    named = [Path(word) for word in words if Path(word).suffix in (".pt", ".bin", ".model")]
    assert all(path.is_file() for path in named) and {Path(paths["checkpoint"]).name, "base.pt"} <= {
        p.name for p in named
    }


def test_after_the_folder_has_moved_the_report_tells_of_the_files_as_they_lie_now(run, tmp_path):
    job = json.loads((run / "job.json").read_text())
    job["paths"] |= {"checkpoint": "gone/ckpt_ft.pt", "binary": "gone/arianna_v1_ft.bin"}
    (run / "job.json").write_text(json.dumps(job))
    shutil.copy(run / "ckpt.pt", tmp_path / "ckpt_ft.pt")
    facts = made(run)
    assert facts["verdict"]["use"] == str(tmp_path / "ckpt_ft.pt") and facts["verdict"]["notes"] == []
    assert "arianna_v1_ft.bin" not in json.dumps(facts["next"]) and "gone/" not in json.dumps(
        [facts["next"], facts["verdict"]]
    )
    (tmp_path / "ckpt_ft.pt").unlink()
    facts = made(run)
    assert "gone/ckpt_ft.pt is not there any more; the command that trained" in facts["verdict"]["notes"][-1]
    assert not [step for step in facts["next"] if "ckpt_ft" in step["command"]]


# ---- folders that are no run ----


def test_a_folder_that_is_no_run_is_one_sentence_and_exit_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        config.run_main(report.main, [f"--run={tmp_path}"])
    told = capsys.readouterr().err
    assert (
        left.value.code == 2
        and told.count("\n") == 1
        and "holds no run of arianna_ft.py: it has no log.jsonl" in told
    )


def test_a_run_of_another_version_is_refused_in_a_sentence(run):
    job = json.loads((run / "job.json").read_text())
    (run / "job.json").write_text(json.dumps(job | {"format": 2}))
    with pytest.raises(UsageError, match="job.json is of format 2, and this program reads 1"):
        report.main([f"--run={run}"])
    state = checkpoint.load(run / "ckpt.pt")
    state["run"]["format"] = 9
    checkpoint.save(run / "ckpt.pt", state)
    with pytest.raises(UsageError, match="ckpt.pt is of format 9"):
        report.main([f"--run={run}"])


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("job.json", "{", "its job.json is damaged"),
        ("job.json", None, "it has no job.json"),
        ("ckpt.pt", None, "missing or damaged; they hold the settings of the run"),
        ("log.jsonl", None, "is missing; it holds the losses of the run"),
        ("choice.json", None, "has no result yet"),
        ("choice.json", "[]", "has no result yet"),
        ("log.jsonl", "", "has no evaluation of the base"),
    ],
)
def test_what_a_run_lacks_is_named(run, file, content, told):
    (run / file).unlink()
    if content is not None:
        (run / file).write_text(content)
    with pytest.raises(UsageError, match=told):
        report.main([f"--run={run}"])


def test_a_choice_that_the_log_has_overtaken_is_no_result(run):
    with open(run / "log.jsonl", "a") as log:
        log.write('{"step": 400, "val_loss": 2.0, "base_text": {"val_samples": 3.0}}\n')
    with pytest.raises(UsageError, match="has no result yet"):
        report.main([f"--run={run}"])


# ---- scoring ----


@pytest.fixture
def unscored(bare: Path, tmp_path: Path, monkeypatch, tokenizer: Tokenizer) -> Path:
    """A run whose checkpoints are its base, with the shards that scoring needs; a short list of questions."""
    shutil.copytree(bare, tmp_path / "ft")
    run, halves = tmp_path / "ft", split_of(bare.parent / "talk.jsonl")
    write_missing(encoding.prepare_conversations(*halves, tokenizer, 64, 64)[0], run / "data")
    rows = base_text.sampled_rows(build(), 8, 1).tobytes()
    write_missing({"val_samples.bin": rows}, run / "base_text")
    (tmp_path / "questions.txt").write_text("hi\nWho are you?\n")
    monkeypatch.setattr(scored_run, "QUESTIONS", tmp_path / "questions.txt")
    return run


def split_of(path: Path):
    from arianna.corpus.prepare import read_conversations
    from arianna.corpus.split import split_sides

    return split_sides(read_conversations(path))


QUICK = {"samples_each": 1, "temperature": 0.8, "top_p": 0.9, "top_k": 300, "seed": 1}


def test_a_base_against_itself_is_no_clear_change(unscored, monkeypatch):
    monkeypatch.setattr(charts, "to_svg", lambda *_: "")
    facts = report.make(unscored, QUICK)
    assert (
        facts["verdict"]["word"] == "no clear change"
        and facts["difference"]["value"] == facts["difference"]["low"] == 0.0
    )
    assert facts["scores"]["base"] == facts["scores"]["tuned"] and facts["conversations"] == {
        "train": 22,
        "held_out": 8,
        "rows": 22,
    }
    assert [len(q["pairs"]) for q in render.questions(facts)] == [1] * 10
    again = report.make(unscored, QUICK)
    (unscored / "scores.json").unlink()
    anew = report.make(unscored, QUICK)
    assert {**facts, "times": 0} == {**again, "times": 0} == {**anew, "times": 0}


def test_inputs_that_changed_since_the_training_are_named(unscored):
    job = json.loads((unscored / "job.json").read_text())
    other = unscored / "other.jsonl"
    other.write_text("".join(json.dumps(conversation(i)) + "\n" for i in range(31)))
    changed = copy.deepcopy(job)
    changed["paths"]["conversations"] = str(other)
    (unscored / "job.json").write_text(json.dumps(changed))
    with pytest.raises(UsageError, match="other.jsonl has changed since .* was trained; the report asks the"):
        report.main([f"--run={unscored}"])
    other.unlink()
    with pytest.raises(UsageError, match="other.jsonl is missing; the report asks the questions in it"):
        report.main([f"--run={unscored}"])
    (unscored / "job.json").write_text(json.dumps(job))
    best = json.loads((unscored / "choice.json").read_text())["choice"]["used"]["step"]
    (unscored / f"ckpt_{best:06d}.pt").unlink()
    with pytest.raises(UsageError, match=f"weights at iteration {best}, of which the result is made"):
        report.main([f"--run={unscored}"])


# ---- in a browser ----

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FRAME = """<!doctype html>
<iframe src="report.html" style="width: {0}px; height: 800px; border: 0"></iframe><p></p><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument
  const shown = [...page.querySelectorAll("svg")].filter(s => s.getBoundingClientRect().width > 0).length
  const requests = page.defaultView.performance.getEntriesByType("resource").length
  const wide = page.documentElement.scrollWidth
  document.querySelector("p").textContent = `wide ${{wide}} shown ${{shown}} requests ${{requests}}`
}}</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_page_without_errors_requests_or_sideways_scrolling(run, width):
    made(run, drawn=True)
    (run / "frame.html").write_text(FRAME.format(width))
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
        "--enable-logging=stderr",
        "--v=0",
    ]
    flags += [
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--no-first-run",
        "--virtual-time-budget=2000",
        "--dump-dom",
    ]
    flags += [f"--user-data-dir={run / 'profile'}", "--window-size=1400,900"]
    found = subprocess.run(
        [CHROMIUM, *flags, (run / "frame.html").as_uri()], capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stderr
    seen = re.search(r"wide (\d+) shown (\d) requests (\d+)", found.stdout)
    assert seen is not None and int(seen[1]) <= width and (seen[2], seen[3]) == ("2", "0"), found.stdout[
        -300:
    ]
    assert "CONSOLE" not in found.stderr, found.stderr
