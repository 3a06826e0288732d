import dataclasses
import json
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, TINY, Interrupt, batch, build, equal, settings_for, weights, write_shards
from hypothesis import given, settings
from hypothesis import strategies as st

import train_arianna
from arianna import formats
from arianna.formats import checkpoint
from arianna.scoring import answers
from arianna.system import config
from arianna.system.files import sha256
from arianna.training.devices import Precision, ProcessGroup
from arianna.training.log import read_log
from arianna.training.optimizer import make_optimizer
from arianna.training.settings import TrainConfig, learning_rate
from arianna.training.state import State
from model import Transformer
from train_arianna import train, train_step

NO_MPS = pytest.mark.skipif(torch.backends.mps.is_available(), reason="it is there")
CPU = Precision(torch.device("cpu"), torch.float32)
ALONE = ProcessGroup.alone()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.pt"
    checkpoint.save(path, checkpoint.pack(build()))
    return path


# ---- the schedule ----


@given(st.integers(1, 400), st.one_of(st.none(), st.integers(0, 399)), st.floats(0, 0.99))
def test_every_rate_is_above_zero_and_the_peak_is_reached_once(max_iters, warmup_iters, ratio):
    if warmup_iters is not None and warmup_iters >= max_iters:
        with pytest.raises(ValueError, match="warmup_iters"):
            TrainConfig(max_iters=max_iters, warmup_iters=warmup_iters)
        return
    cfg = TrainConfig(max_iters=max_iters, warmup_iters=warmup_iters, warmup_ratio=ratio, learning_rate=1e-5)
    rates = [learning_rate(cfg, step) for step in range(max_iters)]
    assert min(rates) > 0 and max(rates) == 1e-5
    assert rates.count(1e-5) == 1
    top = rates.index(1e-5)
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)


@pytest.mark.parametrize(("ratio", "last", "middle"), [(0.0, 1.0, 1.0), (1.0, 0.01, 0.5), (0.5, 0.02, 1.0)])
def test_a_rate_that_stays_falls_in_its_share_of_the_run(ratio, last, middle):
    cfg = TrainConfig(schedule="wsd", decay_ratio=ratio, learning_rate=1.0, max_iters=100, warmup_iters=0)
    rates = [learning_rate(cfg, step) for step in range(100)]
    assert rates[0] == 1.0 and rates == sorted(rates, reverse=True)
    assert (rates[50], rates[99]) == (pytest.approx(middle), pytest.approx(last))


def test_the_tail_of_a_rate_never_reaches_into_the_warm_up():
    cfg = TrainConfig(schedule="wsd", decay_ratio=1.0, learning_rate=1.0, max_iters=100, warmup_iters=40)
    rates = [learning_rate(cfg, step) for step in range(100)]
    assert max(rates) == rates[40] == 1.0 and min(rates) > 0


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 12))
def test_exactly_max_iters_updates_are_taken(tmp_path_factory, max_iters):
    folder = tmp_path_factory.mktemp("run")
    result = train(settings_for(folder, max_iters=max_iters, eval_interval=5))
    state = checkpoint.load(folder / "run/ckpt.pt")
    steps = {int(s["step"]) for s in state["optimizer"]["state"].values() if "step" in s}  # Muon counts none
    assert (result.step, state["iter_num"], steps) == (max_iters, max_iters, {max_iters})
    assert max(read_log(folder / "run")) == max_iters
    assert (folder / f"run/ckpt_{max_iters:06d}.pt").exists(), "the last step is evaluated and saved"


# ---- the step ----


def gradient(parts: int) -> torch.Tensor:
    model, loaded = build(), batch(parts)
    for x, y in loaded.micro_batches:
        model(x, y, loaded.n_targets).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_gradients_of_one_by_eight_and_eight_by_one_are_equal():
    whole, parts = gradient(1), gradient(8)
    assert (whole - parts).norm() / whole.norm() < 1e-6


