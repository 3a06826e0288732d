"""TensorBoard's files by its own reader, and Weights & Biases by a stand-in that keeps what it is sent."""

import dataclasses
import importlib.machinery
import sys
import types

import pytest
from helpers import ROOT, Interrupt, build, equal, settings_for, tensorboard_of, weights

import arianna_ft
import train_arianna
from arianna.formats import checkpoint
from arianna.system import config
from arianna.training import dashboards
from arianna.training.log import read_log
from train_arianna import train

TIMES = {"step_ms", "tokens_per_second", "eval_seconds"}
TOKENIZER = str(ROOT / "data/tok4096.model")


def settings(tmp_path, **changes) -> train_arianna.TrainConfig:
    """Of a short fine-tune of a tiny base in tmp_path/run."""
    if not (tmp_path / "base.pt").exists():
        checkpoint.save(tmp_path / "base.pt", checkpoint.pack(build()))
    return settings_for(tmp_path, tmp_path / "base.pt", **changes)


class Server:
    """What Weights & Biases keeps: rows by run and step, and the verdicts."""

    def __init__(self):
        self.runs, self.summaries, self.told = {}, {}, []

    def init(self, id, **options):
        assert (options["resume"], options["project"]) == ("allow", "innerarianna")
        rows, server = self.runs.setdefault(id, {}), self

        class Run:
            starting_step = max(rows, default=-1) + 1
            summary = self.summaries.setdefault(id, {})

            def log(self, values, step):
                server.told.append(step)
                rows.setdefault(step, {}).update(values)

            def finish(self):
                pass

        return Run()

    @property
    def rows(self):
        (rows,) = self.runs.values()
        return rows


class Table:
    def __init__(self, columns, data):
        self.columns, self.data = columns, data

    def __eq__(self, other):
        return vars(self) == vars(other)


@pytest.fixture
def server(monkeypatch) -> Server:
    server, module = Server(), types.ModuleType("wandb")
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    module.init, module.Table = lambda **options: server.init(**options), Table
    monkeypatch.setitem(sys.modules, "wandb", module)
    return server


def interrupted(cfg, monkeypatch, at: int) -> None:
    """Train, with a crash ahead of a step."""
    original = train_arianna.train_step

    def step(state, *rest):
        if state.step == at:
            raise Interrupt
        return original(state, *rest)

    with monkeypatch.context() as patch, pytest.raises(Interrupt):
        patch.setattr(train_arianna, "train_step", step)
        train(cfg)


def timeless(rows: dict[int, dict]) -> dict[int, dict]:
    return {
        step: {name: value for name, value in row.items() if name not in TIMES} for step, row in rows.items()
    }


# ---- Weights & Biases ----


def test_the_log_is_sent_with_samples_as_a_table(tmp_path, server):
    cfg = settings(tmp_path, wandb=True, tokenizer=TOKENIZER)
    train(cfg)
    log = read_log(tmp_path / "run")
    assert sorted(server.rows) == [0, 2, 4, 6, 8] and server.told == sorted(server.told)
    for step, row in server.rows.items():
        samples = log[step].get("samples", {})
        expected = {
            name: value
            for name, value in log[step].items()
            if name not in ("step", "samples") and value is not None
        }
        assert {name: value for name, value in row.items() if name != "samples"} == expected
        assert row.get("samples") == (
            Table(["question", "answer"], [list(pair) for pair in samples.items()]) if samples else None
        )


@pytest.mark.parametrize("lost", [False, True], ids=["all arrived", "the last step was lost"])
def test_a_run_that_goes_on_sends_no_step_twice_and_leaves_none_out(tmp_path, server, monkeypatch, lost):
    cfg = settings(tmp_path, wandb=True)
    train(dataclasses.replace(cfg, out_dir=str(tmp_path / "whole")))
    whole = timeless(server.rows)
    server.runs.clear()
    server.told.clear()
    interrupted(cfg, monkeypatch, at=7)  # step 4 is saved, step 6 is logged
    if lost:
        del server.rows[6]
    train(cfg)
    assert timeless(server.rows) == whole
    assert server.told == [0, 2, 4, 4, 6, *[6] * lost, 8, 8], "an evaluation has a line of its own"


def test_what_was_logged_before_it_was_asked_for_is_sent_too(tmp_path, server, monkeypatch):
    cfg = settings(tmp_path)
    interrupted(cfg, monkeypatch, at=5)
    train(dataclasses.replace(cfg, wandb=True))
    assert sorted(server.rows) == [0, 2, 4, 6, 8]


def test_the_verdict_goes_to_the_same_run(tmp_path, server):
    cfg = settings(tmp_path, wandb=True)
    train(cfg)
    before = timeless(server.rows)
    dashboards.conclude(cfg, tmp_path / "run", "Better: 4 to 3.")
    assert (
        list(server.summaries.values()) == [{"verdict": "Better: 4 to 3."}]
        and timeless(server.rows) == before
    )


