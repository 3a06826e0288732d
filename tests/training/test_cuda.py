"""On a CUDA GPU, where there is one: the losses of the CPU, runs that go on, compiled steps, generation."""

import dataclasses
import shutil

import pytest
import torch
from helpers import TINY, batch, build, settings_for, weights, write_conversations, write_shards

from arianna import formats
from arianna.formats import checkpoint
from arianna.generate import generate
from arianna.training.devices import Precision, ProcessGroup
from arianna.training.log import read_log
from arianna.training.optimizer import make_optimizer
from arianna.training.settings import TrainConfig
from arianna.training.state import State
from train_arianna import train, train_step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")
ALONE = ProcessGroup.alone()


def losses(device: str, dtype: torch.dtype, steps: int = 5) -> list[float]:
    cfg, precision = TrainConfig(learning_rate=1e-3), Precision(torch.device(device), dtype)
    model = build().to(precision.device)
    state = State(model, make_optimizer(model, cfg))
    return [train_step(state, batch(2), cfg, model, precision, ALONE) for _ in range(steps)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
def test_steps_have_the_losses_of_the_cpu(dtype, tolerance):
    pairs = zip(losses("cpu", torch.float32), losses("cuda", dtype), strict=True)
    assert max(abs(a - b) for a, b in pairs) < tolerance


@pytest.mark.filterwarnings("ignore")  # torch's compiler has some of its own
@pytest.mark.parametrize(
    ("write", "settings"),
    [
        (write_conversations, {}),
        (write_conversations, {"compile": True}),
        (write_shards, {"compile": True}),  # with CUDA graphs
        (write_shards, {"compile": True, "gradient_accumulation_steps": 2}),
    ],
)
def test_a_run_goes_on_where_it_was_saved(tmp_path, write, settings):
    base = tmp_path / "base.pt"
    checkpoint.save(base, checkpoint.pack(build()))
    write(tmp_path / "data")
    plain = settings_for(tmp_path, base, device="cuda", learning_rate=1e-3, batch_size=4, log_interval=1)
    cfg = dataclasses.replace(plain, **settings)
    assert train(cfg).step == 8
    accumulated = {name: value for name, value in settings.items() if name != "compile"}
    train(dataclasses.replace(plain, **accumulated, compile=False, out_dir=str(tmp_path / "plain")))
    logs = [read_log(tmp_path / name) for name in ("run", "plain")]
    assert all(abs(logs[0][step]["loss"] - logs[1][step]["loss"]) < 0.02 for step in range(1, 9))
    again = tmp_path / "again"
    again.mkdir()
    shutil.copy(tmp_path / "run/ckpt_prev.pt", again / "ckpt.pt")
    assert checkpoint.load(again / "ckpt.pt")["iter_num"] == 4
    assert train(dataclasses.replace(cfg, out_dir=str(again))).step == 8
    ends = weights(tmp_path / "run"), weights(again)
    begun = build().state_dict()
    for name in ends[0]:
        moved = (ends[0][name] - begun[name]).norm()
        assert moved > 0 and (ends[0][name] - ends[1][name]).norm() < 0.02 * moved, name


def test_a_checkpoint_made_there_opens_on_a_cpu_and_writes_the_same(tmp_path):
    cfg = settings_for(tmp_path, device="cuda", max_iters=2)
    train(cfg)
    model = formats.open_model(tmp_path / "run/ckpt.pt")
    assert model.tok_embeddings.weight.device.type == "cpu"
    prompts = [[1, 300, 400], [1, 500]]
    there = generate(model, prompts, 20, temperature=0)
    assert generate(model.to("cuda"), prompts, 20, temperature=0) == there


def test_grouped_heads_compute_what_they_do_on_a_cpu():
    model = build(dataclasses.replace(TINY, n_heads=4, n_kv_heads=2))
    x = torch.arange(3, 67)[None]
    with torch.no_grad():
        here = model(x)
        there = model.to("cuda")(x.to("cuda")).cpu()
    assert torch.allclose(here, there, atol=1e-3)