def test_timing_a_step_leaves_the_base_as_it_is(tmp_path, base):
    model = formats.open_model(base)
    seconds, task = train_arianna.time_steps(settings_for(tmp_path, base, learning_rate=1.0), model)
    assert seconds > 0 and len(task.rows) > 0
    assert equal(model.state_dict(), formats.open_model(base).state_dict())


def test_a_loss_that_is_not_finite_changes_nothing():
    model = build()
    cfg = TrainConfig(learning_rate=1e-3)
    state = State(model, make_optimizer(model, cfg))
    train_step(state, batch(1), cfg, model, CPU, ALONE)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    moments = [s["exp_avg"].clone() for s in state.optimizer.state.values()]

    def broken(x, y, n):
        return model(x, y, n) * math.nan

    with pytest.raises(FloatingPointError, match=r"step 1: loss nan.*rows \[.*lower --learning_rate"):
        train_step(state, batch(1), cfg, broken, CPU, ALONE)
    assert state.step == 1
    assert equal(before, dict(model.state_dict()))
    assert all(
        torch.equal(a, s["exp_avg"]) for a, s in zip(moments, state.optimizer.state.values(), strict=True)
    )


def test_adamw_decays_matrices_and_leaves_norms():
    groups = make_optimizer(build(), TrainConfig(weight_decay=0.1)).param_groups
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]
    assert all(p.dim() >= 2 for p in groups[0]["params"]) and all(p.dim() < 2 for p in groups[1]["params"])


# ---- starting and continuing ----


def test_a_run_lowers_the_loss_on_what_it_sees(tmp_path):
    cfg = settings_for(tmp_path, max_iters=60, learning_rate=3e-3, eval_interval=60, log_interval=1)
    cfg = dataclasses.replace(cfg, data_dir=str(write_shards(tmp_path / "small", 130)))
    train(cfg)
    log = read_log(tmp_path / "run")
    assert log[60]["loss"] < 0.7 * log[1]["loss"]


RECIPES = {
    "adamw": {},
    "muon": {"optimizer": "muon", "learning_rate": 1e-3},
    "a rate that stays, then falls": {"schedule": "wsd", "learning_rate": 1e-3},
    "bfloat16": {"dtype": "bfloat16", "learning_rate": 1e-3},
    "bfloat16 with muon": {
        "dtype": "bfloat16",
        "optimizer": "muon",
        "schedule": "wsd",
        "learning_rate": 1e-3,
    },
}


@pytest.mark.parametrize(
    ("recipe", "stop_at"), [("adamw", 1), ("adamw", 7), *((name, 4) for name in RECIPES)]
)
def test_a_killed_run_ends_with_the_same_weights(tmp_path, base, recipe, stop_at, monkeypatch):
    cfg = settings_for(tmp_path, base, save_minutes=1e-9, **RECIPES[recipe])  # saves after every step
    train(dataclasses.replace(cfg, out_dir=str(tmp_path / "whole")))
    original = train_arianna.train_step

    def step(state, *rest):
        if state.step == stop_at:
            raise Interrupt
        return original(state, *rest)

    monkeypatch.setattr(train_arianna, "train_step", step)
    with pytest.raises(Interrupt):
        train(cfg)
    monkeypatch.setattr(train_arianna, "train_step", original)
    assert train(cfg).step == 8
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "run"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_after_its_step_with_all_saved(tmp_path, base, monkeypatch, number, code):
    cfg, original = settings_for(tmp_path, base), train_arianna.train_step

    def step(state, *rest):
        if state.step == 2:
            os.kill(os.getpid(), number)
        return original(state, *rest)

    monkeypatch.setattr(train_arianna, "train_step", step)
    result = train(cfg)
    assert (result.step, result.exit_code) == (3, code)
    assert checkpoint.load(tmp_path / "run/ckpt.pt")["iter_num"] == 3


