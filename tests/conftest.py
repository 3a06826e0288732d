"""Shared by the tests: a tiny model built in the process, the shipped tokenizer, tiny data. No network, one thread."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

import supervise  # noqa: E402
from model import ModelArgs, Transformer  # noqa: E402
from tokenizer import Tokenizer  # noqa: E402

settings.register_profile("steady", deadline=None, derandomize=True)  # the same examples each time, on a busy machine too
settings.load_profile("steady")

REPORT = {  # of a run, what others read of it
    "verdict": {"sentence": "Better: 4.33 to 3.03. Use out/ckpt_ft.pt (iteration 300 blended with the base, 70% of the way)."},
    "scores": {"base": {"answers": {"loss": 4.33}}, "tuned": {"answers": {"loss": 3.0312}}},
    "choice": {"base": {"base_text": {"val_text": 3.0}}, "used": {"step": 300, "blend": 0.7, "base_text": {"val_text": 3.05}}},
    "conversations": {"train": 154, "held_out": 17},
    "run": {"peak": 1e-4},
}
TINY = ModelArgs(dim=32, n_layers=2, n_heads=2, vocab_size=4096, max_seq_len=64)


def build(args: ModelArgs = TINY, tied: bool = True, seed: int = 7) -> Transformer:
    """A model with larger weights than training starts from, so that its logits differ."""
    model = Transformer(args, tied)
    model.init_weights(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3.0 if p.dim() > 1 else 1.0)
    return model.eval()


def lively(args: ModelArgs, tied: bool = True) -> Transformer:
    """A model in which attention, norms and positions all count."""
    model = build(args, tied)
    for i, p in enumerate(model.layers.parameters()):
        p.data *= 5.0 if p.dim() > 1 else torch.linspace(0.5, 1.5, p.numel()).roll(i)
    return model


def tokens_of(args: ModelArgs) -> np.ndarray:
    return np.random.default_rng(0).integers(0, args.vocab_size, args.max_seq_len)


def logits(model: Transformer, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(tokens)[None])[0].numpy()


def pytest_terminal_summary(terminalreporter) -> None:
    """After `make faults`: the table of what was tried and survived."""
    faults = sys.modules.get("faults")
    if faults is not None and faults.FULL:
        terminalreporter.write_line(f"\n{faults.table()}")


@pytest.fixture(autouse=True)
def may_sleep(monkeypatch) -> None:
    """A training run in the tests' own process keeps nothing awake."""
    monkeypatch.setattr(supervise, "KEEP_AWAKE", {})


@pytest.fixture
def tiny_model() -> Transformer:
    return build()


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer(ROOT / "data/tok4096.model")
