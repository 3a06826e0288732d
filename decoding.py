"""Generation's inner loop: one token a row behind those in a cache, and the choice of the next."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from arithmetic import X86, onednn, packed

if TYPE_CHECKING:
    from model import Transformer


class Arrays(NamedTuple):
    """What a Decoder computes with: NumPy's arrays, each call on which costs a third of one on torch's tensors, or those."""

    xp: ModuleType  # numpy or torch, whose functions have the same names here
    array: Callable[[Tensor], Any]  # shares the tensor's memory
    matrix: Callable[[Tensor], Any]  # a weight (D, C) as `product` wants it
    product: Callable[[Any, Any], Any]  # x (B, C) and a matrix to x @ weight.T, (B, D)
    bmm: Callable[[Any, Any], Any]  # (N, I, J) and (N, J, K) to (N, I, K)


def arrays_for(rows: int, device: torch.device, dtype: torch.dtype) -> Arrays:
    """The fastest known for so many rows. On two cores of an AMD EPYC all products of InnerArianna's token took: one row 0.9 ms by
    `vecdot`, 1.7 to 3.2 by torch's libraries; 32 rows 3.6 ms by oneDNN with packed weights, 5.5 without, 4.2 by NumPy."""
    if device.type != "cpu" or dtype != torch.float32:
        return Arrays(torch, lambda t: t, lambda w: w, F.linear, torch.bmm)
    if rows == 1:
        return Arrays(np, Tensor.numpy, Tensor.numpy, lambda x, w: np.vecdot(w, x)[None], np.matmul)
    if not X86:
        return Arrays(np, Tensor.numpy, lambda w: w.t().contiguous().numpy(), np.matmul, np.matmul)
    by_torch = torch.from_numpy
    return Arrays(
        np,
        Tensor.numpy,
        partial(packed, rows=rows),
        lambda x, w: onednn(by_torch(x), w).numpy(),
        lambda a, b: torch.bmm(by_torch(a), by_torch(b)).numpy(),
    )


class Decoder:
    """Logits of one token a row behind those in a cache: `forward`'s formulas in few calls, which take most of the time there.

    Factors that never change are multiplied into the matrices behind them: those of the norms, the scores' 1 / sqrt(D), and the
    half of silu(x) = x/2 (1 + tanh(x/2)).
    """

    def __init__(self, model: Transformer, cache: Tensor):
        weight = model.tok_embeddings.weight.detach()
        self.args, use = model.args, arrays_for(cache.shape[2], weight.device, weight.dtype)
        self.xp, self.array, self.product, self.bmm = use.xp, use.array, use.product, use.bmm
        self.embeddings, self.cos, self.sin = map(use.array, (weight, model.freqs_cos, model.freqs_sin))
        self.output, self.layers = use.matrix(model.output.weight.detach() * model.norm.weight.detach()), []
        for layer, kv in zip(model.layers, cache, strict=True):
            a, f = layer.attention, layer.feed_forward
            wqkv = torch.cat((a.wq.weight * model.args.head_dim**-0.5, a.wk.weight, a.wv.weight)) * layer.attention_norm.weight
            w13 = torch.cat((f.w1.weight / 2, f.w3.weight)) * layer.ffn_norm.weight
            matrices = (use.matrix(w.detach()) for w in (wqkv, a.wo.weight, w13, f.w2.weight))
            self.layers.append((*matrices, use.array(kv), *map(use.array, kv.flatten(1, 2))))

    def __call__(self, tokens: Tensor, position: int) -> Tensor:
        """(B, V) for tokens (B,) at `position`. Their keys and values enter the cache."""
        a, xp, product, B, T = self.args, self.xp, self.product, len(tokens), position + 1
        H, K, D = a.n_heads, a.n_kv_heads, a.head_dim
        x, cos, sin = self.embeddings[self.array(tokens)], self.cos[position], self.sin[position]  # (B, C), (D / 2,)
        for wqkv, wo, w13, w2, kv, keys, values in self.layers:
            heads = product(self.norm(x), wqkv).reshape(B, H + 2 * K, D)
            even, odd = heads[:, : H + K, ::2], heads[:, : H + K, 1::2]  # of queries and keys
            heads[:, : H + K] = xp.stack((even * cos - odd * sin, even * sin + odd * cos), -1).reshape(B, H + K, D)
            kv[0, :, :, position] = heads[:, H : H + K]
            kv[1, :, :, position] = heads[:, H + K :]
            scores = self.bmm(heads[:, :H].reshape(B * K, H // K, D), keys[:, :T].swapaxes(1, 2))  # (B * K, H / K, T)
            scores = xp.exp(scores - xp.amax(scores, axis=-1, keepdims=True))
            out = self.bmm(scores, values[:, :T]) / scores.sum(axis=-1, keepdims=True)
            x = x + product(out.reshape(B, a.dim), wo)
            hidden = product(self.norm(x), w13)
            half, up = hidden[:, : a.hidden], hidden[:, a.hidden :]
            x = x + product((half + half * xp.tanh(half)) * up, w2)
        logits = product(self.norm(x), self.output)
        return torch.from_numpy(logits) if xp is np else logits

    def norm(self, x: Any) -> Any:
        """RMSNorm of (B, C) without its weight."""
        return x * (self.xp.linalg.vecdot(x, x)[:, None] / self.args.dim + self.args.norm_eps) ** -0.5


def pick(logits: Tensor, temperature: float, top_k: int, top_p: float, chance: Tensor) -> Tensor:
    """One token a row from logits (B, V), by inverse transform of chance (B,) in [0, 1).

    top_k: only the k likeliest (0: all); top_p: of these only the smallest set whose probability reaches p
    (Holtzman et al. 2019, arXiv 1904.09751), counted within the k, so that nothing is sorted beyond them.
    """
    if temperature == 0:
        return logits.argmax(-1)
    top, ids, k = logits / temperature, None, min(top_k or logits.shape[-1], logits.shape[-1])
    if k < logits.shape[-1] or top_p < 1:  # else any order will do
        top, ids = top.topk(k)  # (B, k), falling
    cumulative = top.softmax(-1).cumsum(-1)
    if top_p < 1:
        last = (cumulative < top_p).sum(-1, keepdim=True).clamp(max=k - 1)  # the token that reaches p stays in
        total = cumulative.gather(1, last)
    else:
        total = cumulative[:, -1:]
    index = (cumulative <= chance[:, None] * total).sum(-1, keepdim=True).clamp(max=k - 1)
    return index[:, 0] if ids is None else ids.gather(1, index)[:, 0]