def test_going_on_with_another_number_of_threads_is_told(tmp_path, base, capsys):
    cfg = settings_for(tmp_path, base)
    train(cfg)
    state = checkpoint.load(tmp_path / "run/ckpt_prev.pt")
    state["run"]["threads"] = 7
    for name in ("ckpt.pt", "ckpt_prev.pt"):
        checkpoint.save(tmp_path / "run" / name, state)
    capsys.readouterr()
    train(cfg)
    assert f"with 7 threads so far, now with {torch.get_num_threads()}" in capsys.readouterr().out


def test_a_fine_tune_starts_at_step_zero_with_fresh_moments(tmp_path):
    state = checkpoint.pack(build(), iter_num=4000, best_val_loss=0.001, optimizer={"state": "never read"})
    base = tmp_path / "old.pt"
    checkpoint.save(base, state)
    result = train(settings_for(tmp_path, base, max_iters=3))
    assert result.step == 3 and math.isfinite(result.best_loss) and result.best_loss > 1
    assert (tmp_path / "run/ckpt_000003.pt").exists()


def test_the_base_is_only_read(tmp_path, base):
    before = base.read_bytes()
    train(settings_for(tmp_path, base))
    assert base.read_bytes() == before


def test_a_finished_run_says_so_and_changes_nothing(tmp_path, base, capsys):
    cfg = settings_for(tmp_path, base)
    train(cfg)
    files = {p: p.read_bytes() for p in (tmp_path / "run").glob("*.pt")}
    capsys.readouterr()
    assert train(cfg).exit_code == 0
    assert "nothing to do" in capsys.readouterr().out
    assert files == {p: p.read_bytes() for p in (tmp_path / "run").glob("*.pt")}


def test_other_settings_are_refused_by_name(tmp_path, base):
    train(settings_for(tmp_path, base, max_iters=2))
    with pytest.raises(config.UsageError, match="learning_rate is 0.5, was None.*--fresh"):
        train(settings_for(tmp_path, base, max_iters=2, learning_rate=0.5))
    train(settings_for(tmp_path, base, max_iters=2, log_interval=1, save_minutes=9.0))  # these may change


@pytest.mark.parametrize(
    "other", [{"optimizer": "muon"}, {"schedule": "wsd"}, {"decay_ratio": 0.1}, {"dtype": "bfloat16"}]
)
def test_a_run_does_not_go_on_with_another_optimizer_schedule_or_format(tmp_path, base, other):
    cfg = settings_for(tmp_path, base, max_iters=2)
    train(cfg)
    ((name, value),) = other.items()
    with pytest.raises(config.UsageError, match=f"{name} is {value}, was {getattr(cfg, name)}"):
        train(dataclasses.replace(cfg, **other))


STAYS = {"schedule": "wsd", "warmup_iters": 2, "learning_rate": 1e-3}


def test_a_run_whose_rate_stays_can_be_lengthened(tmp_path, base):
    whole = settings_for(tmp_path, base, max_iters=8, decay_ratio=0.0, out_dir=str(tmp_path / "a"), **STAYS)
    train(whole)
    part = dataclasses.replace(whole, max_iters=4, out_dir=str(tmp_path / "b"))
    train(part)
    train(dataclasses.replace(part, max_iters=8))
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))


@pytest.mark.parametrize("decay_ratio", [0.5, 1.0])
def test_a_run_whose_rate_has_begun_to_fall_keeps_its_length(tmp_path, base, decay_ratio):
    cfg = settings_for(tmp_path, base, max_iters=4, decay_ratio=decay_ratio, **STAYS)
    train(cfg)
    with pytest.raises(config.UsageError, match="max_iters is 8, was 4"):
        train(dataclasses.replace(cfg, max_iters=8))


