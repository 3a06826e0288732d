"""A run's optimizer, AdamW or Muon with AdamW, and what it had gathered from a checkpoint."""

from __future__ import annotations

from typing import Any

import torch

from arianna.ops import all_finite
from arianna.training.settings import TrainConfig
from model import Transformer

MUON_RATE = 10.0  # times the run's rate: 0.02 for the layers' matrices beside 2e-3 for the embedding
MOMENTUM = 0.95
NEWTON_SCHULZ = (
    3.4445,
    -4.7750,
    2.0315,
)  # a, b, c of Jordan et al.: steep at 0, and no further from 1 than needed


class Muon(torch.optim.AdamW):
    """Muon for groups marked "muon", AdamW for the others (Jordan et al. 2024,
    kellerjordan.github.io/posts/muon).

    As torch.optim.Muon with its defaults, but the matrices of one shape are orthogonalised together, in 40%
    of the time.
    """

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take loaded state as it is: Adam's own method looks for a count of steps, which Muon's matrices
        have not.
        """
        torch.optim.Optimizer.__setstate__(self, state)

    @torch.no_grad()
    def step(self) -> None:
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["muon"]]
        super().step()
        self.param_groups = groups
        for group in groups:
            if group["muon"]:
                by_shape: dict[torch.Size, list[torch.Tensor]] = {}
                for p in group["params"]:
                    by_shape.setdefault(p.shape, []).append(p)
                for matrices in by_shape.values():
                    self.step_together(matrices, group["lr"] * MUON_RATE, group["weight_decay"] / MUON_RATE)

    def step_together(self, matrices: list[torch.Tensor], rate: float, decay: float) -> None:
        """One step of matrices of one shape: Nesterov momentum, made orthogonal."""
        gradients = [p.grad for p in matrices]
        for p in matrices:
            if p not in self.state:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in matrices]
        torch._foreach_lerp_(buffers, gradients, 1 - MOMENTUM)
        updates = orthogonal(torch.stack(torch._foreach_lerp(gradients, buffers, MOMENTUM)))
        rows, columns = matrices[0].shape
        torch._foreach_mul_(matrices, 1 - rate * decay)
        torch._foreach_add_(
            matrices, list(updates.float().unbind()), alpha=-rate * max(1.0, rows / columns) ** 0.5
        )


def orthogonal(x: torch.Tensor) -> torch.Tensor:
    """The matrices x (N, rows, columns) with singular values near 1, by five steps of a quintic Newton-Schulz
    iteration, bfloat16.
    """
    wide = x.shape[1] <= x.shape[2]
    x = (x if wide else x.mT).bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


def make_optimizer(model: Transformer, cfg: TrainConfig) -> torch.optim.AdamW:
    """AdamW with llama2.c's groups (matrices decay, norms do not), or Muon for the layers' matrices and AdamW
    for the rest.
    """
    muon = cfg.optimizer_name == "muon"
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.dim() >= 2 and (not muon or name.startswith("layers."))]
    others = [p for name, p in named if not any(p is m for m in matrices)]
    groups = [
        {"params": matrices, "weight_decay": cfg.weight_decay, "muon": muon},
        {"params": others, "weight_decay": 0.0, "muon": False},
    ]
    if not muon:
        groups = [
            {k: v for k, v in group.items() if k != "muon"} for group in groups
        ]  # as llama2.c's files have them
    return (Muon if muon else torch.optim.AdamW)(
        groups, lr=cfg.peak, betas=(cfg.beta1, cfg.beta2), fused=True
    )


def load_moments(optimizer: torch.optim.AdamW, moments: dict[int, dict[str, torch.Tensor]]) -> None:
    """Give an optimizer what it had gathered by parameter; its settings stay those of the run. Raises
    ValueError if it does not fit.
    """
    state = optimizer.state_dict()
    muon = [group.get("muon", False) for group in optimizer.param_groups for _ in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for i, parameter in enumerate(parameters if moments else []):
        shapes = (
            {"momentum_buffer": parameter.shape}
            if muon[i]
            else {"exp_avg": parameter.shape, "exp_avg_sq": parameter.shape, "step": ()}
        )
        for name, shape in shapes.items():
            if moments[i][name].shape != shape or not all_finite(moments[i][name]):
                raise ValueError(f"{name} of parameter {i} is not {tuple(shape)} finite numbers")
    optimizer.load_state_dict({"state": moments, "param_groups": state["param_groups"]})
