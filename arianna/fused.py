"""A layer and the loss as a step in bfloat16 on a CPU takes them: forward and backward by hand.

Products are a third of a step by autograd; the rest are passes over memory, one for each cast,
mask, scale, copy and sum. Here there are half as many. model.TransformerBlock and ops.plain_head_loss are the
plain formulas. Shapes as in model.py; N is B * T, and G the heads of queries, keys and values, H + 2K.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from arianna.ops import HEAD_LOGITS, QUERY_ROWS, Teacher
from tokenizer import IGNORE

NUMBERS = torch.bfloat16  # of the products; tests take float32, in which more digits can be compared
SMALLEST = 1e-37  # chance that has a logarithm in both formats


def applies(x: Tensor) -> bool:
    """Whether x (..., C), float32, is computed with here: on a CPU, in autocast to bfloat16, not compiled."""
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32 and torch.is_autocast_enabled("cpu")
    return on_cpu and torch.get_autocast_dtype("cpu") == NUMBERS and not torch.compiler.is_compiling()


# ---- the norm ahead of each half ----


def normed(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """RMSNorm of x (N, C) in NUMBERS, and what each row was multiplied by, (N, 1)."""
    factor = (torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1] + eps).rsqrt()
    return (x * factor).mul_(weight).to(NUMBERS), factor


def norm_gradients(
    past: Tensor, behind: Tensor, x: Tensor, factor: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of x (N, C) and of the norm's weight (C,): `behind` is the normed rows' gradient, `past`
    that of the sum which x enters beside the norm."""
    behind = behind.float()
    product = behind * x
    by_row = (product @ weight)[:, None] * factor**3 / x.shape[-1]
    x_grad = torch.addcmul(past, behind.mul_(weight), factor).addcmul_(x, by_row, value=-1)
    return x_grad, factor[:, 0] @ product


def joined(*weights: Tensor) -> Tensor:
    """Matrices of one input in one below the other, in NUMBERS."""
    whole = weights[0].new_empty(sum(map(len, weights)), weights[0].shape[1], dtype=NUMBERS)
    for part, weight in zip(whole.split([len(w) for w in weights]), weights, strict=True):
        part.copy_(weight)
    return whole


# ---- attention ----