def test_a_setting_that_an_older_run_did_not_know_had_its_default(tmp_path, base):
    cfg = settings_for(tmp_path, base, max_iters=2)
    train(cfg)
    state = torch.load(tmp_path / "run/ckpt.pt", weights_only=True)
    del state["run"]["config"]["question_contrast"]
    checkpoint.save(tmp_path / "run/ckpt.pt", state)
    train(cfg)  # goes on: there is nothing to do
    with pytest.raises(config.UsageError, match="question_contrast is 1.0, was 0.0"):
        train(dataclasses.replace(cfg, question_contrast=1.0))


def test_its_settings_file_repeats_a_run(tmp_path, base):
    train(settings_for(tmp_path, base, fresh=True, save_minutes=9.0))
    kept = tmp_path / "run/config.toml"
    assert "fresh" not in kept.read_text() and "save_minutes = 9.0" in kept.read_text()
    assert train_arianna.main([f"--config={kept}", f"--out_dir={tmp_path / 'again'}"]) == 0
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "again"))
    (tmp_path / "run/job.json").write_text("{}")  # a run of arianna_ft.py, whose file says more
    kept.write_text("")
    train(settings_for(tmp_path, base, fresh=False, max_iters=8))
    assert kept.read_text() == ""


def test_other_inputs_are_refused_by_name(tmp_path, base):
    train(settings_for(tmp_path, base, max_iters=2))
    write_shards(tmp_path / "data", 1000)
    with pytest.raises(config.UsageError, match="data/train.bin has other contents"):
        train(settings_for(tmp_path, base, max_iters=2))


def test_shards_of_the_pipeline_are_named_by_the_file_that_they_are_made_of(tmp_path, base):
    train(settings_for(tmp_path, base, max_iters=2))
    (tmp_path / "run/job.json").write_text(json.dumps({"paths": {"conversations": "data/mine.jsonl"}}))
    write_shards(tmp_path / "data", 1000, 200)
    with pytest.raises(config.UsageError, match="differently: data/mine.jsonl has other contents. Give"):
        train(settings_for(tmp_path, base, max_iters=2))


def tokenizers(folder: Path) -> tuple[Path, Path]:
    """Two of the shipped one's size: that one, and a copy with another byte in its trainer's notes."""
    own, other = folder / "own.model", folder / "other.model"
    shipped = (ROOT / "data/tok4096.model").read_bytes()
    own.write_bytes(shipped)
    other.write_bytes(
        shipped + b"\x12\x00"
    )  # an empty message of the trainer's notes, which is merged into them
    return own, other


def test_a_state_and_its_weights_name_the_tokenizer(tmp_path, base):
    own, _ = tokenizers(tmp_path)
    train(settings_for(tmp_path, base, tokenizer=str(own), max_iters=2))
    for name in ("ckpt.pt", "ckpt_000002.pt"):
        noted = checkpoint.tokenizer_of(checkpoint.load(tmp_path / "run" / name))
        assert noted == {"sha256": sha256(own), "path": str(own)}
    assert formats.find_tokenizer(tmp_path / "run/ckpt_000002.pt") == own


def test_another_tokenizer_of_the_same_size_is_refused(tmp_path, base):
    own, other = tokenizers(tmp_path)
    cfg = settings_for(tmp_path, base, tokenizer=str(own), max_iters=2)
    train(cfg)
    with pytest.raises(config.UsageError, match="other.model is another tokenizer than .*own.model was"):
        train(dataclasses.replace(cfg, tokenizer=str(other)))
    second = {"base": str(tmp_path / "run/ckpt_000002.pt"), "out_dir": str(tmp_path / "second")}
    with pytest.raises(ValueError, match="was trained with the tokenizer .*own.model"):
        train(dataclasses.replace(cfg, tokenizer=str(other), **second))


def test_a_log_that_is_missing_is_told_by_what_it_was_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"log\.jsonl is missing; it holds the losses of the run"):
        read_log(tmp_path)


