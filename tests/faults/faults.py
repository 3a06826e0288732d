"""Shared by the fault tests: how often each fault is tried, the table of what survived, and tiny jobs to
hurt.

FAULTS=full in the environment asks for the full counts and the table (`make faults`), FAULTS_PART=2/5 for the
second fifth of them.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from helpers import ROOT, command

from arianna.formats import checkpoint
from arianna.system.files import sha256
from arianna.training.run_folder import latest_state
from arianna.training.settings import TrainConfig

FULL = os.environ.get("FAULTS") == "full"
PART, PARTS = map(int, os.environ.get("FAULTS_PART", "1/1").split("/"))
TABLE: dict[str, list[int]] = {}  # fault: how often tried, how often survived
INPUTS = "all inputs the same before and after"
EVERY_STEP = ("--save_minutes=1e-9", "--log_interval=1")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def times(fault: str, few: int, full: int) -> Iterator[int]:
    """0, 1, 2, ... as often as a fault is to be tried. Each counts as survived once the next is asked for."""
    row, numbers = TABLE.setdefault(fault, [0, 0]), range(PART - 1, full if FULL else few, PARTS)
    row[0] += len(numbers)
    for number in numbers:
        yield number
        row[1] += 1


def table() -> str:
    width = max(map(len, TABLE))
    lines = [f"{fault:{width}}  {tried:6,}  {survived:8,}" for fault, (tried, survived) in TABLE.items()]
    return "\n".join([f"{'fault':{width}}   tried  survived", *lines])


# ---- a whole job on a tiny base ----

NAMES = (
    "out/ckpt_ft.pt",
    "out/arianna_v1_ft.bin",
    "out/ft/ckpt_000000.pt",
    "out/ft/ckpt_000003.pt",
    "out/ft/ckpt_000006.pt",
)


def start(place: Path, *flags: str, **options) -> subprocess.Popen:
    """The whole command in a process group of its own, its output in one pipe."""
    group = {"start_new_session": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command(*flags), cwd=place, env=ENVIRONMENT, **group | options)


def shipped(place: Path) -> subprocess.Popen:
    """The same on what is shipped: six iterations by two threads, saved after each."""
    flags = [
        f"--out_dir={place / 'out'}",
        "--max_iters=6",
        "--eval_interval=3",
        "--report=false",
        *EVERY_STEP,
    ]
    group = {"start_new_session": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    words = [sys.executable, str(ROOT / "arianna_ft.py"), *flags]
    return subprocess.Popen(words, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "2"}, **group)


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Exit code and output, once all processes that share the output are gone."""
    said, _ = process.communicate(timeout=600)
    return process.returncode, said


def run(place: Path, *flags: str, **options) -> tuple[int, str]:
    return finish(start(place, *flags, **options))


def kill_after(process: subprocess.Popen, seconds: float) -> bool:
    """SIGKILL for the wrapper and its trainer, which has a group of its own. False if the command has ended
    before."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    children = children_of(process.pid)
    ended = process.poll() is not None
    for group in (process.pid, *children):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    process.communicate(timeout=60)
    return not ended


def children_of(pid: int) -> list[int]:
    asked = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    return [int(line.split()[0]) for line in asked.splitlines() if int(line.split()[1]) == pid]


def results(place: Path) -> dict[str, str]:
    """Hashes of all that a run is for."""
    return {name: sha256(place / name) for name in NAMES}


def leftovers(place: Path) -> list[Path]:
    """Temporary files of writers that were killed."""
    return list(place.rglob("*.tmp"))


def inputs(place: Path) -> dict[Path, tuple[str, int]]:
    """Hash and time of all that is input: what is shipped, and what was put into a folder for a run there."""
    shipped = [
        ROOT / "out/ckpt_v1_base.pt",
        *(ROOT / "data").glob("arianna_*"),
        *(ROOT / "data").glob("tok4096.*"),
    ]
    own = (f for pattern in ("*.jsonl", "*.pt", "data/*.bin") for f in place.glob(pattern))
    return {f: (sha256(f), f.stat().st_mtime_ns) for f in (*shipped, *own)}


@contextlib.contextmanager
def inputs_kept(place: Path) -> Iterator[None]:
    before = inputs(place)
    yield
    assert before == inputs(place)
    row = TABLE.setdefault(INPUTS, [0, 0])
    row[:] = row[0] + 1, row[1] + 1


def saved_step(place: Path) -> int:
    """The step of the newest state, 0 without one."""
    return (latest_state(place / "out/ft") or {}).get("iter_num", 0)


def logged_step(place: Path) -> int:
    """The last step in the log."""
    log = place / "out/ft/log.jsonl"
    steps = [0]
    for line in log.read_text().splitlines() if log.exists() else []:
        with contextlib.suppress(ValueError):
            steps.append(json.loads(line).get("step", 0))
    return steps[-1]


# ---- a training run alone, tinier still ----


def shards(folder: Path) -> Path:
    if folder.exists():
        return folder
    folder.mkdir(parents=True)
    generator = np.random.default_rng(3)
    for split, count in (("train", 600), ("val", 100)):
        (folder / f"{split}.bin").write_bytes(generator.integers(3, 64, count).astype("<u2").tobytes())
    return folder


def small(tmp_path: Path, out: str = "run", **changes) -> TrainConfig:
    """Four steps of a model of a few thousand parameters, saved after each."""
    shape = {
        "init_from": "scratch",
        "dim": 16,
        "n_layers": 1,
        "n_heads": 2,
        "vocab_size": 64,
        "max_seq_len": 16,
    }
    steps = {"batch_size": 2, "max_iters": 4, "eval_interval": 2, "log_interval": 1, "save_minutes": 1e-9}
    return TrainConfig(
        data_dir=str(shards(tmp_path / "data")), out_dir=str(tmp_path / out), **shape | steps | changes
    )


def trainer(cfg: TrainConfig, **options) -> subprocess.Popen:
    """The same in a process of its own."""
    from arianna.system import config

    group = {"start_new_session": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    words = [sys.executable, str(ROOT / "train_arianna.py"), *config.to_flags(cfg)]
    return subprocess.Popen(words, env=ENVIRONMENT, **group | options)


def weights(folder: Path) -> dict[str, bytes]:
    """A run's last weights."""
    return {k: v.numpy().tobytes() for k, v in checkpoint.load(folder / "ckpt.pt")["model"].items()}


def wait_for_line(process: subprocess.Popen, beginning: str) -> str:
    """Read on until a line begins so."""
    for line in process.stdout:
        if line.startswith(beginning):
            return line
    raise AssertionError(f"no line began with {beginning!r}")


def settle(folder: Path, seconds: float = 1.0) -> bool:
    """Whether nothing is written into a folder for a while."""

    def look() -> dict[str, tuple[int, int]]:
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}

    before = look()
    time.sleep(seconds)
    return before == look()
