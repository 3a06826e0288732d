"""What is compiled, and that a run goes on as it began. The compiler itself is a stand-in, but in the slow
test."""

import dataclasses
import shutil
from types import SimpleNamespace

import pytest
import torch
from helpers import equal, settings_for, weights, write_conversations, write_shards

from arianna import ops
from arianna.formats import checkpoint
from arianna.system import config
from arianna.training import compilation, state
from arianna.training.devices import Precision
from arianna.training.settings import TrainConfig
from train_arianna import train

CPU = Precision(torch.device("cpu"), torch.float32)


@pytest.fixture
def compiler(monkeypatch):
    """A compiler that counts its models and changes nothing, unless told to fail."""
    asked: list[object] = []

    def compile(model):
        asked.append(model)
        if len(asked) > compile.works:
            raise RuntimeError("no compiler\nand more")
        return lambda *of: model(*of)

    compile.works, compile.asked = 99, asked
    monkeypatch.setattr(torch, "compile", lambda model, **how: lambda *of: compile(model)(*of))
    return compile


def run_entry(folder) -> dict:
    return checkpoint.load(folder / "run/ckpt.pt")["run"]


@pytest.mark.parametrize(
    ("words", "value"),
    [([], None), (["--compile"], True), (["--compile=auto"], None), (["--compile=no"], False)],
)
def test_compile_is_a_bare_flag_yes_no_or_auto(words, value):
    assert config.parse(TrainConfig, words, "").compile is value


def test_a_short_run_is_not_compiled_and_a_long_one_is_where_there_is_a_compiler(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: name == "g++")
    assert not compilation.worth_it(100 * 8 * 256, CPU, varied=False)
    assert compilation.worth_it(100_000 * 8 * 256, CPU, varied=False)
    assert compilation.worth_it(100_000 * 8 * 256, CPU, varied=True)
    assert not compilation.worth_it(1_000 * 8 * 256, CPU, varied=True), "compiled, they gain less"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not compilation.worth_it(100_000 * 8 * 256, CPU, varied=False)


@pytest.mark.parametrize(
    ("parts", "share", "mode"), [(1, 0.0, "reduce-overhead"), (2, 0.0, None), (1, 0.5, None)]
)
def test_launches_are_recorded_only_where_a_step_has_one_backward_pass(parts, share, mode):
    task = SimpleNamespace(accumulated=parts, share=share)
    assert compilation.mode_for(task, Precision(torch.device("cuda"), torch.bfloat16)) == mode
    assert compilation.mode_for(task, CPU) is None


@pytest.mark.parametrize(("seconds", "wins"), [((1.0, 0.9), True), ((1.0, 0.97), False), ((0.9, 1.0), False)])
def test_a_long_run_is_compiled_where_its_passes_are_then_clearly_faster(
    tmp_path, compiler, monkeypatch, capsys, seconds, wins
):
    monkeypatch.setitem(compilation.PAYS, ("cpu", torch.float32), 0)
    monkeypatch.setattr(compilation, "time_passes", lambda *of: list(seconds))
    train(settings_for(tmp_path, max_iters=2))
    assert run_entry(tmp_path)["compiled"] is wins
    plain, fast = (f"{1000 * taken:.0f} ms" for taken in seconds)
    assert f"forward and back take {plain}, compiled {fast}: " in capsys.readouterr().out


def test_timing_both_ways_leaves_the_run_as_it_is(tmp_path, compiler, monkeypatch):
    monkeypatch.setitem(compilation.PAYS, ("cpu", torch.float32), 0)
    train(settings_for(tmp_path, max_iters=2))
    assert compiler.asked, "its passes were timed"
    train(settings_for(tmp_path, max_iters=2, compile=False, out_dir=str(tmp_path / "plain")))
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "plain"))


def test_what_was_settled_is_kept_and_the_run_goes_on_so(tmp_path, compiler, monkeypatch):
    monkeypatch.setitem(compilation.PAYS, ("cpu", torch.float32), 0)
    monkeypatch.setattr(compilation, "faster", lambda *of: True)
    cfg = settings_for(tmp_path, max_iters=4, eval_interval=2)
    train(cfg)
    assert run_entry(tmp_path)["compiled"] is True and compiler.asked
    run = tmp_path / "run"
    (run / "ckpt_prev.pt").replace(run / "ckpt.pt")
    monkeypatch.setitem(compilation.PAYS, ("cpu", torch.float32), 1e30)
    monkeypatch.setattr(compilation, "faster", lambda *of: False)
    compiler.asked.clear()
    assert train(cfg).step == 4 and compiler.asked, "it pays no more, but began so"
    assert run_entry(tmp_path)["compiled"] is True