def test_weights_alone_are_read_by_llama2c(tmp_path):
    """As its export.py and sample.py read a checkpoint: ModelArgs(**model_args), then the state dict."""
    train(settings_for(tmp_path, max_iters=2, optimizer="muon"))
    found = checkpoint.load(tmp_path / "run/ckpt_000002.pt")
    assert "optimizer" not in found and "run" not in found
    assert set(found["model_args"]) == set(checkpoint.MODEL_ARGS)
    names = {name.split(".")[-2] for name in found["model"]}
    assert {"tok_embeddings", "wq", "w1", "ffn_norm", "output"} <= names
    assert found["config"]["vocab_source"] == "custom"


def test_fresh_keeps_the_old_folder(tmp_path, base):
    train(settings_for(tmp_path, base, max_iters=2))
    train(settings_for(tmp_path, base, max_iters=3, fresh=True))
    assert checkpoint.load(tmp_path / "run-1/ckpt.pt")["iter_num"] == 2
    assert checkpoint.load(tmp_path / "run/ckpt.pt")["iter_num"] == 3


def test_a_llama2c_checkpoint_goes_on_from_its_iteration(tmp_path):
    model = build()
    optimizer = make_optimizer(model, TrainConfig())
    model(torch.randint(3, 99, (1, 8)), torch.randint(3, 99, (1, 8))).backward()
    optimizer.step()
    (tmp_path / "run").mkdir()
    checkpoint.save(
        tmp_path / "run/ckpt.pt",
        checkpoint.pack(model, optimizer=optimizer.state_dict(), iter_num=5, best_val_loss=1e9),
    )
    original = (tmp_path / "run/ckpt.pt").read_bytes()
    cfg = settings_for(tmp_path, init_from="resume", max_iters=7)
    assert train(cfg).step == 7
    assert (tmp_path / "run/ckpt_llama2c.pt").read_bytes() == original
    steps = {int(s["step"]) for s in checkpoint.load(tmp_path / "run/ckpt.pt")["optimizer"]["state"].values()}
    assert steps == {3}, "its AdamW had taken one step, two were added"


def test_a_llama2c_checkpoint_beyond_max_iters_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    checkpoint.save(tmp_path / "run/ckpt.pt", checkpoint.pack(build(), iter_num=4000, optimizer={}))
    with pytest.raises(config.UsageError, match="iteration 4000.*max_iters=8"):
        train(settings_for(tmp_path, init_from="resume"))


def test_resume_without_a_run_or_a_base_is_refused(tmp_path):
    with pytest.raises(config.UsageError, match="--base=CHECKPOINT"):
        train(settings_for(tmp_path, init_from="resume"))


def test_a_longer_context_than_the_bases_can_be_trained(tmp_path, base):
    train(settings_for(tmp_path, base, max_seq_len=96, max_iters=1))
    assert checkpoint.load(tmp_path / "run/ckpt.pt")["model_args"]["max_seq_len"] == 96


@pytest.mark.parametrize("name", ["ckpt.pt", "ckpt_prev.pt"])
def test_a_damaged_state_is_set_aside_and_the_other_used(tmp_path, base, name, capsys):
    cfg = settings_for(tmp_path, base)
    train(dataclasses.replace(cfg, out_dir=str(tmp_path / "whole")))
    train(cfg)
    path = tmp_path / "run" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(bytes(data))
    assert train(cfg).step == 8
    assert (tmp_path / f"run/{name}.damaged").exists()
    assert f"{name} is damaged" in capsys.readouterr().out
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "run")) or name == "ckpt_prev.pt"


def test_a_run_without_its_states_is_not_begun_over_its_weights(tmp_path, base):
    cfg = settings_for(tmp_path, base)
    train(cfg)
    for name in ("ckpt.pt", "ckpt_prev.pt"):
        (tmp_path / "run" / name).unlink()
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(
        config.UsageError, match="ckpt.pt and ckpt_prev.pt are missing or damaged; .* 2 of its"
    ):
        train(cfg)
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    assert train(dataclasses.replace(cfg, fresh=True)).step == 8


