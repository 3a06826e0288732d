"""The shape that a file claims for its model, and the shapes of the weights that go with it."""

from __future__ import annotations

import dataclasses

import torch

from model import ModelArgs, Transformer

LARGEST, MOST_LAYERS = 1 << 20, 1 << 12  # what claims more is damaged: refused before it takes memory


def plausible(args: ModelArgs) -> ModelArgs:
    """The shape that a file claims. Raises ValueError for one of absurd size."""
    for name, value in dataclasses.asdict(args).items():
        most = MOST_LAYERS if name == "n_layers" else LARGEST
        if value is not None and value > most:
            raise ValueError(f"{name} is {value}; it must be a whole number from 1 to {most}")
    return args


def weight_shapes(args: ModelArgs) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's weights, read from a model that takes no memory."""
    short = dataclasses.replace(
        args, max_seq_len=1
    )  # no weight depends on it, but the size of the tables of angles
    with torch.device("meta"):
        return {name: tuple(weight.shape) for name, weight in Transformer(short).state_dict().items()}
