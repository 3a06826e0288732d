"""Generation's inner loop: one token a row behind those in a cache, and the choice of the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from arithmetic import product

if TYPE_CHECKING:
    from model import Transformer


class Decoder:
    """`hidden_states` of one token a row behind those in a cache: the same formulas in few calls, which take most of the time there."""

    def __init__(self, model: Transformer, cache: Tensor):
        self.model, self.turns = model, torch.complex(model.freqs_cos, model.freqs_sin)
        self.layers = []
        for layer, kv in zip(model.layers, cache, strict=True):
            a, f = layer.attention, layer.feed_forward
            wqkv = torch.cat((a.wq.weight * model.args.head_dim**-0.5, a.wk.weight, a.wv.weight))  # with the scores' factor
            matrices = (wqkv, a.wo.weight, torch.cat((f.w1.weight, f.w3.weight)), f.w2.weight)
            self.layers.append((layer.attention_norm.weight, layer.ffn_norm.weight, *matrices, kv, *kv.flatten(1, 2)))

    def __call__(self, tokens: Tensor, position: int) -> Tensor:
        """(B, C) for tokens (B,) at `position`. Their keys and values enter the cache."""
        a, B, T = self.model.args, len(tokens), position + 1
        H, K, D = a.n_heads, a.n_kv_heads, a.head_dim
        shape, eps, turn = (a.dim,), a.norm_eps, self.turns[position]
        x = F.embedding(tokens, self.model.tok_embeddings.weight)  # (B, C)
        for attention_norm, ffn_norm, wqkv, wo, w13, w2, kv, keys, values in self.layers:
            heads = product(F.rms_norm(x, shape, attention_norm, eps), wqkv).float().view(B, H + 2 * K, D // 2, 2)
            torch.view_as_complex(heads[:, : H + K]).mul_(turn)  # queries and keys, in place
            kv[:, :, :, position] = heads[:, H:].view(B, 2, K, D).transpose(0, 1)
            q = heads[:, :H].reshape(B * K, H // K, D).to(x.dtype)
            scores = torch.bmm(q, keys[:, :T].transpose(1, 2))  # (B * K, H / K, T)
            out = torch.bmm(scores.softmax(-1), values[:, :T]).view(B, a.dim)
            x = x + product(out, wo)
            gate, up = product(F.rms_norm(x, shape, ffn_norm, eps), w13).chunk(2, -1)
            x = x + product(F.silu(gate).mul_(up), w2)
        return self.model.norm(x)


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