def test_fresh_begins_another_run(tmp_path, server):
    cfg = settings(tmp_path, wandb=True, max_iters=2)
    train(cfg)
    train(dataclasses.replace(cfg, fresh=True))
    assert len(server.runs) == 2


# ---- TensorBoard ----


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_shows_the_log_and_a_run_that_goes_on_has_the_same_curves(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    cfg = settings(tmp_path, tensorboard=True, tokenizer=TOKENIZER)
    train(dataclasses.replace(cfg, out_dir=str(tmp_path / "whole")))
    curves, texts = tensorboard_of(tmp_path / "whole")
    log = read_log(tmp_path / "whole")
    assert [step for step, _ in curves["loss"]] == [2, 4, 6, 8] and [
        step for step, _ in curves["val_loss"]
    ] == [0, 4, 8]
    assert curves["val_loss"] == [(step, pytest.approx(log[step]["val_loss"])) for step in (0, 4, 8)]
    who = [(step, log[step]["samples"]["Who are you?"]) for step in (0, 4, 8)]
    assert {"lr", "tokens_per_second"} < curves.keys() and texts["samples/Who are you?/text_summary"] == who
    interrupted(cfg, monkeypatch, at=7)
    train(cfg)
    dashboards.conclude(cfg, tmp_path / "run", "Better.")
    again, more = tensorboard_of(tmp_path / "run")
    assert more.pop("verdict/text_summary") == [(8, "Better.")] and more == texts
    assert {tag: points for tag, points in again.items() if tag not in TIMES} == {
        t: p for t, p in curves.items() if t not in TIMES
    }
    assert len(list((tmp_path / "run/tensorboard").iterdir())) == 1


@pytest.mark.filterwarnings("ignore")
def test_a_start_that_is_refused_leaves_the_files_alone(tmp_path):
    pytest.importorskip("tensorboard")
    cfg = settings(tmp_path, tensorboard=True, max_iters=2)
    train(cfg)
    before = {p.name: p.read_bytes() for p in (tmp_path / "run/tensorboard").iterdir()}
    with pytest.raises(config.UsageError, match="started differently"):
        train(dataclasses.replace(cfg, seed=1))
    train(cfg)  # is done already
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "run/tensorboard").iterdir()} != {}


# ---- what can go wrong ----


def test_both_are_off_unless_asked_for(tmp_path, monkeypatch):
    for name in dashboards.BOARDS:
        monkeypatch.setitem(sys.modules, name, None)
    train(settings(tmp_path, max_iters=2))
    dashboards.conclude(settings(tmp_path), tmp_path / "run", "Better.")
    assert not {"tensorboard", "wandb.id"} & {p.name for p in (tmp_path / "run").iterdir()}


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_one_sentence_before_any_work(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    sentence = f"^--{name} needs the package {name}, which is not installed: pip install {name}$"
    with pytest.raises(config.UsageError, match=sentence):
        train_arianna.main([f"--{name}", f"--out_dir={tmp_path / 'run'}", "--base=nowhere.pt"])
    with pytest.raises(config.UsageError, match=sentence):
        arianna_ft.main([f"--{name}", f"--out_dir={tmp_path / 'out'}", "--conversations=nowhere.jsonl"])
    assert list(tmp_path.iterdir()) == []


def test_one_that_cannot_be_opened_is_told_and_does_not_undo_a_run_that_is_done(tmp_path, server, capsys):
    def fail(**options):
        raise RuntimeError("No API key\nconfigured.")

    server.init = fail
    cfg = settings(tmp_path, wandb=True)
    with pytest.raises(
        config.UsageError, match="^--wandb cannot be used: No API key configured; `wandb login` once"
    ):
        train(cfg)
    train(dataclasses.replace(cfg, wandb=False))
    capsys.readouterr()
    dashboards.conclude(cfg, tmp_path / "run", "Better.")
    assert capsys.readouterr().out.startswith("--wandb cannot be used: No API key configured")


def test_one_that_fails_is_left_and_the_run_goes_on(tmp_path, server, capsys, monkeypatch):
    cfg = settings(tmp_path)
    train(dataclasses.replace(cfg, out_dir=str(tmp_path / "whole")))

    def fail(board, step, *rest):
        if step == 4:
            raise ConnectionError("no network")

    monkeypatch.setattr(dashboards.WeightsAndBiases, "add", fail)
    assert train(dataclasses.replace(cfg, wandb=True)).step == 8
    assert capsys.readouterr().out.count("WeightsAndBiases is left out from here on: no network") == 1
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "run"))
