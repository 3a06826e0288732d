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

from arianna.ops import X86, onednn, packed

if TYPE_CHECKING:
    from model import Transformer


class Arrays(NamedTuple):
    """What a Decoder computes with: NumPy's arrays, each call on which costs a third of one on torch's tensors, or those."""

    xp: ModuleType  # numpy or torch, whose functions have the same names here
    array: Callable[[Tensor], Any]  # shares the tensor's memory
    matrix: Callable[[Tensor], Any]  # a weight (D, C) as `product` wants it
    product: Callable[[Any, Any], Any]  # x (B, C) and a matrix to x @ weight.T, (B, D)
    turn: Callable[[Any, Any], None]  # turns each pair of neighbours in (B, N, D) by a position's angles, (D / 2,) complex
    attention: Callable[[Any, Any, Any], Any]  # queries (B, H, D), keys and values (B, K, T, D) to (B, H, D)


def turn(heads: np.ndarray, by: np.ndarray) -> None:
    pairs = heads.view(np.complex64)
    pairs *= by


def torchs_turn(heads: Tensor, by: Tensor) -> None:
    pairs = torch.view_as_complex(heads.float().unflatten(-1, (-1, 2)))
    heads.copy_(torch.view_as_real(pairs * by).flatten(-2))


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """What each head reads from its values, (B, H, D); the queries are scaled already."""
    B, K, _, D = k.shape
    scores = q.reshape(B, K, -1, D) @ k.swapaxes(2, 3)  # (B, K, H / K, T)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    return (scores @ v / scores.sum(-1, keepdims=True)).reshape(q.shape)


def torchs_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q[:, :, None], k, v, scale=1.0, enable_gqa=q.shape[1] != k.shape[1])[:, :, 0]


def arrays_for(rows: int, device: torch.device, dtype: torch.dtype) -> Arrays:
    """The fastest known for so many rows. On two cores of an AMD EPYC all products of InnerArianna's token took: one row 0.9 ms by
    `vecdot`, 1.7 to 3.2 by torch's libraries; 32 rows 3.6 ms by oneDNN with packed weights, 5.5 without, 4.2 by NumPy."""
    if device.type != "cpu" or dtype != torch.float32:
        return Arrays(torch, lambda t: t, lambda w: w, F.linear, torchs_turn, torchs_attention)
    if rows == 1:
        return Arrays(np, Tensor.numpy, Tensor.numpy, lambda x, w: np.vecdot(w, x)[None], turn, attention)
    if not X86:
        return Arrays(np, Tensor.numpy, lambda w: w.t().contiguous().numpy(), np.matmul, turn, attention)
    by_torch = torch.from_numpy
    return Arrays(
        np,
        Tensor.numpy,
        partial(packed, rows=rows),
        lambda x, w: onednn(by_torch(x), w).numpy(),
        turn,
        lambda *qkv: torchs_attention(*map(by_torch, qkv)).numpy(),
    )


class Decoder:
    """Logits of one token a row behind those in a cache: `forward`'s formulas in few calls, which take most of the time there.

    Factors that never change are multiplied into the matrices behind them: those of the norms, the scores' 1 / sqrt(D), and the
    half of silu(x) = x/2 (1 + tanh(x/2)).
    """

    def __init__(self, model: Transformer, cache: Tensor):
        weight = model.tok_embeddings.weight.detach()
        use = arrays_for(cache.shape[2], weight.device, weight.dtype)
        self.use, self.args = use, model.args
        self.embeddings, self.angles = map(use.array, (weight, torch.complex(model.freqs_cos, model.freqs_sin)))
        self.output, self.layers = use.matrix(model.output.weight.detach() * model.norm.weight.detach()), []
        for layer, kv in zip(model.layers, cache, strict=True):
            a, f = layer.attention, layer.feed_forward
            wqkv = torch.cat((a.wq.weight * model.args.head_dim**-0.5, a.wk.weight, a.wv.weight)) * layer.attention_norm.weight
            w13 = torch.cat((f.w1.weight / 2, f.w3.weight)) * layer.ffn_norm.weight
            matrices = (use.matrix(w.detach()) for w in (wqkv, a.wo.weight, w13, f.w2.weight))
            self.layers.append((*matrices, use.array(kv)))

    def __call__(self, tokens: Tensor, position: int) -> Tensor:
        """(B, V) for tokens (B,) at `position`. Their keys and values enter the cache."""
        a, use, product, B, T = self.args, self.use, self.use.product, len(tokens), position + 1
        H, K, D = a.n_heads, a.n_kv_heads, a.head_dim
        x = self.embeddings[use.array(tokens)]  # (B, C)
        for wqkv, wo, w13, w2, kv in self.layers:
            heads = product(self.norm(x), wqkv).reshape(B, H + 2 * K, D)
            use.turn(heads[:, : H + K], self.angles[position])  # queries and keys
            kv[0, :, :, position] = heads[:, H : H + K]
            kv[1, :, :, position] = heads[:, H + K :]
            out = use.attention(heads[:, :H], kv[0, :, :, :T], kv[1, :, :, :T])
            x += product(out.reshape(B, a.dim), wo)
            hidden = product(self.norm(x), w13)
            half, up = hidden[:, : a.hidden], hidden[:, a.hidden :]
            x += product((half + half * use.xp.tanh(half)) * up, w2)
        logits = product(self.norm(x), self.output)
        return torch.from_numpy(logits) if use.xp is np else logits

    def norm(self, x: Any) -> Any:
        """RMSNorm of (B, C) without its weight."""
        return x * (self.use.xp.linalg.vecdot(x, x)[:, None] / self.args.dim + self.args.norm_eps) ** -0.5


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
