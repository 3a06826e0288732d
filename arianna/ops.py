"""The operations that take a training step's time, made fast, each beside the plain formula that it equals.

Shapes as in model.py; N is B * T.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenizer import IGNORE

HEAD_LOGITS = 1 << 23  # logits that are held at a time: 32 MB, for 2048 tokens of a vocabulary of 4096
QUERY_ROWS = 128  # queries of causal_attention's blocks
X86 = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """A context that computes on one thread: two may round the same sum differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Product(torch.autograd.Function):
    """x @ weight.T like F.linear, in float32 by oneDNN: torch takes MKL, up to twice as slow on AMD's CPUs.

    The weight's gradient is left to MKL, which is the faster one for it.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return onednn(x, weight)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return onednn(grad, weight.t()), grad.flatten(0, -2).t() @ x.flatten(0, -2)


def onednn(x: Tensor, weight: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # the compiler knows what is below only for weights that never change
        return onednn_as_it_is(x, weight)
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


def packed(weight: Tensor, rows: int) -> Tensor:
    """A weight (D, C) in the layout that only `onednn` reads, the fastest for x of so many rows."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)


@torch.library.custom_op("arianna::onednn", mutates_args=())
def onednn_as_it_is(x: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


@onednn_as_it_is.register_fake
def shape_of_onednn(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight.T for x (..., C) and a weight (D, C), by the fastest library."""
    float32 = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if X86 and x.device.type == "cpu" and float32:
        return Product.apply(x, weight) if torch.is_grad_enabled() else onednn(x, weight)
    return F.linear(x, weight)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight (Zhang & Sennrich 2019, 1910.07467), in few passes on a CPU."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.rms_norm(x, weight.shape, weight, eps)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return (x * (norm.square() / x.shape[-1] + eps).rsqrt()).to(x.dtype) * weight


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """scaled_dot_product_attention(is_causal=True, enable_gqa=True), a block of queries at a time.

    Shapes are (B, H or K, T, D). For bfloat16 on a CPU, where torch's own takes a third of a step: this takes
    half its time, compiled a third.
    """
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    out, end, T = [], 0, q.shape[2]
    while end < T:  # a range would have torch's compiler make a graph for each T
        first, end = end, min(end + QUERY_ROWS, T)
        scores = (q[:, :, first:end] @ k[:, :, :end].transpose(-1, -2)).float() * q.shape[-1] ** -0.5
        later = torch.ones(end - first, end, dtype=torch.bool, device=q.device).triu(first + 1)
        out.append(scores.masked_fill(later, -math.inf).softmax(-1).to(v.dtype) @ v[:, :, :end])
    return torch.cat(out, 2)


def all_finite(x: Tensor) -> bool:
    """x.isfinite().all() in a fifth of the time: the extremes of x are NaN or infinite if any number is."""
    return bool(torch.stack(x.detach().aminmax()).isfinite().all()) if x.numel() else True


# another model's hidden states of the same tokens, (N, C), and its output matrix, (V, C)
Teacher = tuple[Tensor, Tensor]


def plain_head_loss(
    x: Tensor, weight: Tensor, targets: Tensor, count: int, teacher: Teacher | None = None
) -> Tensor:
    """Summed cross-entropy of x @ weight.T against targets, over `count`.

    x: (N, C), weight: (V, C), targets: (N,). With a teacher it is against the teacher's predictions, wherever
    there is a target (Hinton et al. 2015, arXiv 1503.02531).
    """
    logits = product(x, weight).float()
    if teacher is None:
        return F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum") / count
    with torch.no_grad():
        wanted = product(*teacher).float().softmax(-1)
    return (F.cross_entropy(logits, wanted, reduction="none") * (targets != IGNORE)).sum() / count


def head_loss(
    x: Tensor, weight: Tensor, targets: Tensor, count: int, teacher: Teacher | None = None
) -> Tensor:
    """`plain_head_loss`, chunk by chunk where there would be too many logits to hold.

    Not when compiling: the compiler fuses what it takes of them.
    """
    rows = max(1, HEAD_LOGITS // len(weight))
    if len(x) <= rows or torch.compiler.is_compiling():
        return plain_head_loss(x, weight, targets, count, teacher)
    teachers = [(h, teacher[1]) for h in teacher[0].split(rows)] if teacher else [None] * -(-len(x) // rows)
    chunks = list(zip(x.split(rows), targets.split(rows), teachers, strict=True))
    if not torch.is_grad_enabled():
        return torch.stack([plain_head_loss(h, weight, y, count, t) for h, y, t in chunks]).sum()
    return chunked_loss(x, weight, chunks, count)


def chunked_loss(
    x: Tensor, weight: Tensor, chunks: list[tuple[Tensor, Tensor, Teacher | None]], count: int
) -> Tensor:
    """The loss of chunks (hidden states, targets, teacher) of x.

    Each chunk's gradients are computed at once, after which its logits are freed. The gradients are handed on
    by a sum whose own value is subtracted again.
    """
    w, loss, grads = weight.detach().requires_grad_(), 0.0, []
    for h, y, teacher in chunks:
        h = h.detach().requires_grad_()
        chunk_loss = plain_head_loss(h, w, y, count, teacher)
        chunk_loss.backward()  # adds to w.grad
        loss += chunk_loss.detach()
        grads.append(h.grad)
    waiting = (x * torch.cat(grads)).sum() + (weight * w.grad).sum()
    return loss + (waiting - waiting.detach())
