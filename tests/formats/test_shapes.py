"""Shapes that files claim, and the shapes of weights."""

import subprocess
import sys

import pytest
from helpers import GROUPED, ROOT, SMALL

from arianna.formats.shapes import plausible, weight_shapes
from model import ModelArgs, Transformer


@pytest.mark.parametrize(
    "args", [SMALL, GROUPED, ModelArgs(dim=32, n_layers=1, n_heads=2, vocab_size=64, hidden_dim=40)]
)
def test_shapes_of_weights_are_the_models(args):
    assert {k: tuple(v.shape) for k, v in Transformer(args).state_dict().items()} == weight_shapes(args)


@pytest.mark.parametrize(
    "absurd", [{"n_layers": 5000}, {"max_seq_len": 1 << 21}, {"dim": 1 << 30}, {"hidden_dim": 1 << 40}]
)
def test_a_shape_of_absurd_size_is_refused(absurd):
    (name,) = absurd
    with pytest.raises(ValueError, match=f"{name} is .*; it must be a whole number from 1 to"):
        plausible(ModelArgs(**{"dim": 32, "n_heads": 4, **absurd}))
    assert plausible(ModelArgs()) == ModelArgs()


def test_asking_for_shapes_takes_no_memory():
    huge = weight_shapes(ModelArgs(dim=1 << 20, n_heads=1 << 10, n_layers=1, max_seq_len=1 << 20))
    assert huge["layers.0.attention.wq.weight"] == (1 << 20, 1 << 20)


def test_asking_for_shapes_imports_no_compiler():
    ask = (
        "import sys; from arianna.formats.shapes import *; weight_shapes(ModelArgs()); "
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n", "torch's compiler takes a second to import"