def by_head(rows: Tensor, head_dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Heads (G, B, T, D) of rows (B, T, G * D), in their own number format or another."""
    heads = rows.unflatten(-1, (-1, head_dim)).permute(2, 0, 1, 3)
    return torch.empty(heads.shape, dtype=dtype or rows.dtype).copy_(heads)


def turn(heads: Tensor, angles: Tensor) -> None:
    """Turn pairs of neighbours of heads (..., T, D), float32, by angles (T, D/2), complex, in place."""
    torch.view_as_complex(heads.unflatten(-1, (-1, 2))).mul_(angles)


def blocks(length: int) -> Iterator[tuple[int, int]]:
    """First and end of each block of queries, the last block first."""
    for first in range((length - 1) // QUERY_ROWS * QUERY_ROWS, -1, -QUERY_ROWS):
        yield first, min(first + QUERY_ROWS, length)


def attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, list[Tensor]]:
    """What causal attention reads, and the weights of each block, for scaled q, k, v (heads, T, D)."""
    out, weights = torch.empty_like(q), []
    for first, end in blocks(q.shape[1]):
        scores = q[:, first:end] @ k[:, :end].mT
        later = torch.full((end - first, end - first), -math.inf, dtype=q.dtype).triu(1)
        scores[:, :, first:] += later
        weights.append(scores.softmax(-1))
        out[:, first:end] = weights[-1] @ v[:, :end]
    return out, weights


def attention_gradients(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, weights: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v (heads, T, D), for that of what attention read."""
    q_grad, k_grad, v_grad = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for (first, end), chances in zip(blocks(q.shape[1]), weights, strict=True):
        block = grad[:, first:end]
        by_score = torch._softmax_backward_data(block @ v[:, :end].mT, chances, -1, grad.dtype)
        q_grad[:, first:end] = by_score @ k[:, :end]
        k_grad[:, :end] += by_score.mT @ q[:, first:end]
        v_grad[:, :end] += chances.mT @ block
    return q_grad, k_grad, v_grad


class AttentionHalf(Function):
    """x + attention(attention_norm(x)) of a TransformerBlock."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        angles: Tensor,
        head_dim: int,
        eps: float,
        norm: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        wq, wk, wv, wo = weights
        sizes = [len(w) for w in (wq, wk, wv)]
        B, T, C = x.shape
        seen, factor = normed(x.flatten(0, 1), norm, eps)
        wqkv, wo = joined(wq, wk, wv), wo.to(NUMBERS)
        rows = (seen @ wqkv.t()).view(B, T, -1)
        turned = by_head(rows[:, :, : sizes[0] + sizes[1]], head_dim, torch.float32)
        q, k = turned.split([sizes[0] // head_dim, sizes[1] // head_dim])
        turn(q, angles * head_dim**-0.5)  # the scale of the scores, too
        turn(k, angles)
        q, k = q.to(NUMBERS).flatten(0, 1), k.to(NUMBERS)
        v = by_head(rows[:, :, sizes[0] + sizes[1] :], head_dim)
        if (groups := sizes[0] // sizes[1]) > 1:
            k, v = (t.repeat_interleave(groups, 0) for t in (k, v))
        k, v = k.flatten(0, 1), v.flatten(0, 1)
        out, chances = attention(q, k, v)
        read = out.view(-1, B, T, head_dim).permute(1, 2, 0, 3).reshape(B * T, -1)
        ctx.save_for_backward(x, angles, norm, factor, seen, wqkv, wo, q, k, v, read, *chances)
        ctx.sizes, ctx.head_dim = sizes, head_dim
        return x + (read @ wo.t()).float().view(x.shape)  # its own pass: sums of two formats are slow

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, angles, norm, factor, seen, wqkv, wo, q, k, v, read, *chances = ctx.saved_tensors
        sizes, head_dim = ctx.sizes, ctx.head_dim
        B, T, C = x.shape
        past = grad.reshape(-1, C)
        grad = past.to(seen.dtype)
        wo_grad = (grad.t() @ read).float()
        out_grad = by_head((grad @ wo).view(B, T, -1), head_dim).flatten(0, 1)
        heads = [t.view(-1, B, T, head_dim) for t in attention_gradients(out_grad, q, k, v, chances)]
        groups = sizes[0] // sizes[1]
        if groups > 1:
            heads[1:] = [t.unflatten(0, (-1, groups)).sum(1) for t in heads[1:]]
        q_grad, k_grad, v_grad = heads[0].float(), heads[1].float(), heads[2]
        turn(q_grad, angles.conj() * head_dim**-0.5)
        turn(k_grad, angles.conj())
        rows = grad.new_empty(B, T, sum(sizes))
        for part, t in zip(rows.split(sizes, -1), (q_grad, k_grad, v_grad), strict=True):
            part.unflatten(-1, (-1, head_dim)).copy_(t.permute(1, 2, 0, 3))
        rows = rows.view(B * T, -1)
        x_grad, norm_grad = norm_gradients(past, rows @ wqkv, x.flatten(0, 1), factor, norm)
        wqkv_grad = (rows.t() @ seen).float()
        return x_grad.view(x.shape), None, None, None, norm_grad, *wqkv_grad.split(sizes), wo_grad


# ---- the feed-forward network ----


class FeedForwardHalf(Function):
    """x + feed_forward(ffn_norm(x)) of a TransformerBlock."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        eps: float,
        norm: Tensor,
        w1: Tensor,
        w2: Tensor,
        w3: Tensor,
    ) -> Tensor:
        rows = x.flatten(0, 1)
        seen, factor = normed(rows, norm, eps)
        w13, w2 = joined(w1, w3), w2.to(NUMBERS)
        both = seen @ w13.t()  # (N, 2 hidden)
        gate, up = both.chunk(2, -1)
        opened = F.silu(gate)
        inner = opened * up
        ctx.save_for_backward(rows, norm, factor, seen, w13, w2, both, opened, inner)
        return x + (inner @ w2.t()).float().view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, norm, factor, seen, w13, w2, both, opened, inner = ctx.saved_tensors
        past = grad.reshape(x.shape)
        half = past.to(seen.dtype)
        inner_grad, w2_grad = half @ w2, (half.t() @ inner).float()
        gate, up = both.chunk(2, -1)
        both_grad = torch.empty_like(both)
        gate_grad, up_grad = both_grad.chunk(2, -1)
        torch.mul(inner_grad, opened, out=up_grad)
        torch.ops.aten.silu_backward.grad_input(inner_grad.mul_(up), gate, grad_input=gate_grad)
        x_grad, norm_grad = norm_gradients(past, both_grad @ w13, x, factor, norm)
        w1_grad, w3_grad = (both_grad.t() @ seen).float().chunk(2)
        return x_grad.view(grad.shape), None, norm_grad, w1_grad, w2_grad, w3_grad


