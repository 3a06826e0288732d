"""The shape that a file claims for its model, the weights' shapes that follow, and the model made of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from model import NORM_EPS, ModelArgs, Transformer

LARGEST, MOST_LAYERS = 1 << 20, 1 << 12  # what claims more is damaged: refused before it takes memory
Shape = tuple[int, ...]


def plausible(args: ModelArgs) -> ModelArgs:
    """The shape that a file claims. Raises ValueError for one of absurd size."""
    for name, value in dataclasses.asdict(args).items():
        most = MOST_LAYERS if name == "n_layers" else LARGEST
        if value is not None and value > most:
            raise ValueError(f"{name} is {value}; it must be a whole number from 1 to {most}")
    return args


def claimed(path: object, values: Mapping[str, Any], **keys: str) -> ModelArgs:
    """The shape in a file's values, under the file's own key for each of ModelArgs' names.

    Raises ValueError for a shape that is not there or cannot be, naming the file.
    """
    missing = [key for key in keys.values() if values.get(key) is None]
    if missing:
        raise ValueError(f"{path} has no {missing[0]}, which is a part of the model's shape.")
    try:
        return plausible(ModelArgs(**{name: values[key] for name, key in keys.items()}))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}.") from None


def weight_shapes(args: ModelArgs) -> dict[str, Shape]:
    """Names and shapes of a model's weights, read from a model of one layer that takes no memory."""
    short = dataclasses.replace(args, n_layers=1, max_seq_len=1)  # the shapes do not depend on these
    with torch.device("meta"):
        shapes = {name: tuple(weight.shape) for name, weight in Transformer(short).state_dict().items()}
    layer = {name: shape for name, shape in shapes.items() if name.startswith("layers.0.")}
    layers = {
        name.replace(".0.", f".{i}.", 1): shape for i in range(args.n_layers) for name, shape in layer.items()
    }
    first = {"tok_embeddings.weight": shapes["tok_embeddings.weight"]}
    return first | layers | {name: shape for name, shape in shapes.items() if name not in layer}


def check_shapes(path: object, there: Mapping[str, Shape], wanted: Mapping[str, Shape], asking: str) -> None:
    """Raise ValueError unless a file has exactly the weights that a model of its shape needs.

    `asking`: the part of the file that claims the shape, for instance "its config.json asks".
    """
    missing, extra = sorted(wanted.keys() - there.keys()), sorted(there.keys() - wanted.keys())
    if missing or extra:
        lack = f"lacks {missing[0]}" if missing else f"has {extra[0]}, which no Llama model of its shape has"
        raise ValueError(f"{path} {lack} ({len(missing)} missing, {len(extra)} too many).")
    for name, shape in wanted.items():
        if tuple(there[name]) != shape:
            raise ValueError(f"{path}: {name} is {tuple(there[name])}, but {asking} for {shape}.")


def check_same(path: object, *settings: tuple[str, Any, Any]) -> None:
    """Raise ValueError for a setting (its name, value, needed value) that llama2.c's programs do not know."""
    for name, value, needed in settings:
        if value != needed:
            raise ValueError(
                f"{path} has {name} {value!r}; llama2.c's programs compute with {needed!r}, "
                "so the model cannot be used."
            )


def check_eps(args: ModelArgs, program: str) -> None:
    """Raise ValueError for a model that a program of llama2.c, whose eps is fixed, computes differently."""
    if args.norm_eps != NORM_EPS:
        raise ValueError(
            f"the model has norm_eps {args.norm_eps}; "
            f"llama2.c's {program} computes with {NORM_EPS}, so it cannot be exported."
        )


def by_rule(args: ModelArgs) -> ModelArgs:
    """The same shape with `multiple_of` in place of `hidden_dim`, where llama2.c's rule gives that width."""
    for multiple_of in (32, 64, 128, 256):
        ruled = dataclasses.replace(args, hidden_dim=None, multiple_of=multiple_of)
        if ruled.hidden == args.hidden:
            return ruled
    return args


def model_of(args: ModelArgs, tied: bool, weights: dict[str, Tensor], max_seq_len: int | None) -> Transformer:
    """The model of a file's weights, with another context where `max_seq_len` gives one."""
    context = args.max_seq_len if max_seq_len is None else max_seq_len
    model = Transformer(dataclasses.replace(args, max_seq_len=context), tied)
    model.load_state_dict(weights, strict=not tied)
    return model
