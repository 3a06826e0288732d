"""AdamW with a run's groups, and what it had gathered from a checkpoint."""

from __future__ import annotations

from inspect import unwrap

import torch

from arithmetic import all_finite
from model import Transformer
from train_config import TrainConfig


class AdamW(torch.optim.AdamW):
    """torch's. The methods below come without what would import torch's compiler, two seconds of each start, to hold it off them."""

    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))
    zero_grad = unwrap(torch.optim.AdamW.zero_grad)
    add_param_group = unwrap(torch.optim.AdamW.add_param_group)
    state_dict = unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = unwrap(torch.optim.AdamW.load_state_dict)


def make_optimizer(model: Transformer, cfg: TrainConfig) -> AdamW:
    """AdamW with llama2.c's groups: matrices decay, norms do not."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": cfg.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=cfg.peak, betas=(cfg.beta1, cfg.beta2), fused=True)


def load_moments(optimizer: AdamW, moments: dict[int, dict[str, torch.Tensor]]) -> None:
    """Give an optimizer what AdamW had gathered by parameter; its settings stay those of the run. Raises ValueError if it does not fit."""
    groups, parameters = optimizer.state_dict()["param_groups"], [p for g in optimizer.param_groups for p in g["params"]]
    for i, parameter in enumerate(parameters if moments else []):
        for name, shape in {"exp_avg": parameter.shape, "exp_avg_sq": parameter.shape, "step": ()}.items():
            if moments[i][name].shape != shape or not all_finite(moments[i][name]):
                raise ValueError(f"{name} of parameter {i} is not {tuple(shape)} finite numbers")
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