def test_what_was_asked_for_is_not_timed(tmp_path, compiler, monkeypatch):
    monkeypatch.setattr(compilation, "faster", lambda *of: False)
    train(settings_for(tmp_path, max_iters=2, compile=True))
    assert run_entry(tmp_path)["compiled"] is True


def test_a_run_does_not_go_on_otherwise_than_it_began(tmp_path, compiler):
    cfg = settings_for(tmp_path, max_iters=4, eval_interval=2)
    train(cfg)
    assert run_entry(tmp_path)["compiled"] is False
    (tmp_path / "run/ckpt_prev.pt").replace(tmp_path / "run/ckpt.pt")
    with pytest.raises(config.UsageError, match="began without compiling and goes on so only.*--fresh"):
        train(dataclasses.replace(cfg, compile=True))
    assert not compiler.asked


def test_where_compiling_fails_the_steps_are_plain_and_a_line_says_so(
    tmp_path, compiler, monkeypatch, capsys
):
    monkeypatch.setitem(compilation.PAYS, ("cpu", torch.float32), 0)
    compiler.works = 0
    cfg = settings_for(tmp_path, max_iters=2)
    train(cfg)
    assert (
        "torch.compile failed (RuntimeError: no compiler): continuing without it" in capsys.readouterr().out
    )
    assert run_entry(tmp_path)["compiled"] is False
    train(dataclasses.replace(cfg, compile=False, out_dir=str(tmp_path / "plain")))
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "plain"))


def test_what_was_asked_for_or_begun_and_fails_is_refused(tmp_path, compiler):
    cfg = settings_for(tmp_path, max_iters=4, eval_interval=2, compile=True)
    compiler.works = 0
    with pytest.raises(
        config.UsageError, match="--compile was given, but torch.compile failed .RuntimeError: no compiler"
    ):
        train(cfg)
    compiler.works = 99
    train(cfg)
    (tmp_path / "run/ckpt_prev.pt").replace(tmp_path / "run/ckpt.pt")
    compiler.works = 0
    with pytest.raises(config.UsageError, match="began with compiled steps, but torch.compile failed"):
        train(dataclasses.replace(cfg, compile=None))


def test_a_state_from_before_this_was_kept_says_by_its_setting_how_it_began(tmp_path, compiler):
    cfg = settings_for(tmp_path, max_iters=2)
    train(cfg)
    found = checkpoint.load(tmp_path / "run/ckpt.pt")
    del found["run"]["compiled"]
    found["run"]["config"]["compile"] = True
    restored = state.restore(found, cfg, tmp_path / "run", CPU.device)
    assert restored.compiled is True


def test_of_conversations_the_layers_are_compiled_and_the_steps_are_the_same(tmp_path, compiler):
    write_conversations(tmp_path / "data")
    train(settings_for(tmp_path, max_iters=3, compile=True))
    assert {f.__qualname__ for f in compiler.asked} == {"TransformerBlock.forward"}
    train(settings_for(tmp_path, max_iters=3, compile=False, out_dir=str(tmp_path / "plain")))
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "plain"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a compiler")
@pytest.mark.parametrize(
    ("write", "dtype"),
    [(write_shards, "float32"), (write_conversations, "float32"), (write_conversations, "bfloat16")],
)
def test_a_compiled_run_goes_on_exactly(tmp_path, write, dtype, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    for module in (ops, compilation):  # rows are of one and of two blocks, with a graph for each
        monkeypatch.setattr(module, "QUERY_ROWS", 32)
    write(tmp_path / "data")
    cfg = settings_for(tmp_path, max_iters=6, eval_interval=3, compile=True, dtype=dtype)
    train(cfg)
    whole = weights(tmp_path / "run")
    (tmp_path / "run/ckpt_prev.pt").replace(tmp_path / "run/ckpt.pt")
    torch._dynamo.reset()
    train(cfg)
    assert equal(whole, weights(tmp_path / "run"))
