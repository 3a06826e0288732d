"""A run's optimizer, AdamW or Muon with AdamW, and its moments from a checkpoint."""

from __future__ import annotations

from typing import Any

import torch

from arianna.ops import all_finite
from arianna.training.devices import has_bfloat16
from arianna.training.settings import TrainConfig
from model import Transformer

MUON_RATE = 10.0  # times the run's rate: 0.02 for the layers' matrices beside 2e-3 for the embedding
MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # a, b, c of Jordan et al.: steep at 0, near enough to 1 at the end


class Muon(torch.optim.AdamW):
    """Muon for groups marked "muon", AdamW for the others (Jordan 2024, kellerjordan.github.io/posts/muon).

    It computes as torch.optim.Muon with its defaults, but orthogonalises the matrices of one shape together,
    in 40% of the time, and in float32 where a processor has no bfloat16 arithmetic.
    """

    def __init__(self, groups: list[dict[str, Any]], **settings: Any):
        super().__init__(groups, **settings)
        self.numbers = torch.bfloat16 if has_bfloat16(groups[0]["params"][0].device) else torch.float32

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take loaded state as it is: Adam's own method wants a count of steps, which Muon does not keep."""
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
        updates = orthogonal(torch.stack(torch._foreach_lerp(gradients, buffers, MOMENTUM)).to(self.numbers))
        rows, columns = matrices[0].shape
        torch._foreach_mul_(matrices, 1 - rate * decay)
        scale = max(1.0, rows / columns) ** 0.5
        torch._foreach_add_(matrices, list(updates.float().unbind()), alpha=-rate * scale)


def orthogonal(x: torch.Tensor) -> torch.Tensor:
    """The matrices x (N, rows, columns) with singular values near 1, in the number format of x.

    Computed by five steps of a quintic Newton-Schulz iteration.
    """
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


def make_optimizer(model: Transformer, cfg: TrainConfig) -> torch.optim.AdamW:
    """AdamW with llama2.c's groups (matrices decay, norms do not), or Muon for the layers' matrices."""
    muon = cfg.optimizer_name == "muon"
    parameters = list(model.named_parameters())
    matrices = [p for name, p in parameters if p.dim() >= 2 and (not muon or name.startswith("layers."))]
    others = [p for _, p in parameters if not any(p is m for m in matrices)]
    groups = [{"params": matrices, "weight_decay": cfg.weight_decay}, {"params": others, "weight_decay": 0.0}]
    kind = torch.optim.AdamW
    if muon:  # llama2.c's files have groups without a mark
        kind, groups = Muon, [groups[0] | {"muon": True}, groups[1] | {"muon": False}]
    return kind(groups, lr=cfg.peak, betas=(cfg.beta1, cfg.beta2), fused=True)


def load_moments(optimizer: torch.optim.AdamW, moments: dict[int, dict[str, torch.Tensor]]) -> None:
    """Give an optimizer its moments by parameter; its settings stay. Raises ValueError if they do not fit."""
    state = optimizer.state_dict()
    muon = [group.get("muon", False) for group in optimizer.param_groups for _ in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for i, parameter in enumerate(parameters if moments else []):
        shapes = {"exp_avg": parameter.shape, "exp_avg_sq": parameter.shape, "step": ()}
        if muon[i]:
            shapes = {"momentum_buffer": parameter.shape}
        for name, shape in shapes.items():
            if moments[i][name].shape != shape or not all_finite(moments[i][name]):
                raise ValueError(f"{name} of parameter {i} is not {tuple(shape)} finite numbers")
    optimizer.load_state_dict({"state": moments, "param_groups": state["param_groups"]})
