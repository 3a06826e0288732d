"""Shared by the tests: a tiny model built in the process, the shipped tokenizer, tiny data. No network, one
thread."""

import os
import sys
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import pytest  # noqa: E402
from helpers import Scripted, build  # noqa: E402
from hypothesis import settings  # noqa: E402

from arianna import generate as generation  # noqa: E402
from arianna.system import environment  # noqa: E402
from model import Transformer  # noqa: E402
from tokenizer import Tokenizer  # noqa: E402

settings.register_profile(
    "steady", deadline=None, derandomize=True
)  # the same examples each time, on a busy machine too
settings.load_profile("steady")


def pytest_terminal_summary(terminalreporter) -> None:
    """After `make faults`: the table of what was tried and survived."""
    faults = sys.modules.get("faults")
    if faults is not None and faults.FULL:
        terminalreporter.write_line(f"\n{faults.table()}")


@pytest.fixture(autouse=True)
def may_sleep(monkeypatch) -> None:
    """A training run in the tests' own process keeps nothing awake."""
    monkeypatch.setattr(environment, "KEEP_AWAKE", {})


@pytest.fixture
def tiny_model() -> Transformer:
    return build()


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer(ROOT / "data/tok4096.model")


@pytest.fixture
def scripted_generation(monkeypatch) -> None:
    """Let models that are `Scripted` say what their scripts hold."""
    for name in ("stream", "generate"):
        by_model = getattr(generation, name)

        def ask(model, *args, name=name, by_model=by_model, **options):
            answer = getattr(model, name) if isinstance(model, Scripted) else partial(by_model, model)
            return answer(*args, **options)

        monkeypatch.setattr(generation, name, ask)