def test_replay_takes_its_share_and_shows_in_the_weights(tmp_path, base):
    other = write_shards(tmp_path / "other")
    plain = settings_for(tmp_path, base, out_dir=str(tmp_path / "plain"))
    train(plain)
    train(dataclasses.replace(plain, out_dir=str(tmp_path / "mixed"), replay=0.5, base_text_dir=str(other)))
    assert not equal(weights(tmp_path / "plain"), weights(tmp_path / "mixed"))
    assert "base_text/train.bin" in checkpoint.load(tmp_path / "mixed/ckpt.pt")["run"]["inputs"]


def test_what_the_base_predicts_is_learned_from_replayed_rows(tmp_path, base):
    other, one_word = write_shards(tmp_path / "other"), write_shards(tmp_path / "data")
    (one_word / "train.bin").write_bytes(np.full(2000, 77, "<u2").tobytes())
    cfg = settings_for(tmp_path, base, replay=0.5, base_text_dir=str(other), learning_rate=3e-3, max_iters=20)
    train(cfg)
    train(dataclasses.replace(cfg, out_dir=str(tmp_path / "alone"), replay=0.0))
    kept, alone = (forgotten(tmp_path / name, base, other) for name in ("run", "alone"))
    assert kept < alone / 2, (kept, alone)


@torch.no_grad()
def forgotten(run: Path, base: Path, texts: Path) -> float:
    """KL(base || tuned) on the first row of a text, in nats a token."""
    models = [formats.open_model(path) for path in (base, run / "ckpt.pt")]
    x = torch.from_numpy(np.fromfile(texts / "val.bin", "<u2").astype(np.int64))[None, :48]
    before, after = (model(x).log_softmax(-1) for model in models)
    return float((before.exp() * (before - after)).sum(-1).mean())


def test_a_replaying_run_goes_on_exactly_and_only_with_its_base(tmp_path, base):
    other = write_shards(tmp_path / "other")
    cfg = settings_for(tmp_path, base, replay=0.5, base_text_dir=str(other), max_iters=8, eval_interval=4)
    train(cfg)
    whole = weights(tmp_path / "run")
    (tmp_path / "run/ckpt_prev.pt").replace(tmp_path / "run/ckpt.pt")
    with pytest.raises(config.UsageError, match="base"):
        train(dataclasses.replace(cfg, base=None))
    train(cfg)
    assert equal(whole, weights(tmp_path / "run"))


def test_patience_ends_the_run_and_it_stays_ended(tmp_path, base, capsys):
    cfg = settings_for(tmp_path, base, max_iters=50, eval_interval=2, patience=2, learning_rate=1e-9, seed=4)
    small = dataclasses.replace(cfg, data_dir=str(write_shards(tmp_path / "small", 130)), learning_rate=3e-2)
    result = train(small)
    assert result.step < 50 and result.step - max(result.best_step, 0) == 4
    capsys.readouterr()
    assert train(small).step == result.step
    assert "nothing to do" in capsys.readouterr().out


def test_the_loss_on_base_text_is_logged_at_each_evaluation(tmp_path, base):
    other = write_shards(tmp_path / "other")
    train(settings_for(tmp_path, base, base_text_dir=str(other)))
    log = read_log(tmp_path / "run")
    assert [step for step, entry in log.items() if "base_text" in entry] == [0, 4, 8]
    assert log[8]["base_text"]["val"] > 1