# ---- the loss ----


def head_loss(
    x: Tensor, weight: Tensor, targets: Tensor, count: int, teacher: Teacher | None = None
) -> Tensor:
    """ops.head_loss, by hand."""
    most = max(1, HEAD_LOGITS // len(weight))  # rows whose logits are held at a time
    return HeadLoss.apply(x, weight, targets, count, most, *(teacher or ()))


class HeadLoss(Function):
    """ops.plain_head_loss; its gradients are made with it, so that no logits wait for them."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        targets: Tensor,
        count: int,
        most: int,
        *teacher: Tensor,
    ) -> Tensor:
        places = (targets != IGNORE).nonzero()[:, 0]  # only these have a loss
        rows, output = x[places].to(NUMBERS), weight.to(NUMBERS)
        row_grads, weight_grad, loss = torch.empty_like(rows), torch.zeros_like(weight), x.new_zeros(())
        for first in range(0, len(rows), most):
            part = rows[first : first + most]
            chances, of_part = (part @ output.t()).softmax(-1), places[first : first + most]
            if teacher:
                states, matrix = teacher[0][of_part].to(NUMBERS), teacher[1].to(NUMBERS)
                loss += against_teacher(chances, (states @ matrix.t()).softmax(-1))
            else:
                loss += against_targets(chances, targets[of_part])
            row_grads[first : first + most] = chances @ output
            weight_grad += chances.t() @ part
        ctx.save_for_backward(places, row_grads, weight_grad)
        ctx.shape, ctx.count = x.shape, count
        return loss / count

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        places, row_grads, weight_grad = ctx.saved_tensors
        x_grad, scale = weight_grad.new_zeros(ctx.shape), grad / ctx.count
        x_grad[places] = row_grads.float() * scale
        return x_grad, weight_grad * scale, *[None] * 5


def against_targets(chances: Tensor, own: Tensor) -> Tensor:
    """The summed loss of chances (N, V) against targets (N,). The logits' gradient takes their place."""
    at = (torch.arange(len(own)), own)  # scatter_ would go over all of them
    likelihood = chances[at].float().clamp(min=SMALLEST)
    # a target's gradient is what all others' sum to: of its chance less 1 few digits would be left near 1
    chances[at] = 0
    chances[at] = -chances.sum(-1)
    return -likelihood.log().sum()


def against_teacher(chances: Tensor, wanted: Tensor) -> Tensor:
    """The same against wanted chances (N, V)."""
    loss = -torch.xlogy(wanted, chances.clamp(min=SMALLEST)).sum(dtype=torch.float32)
    chances -= wanted
    return loss
