import json
import os
import subprocess
import sys

import pytest
from helpers import ROOT, build, equal, weights, write_shards

from arianna.formats import checkpoint
from arianna.system.config import UsageError
from arianna.training.devices import pick_device

pytestmark = pytest.mark.skipif(os.name != "posix", reason="gloo under torchrun")


def start(folder, processes: int, *flags: str) -> None:
    launcher = (
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        if processes > 1
        else [sys.executable]
    )
    common = [
        f"--base={folder.parent / 'base.pt'}",
        f"--data_dir={folder.parent / 'data'}",
        f"--out_dir={folder}",
        "--learning_rate=1e-3",
    ]
    sizes = ["--batch_size=4", "--gradient_accumulation_steps=2", "--eval_interval=3", "--log_interval=1"]
    command = [*launcher, str(ROOT / "train_arianna.py"), *common, *sizes, *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def losses(folder) -> list[float]:
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [e.get("loss", e.get("val_loss")) for e in entries]


@pytest.mark.parametrize(("replay", "optimizer"), [(0.0, "adamw"), (0.4, "adamw"), (0.0, "muon")])
def test_two_processes_train_as_one_does_and_resume_alike(tmp_path, replay, optimizer):
    write_shards(tmp_path / "data")
    write_shards(tmp_path / "text")
    checkpoint.save(tmp_path / "base.pt", checkpoint.pack(build()))
    flags = (
        "--max_iters=6",
        f"--replay={replay}",
        f"--base_text_dir={tmp_path / 'text'}",
        f"--optimizer={optimizer}",
    )
    start(tmp_path / "one", 1, *flags)
    start(tmp_path / "two", 2, *flags)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 6 + 3
    apart = (
        5e-3 if optimizer == "muon" else 1e-5
    )  # Muon orthogonalises in bfloat16, which a last bit may turn
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < apart
    state = checkpoint.load(tmp_path / "two/ckpt_prev.pt")
    assert state["iter_num"] == 3
    (tmp_path / "again").mkdir()
    (tmp_path / "two/ckpt_prev.pt").rename(tmp_path / "again/ckpt.pt")
    start(tmp_path / "again", 2, *flags)
    assert equal(weights(tmp_path / "two"), weights(tmp_path / "again"))


@pytest.mark.parametrize("name", ["tpu", "meta", "cpu2", "mps:x"])
def test_a_device_that_is_not_there_is_told_in_our_words(name):
    with pytest.raises(UsageError, match=f"device '{name}' cannot be used here") as error:
        pick_device(name)
    assert "Expected" not in str(error.value) and "operator" not in str(error.value)