def test_three_questions_are_answered_at_each_evaluation_and_change_nothing(tmp_path, base, capsys):
    silent = settings_for(tmp_path, base, out_dir=str(tmp_path / "silent"))
    train(silent)
    assert "?" not in capsys.readouterr().out
    train(
        dataclasses.replace(silent, out_dir=str(tmp_path / "run"), tokenizer=str(ROOT / "data/tok4096.model"))
    )
    assert equal(weights(tmp_path / "silent"), weights(tmp_path / "run"))
    log, said = read_log(tmp_path / "run"), capsys.readouterr().out
    assert [step for step, entry in log.items() if "samples" in entry] == [0, 4, 8]
    for step in (0, 4, 8):
        assert tuple(log[step]["samples"]) == answers.ASKED
        assert all(f"    {question} {answer}\n" in said for question, answer in log[step]["samples"].items())
    assert said == (tmp_path / "run/train.log").read_text()
    assert all("samples" not in entry for entry in read_log(tmp_path / "silent").values())


def test_a_tokenizer_of_another_size_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"tok4096\.model has 4096 tokens, but the model was trained with 512"
    ):
        train(settings_for(tmp_path, vocab_size=512, tokenizer=str(ROOT / "data/tok4096.model")))


# ---- wrong settings ----


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--max_iters=0", "max_iters is 0; it must be at least 1"),
        ("--batch_size=0", "batch_size is 0"),
        ("--learning_rate=-1", "learning_rate is -1.0"),
        ("--learning_rate=nan", "learning_rate is nan"),
        ("--warmup_iters=1000", "max_iters 1000"),
        ("--replay=0.5", "base_text_dir is not given"),
        ("--loss_on=questions", "not one of all, answers"),
        ("--max_itres=5", "did you mean --max_iters"),
        ("--device=tpu", "device 'tpu' cannot be used"),
        ("--device=meta", "device 'meta' cannot be used"),
        pytest.param("--device=mps", "it needs a Mac", marks=NO_MPS),
        ("--seed=-1", "seed is -1; it must be a whole number from 0"),
        ("--decay_ratio=1.5", "decay_ratio is 1.5; it must be from 0 to 1"),
        ("--data_dir=nowhere", "has no train"),
    ],
)
def test_wrong_settings_get_one_sentence(tmp_path, base, flag, sentence, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(config.UsageError) as error:
        train_arianna.main([f"--base={base}", "--out_dir=run", flag])
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_two_runs_cannot_share_a_folder(tmp_path, base):
    from arianna.system import processes

    with (
        processes.lock(tmp_path / "run"),
        pytest.raises(config.UsageError, match=r"in use by process \d+ \(since"),
    ):
        train_arianna.main(
            [
                f"--base={base}",
                f"--data_dir={write_shards(tmp_path / 'data')}",
                f"--out_dir={tmp_path / 'run'}",
            ]
        )


def test_the_shape_from_scratch_is_arianna():
    model = Transformer(TINY.__class__())
    assert sum(p.numel() for p in model.parameters()) == 7_155_360


def test_a_refusal_leaves_no_new_folder(tmp_path, base):
    cfg = settings_for(tmp_path, base, data_dir=str(tmp_path / "none"))
    with pytest.raises(ValueError, match="has no train"):
        train(cfg)
    assert not (tmp_path / "run").exists()
    train(settings_for(tmp_path, base))
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    with pytest.raises(ValueError, match="has no train"):
        train(dataclasses.replace(cfg, fresh=True))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before
    assert not (tmp_path / "run-1").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"max_seq_len": 0}, "max_seq_len is 0; it must be from 1"),
        ({"max_seq_len": -1}, "max_seq_len is -1"),
        ({"init_from": "scratch", "base": "a.pt"}, "--base=a.pt is not used with --init_from=scratch"),
    ],
)
def test_settings_that_would_not_be_used_are_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        TrainConfig(**changes)


def test_a_base_that_is_missing_is_the_users_to_mend(tmp_path):
    with pytest.raises(config.UsageError, match="none.pt is missing"):
        train_arianna.main([f"--base={tmp_path}/none.pt", f"--out_dir={tmp_path}/run"])
    assert not (tmp_path / "run").exists()
