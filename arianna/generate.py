"""Generation with a KV cache, as functions that take a model.

    generate(model, prompts, 200)                   # what the model adds to each prompt, as lists of tokens
    for tokens in stream(model, prompts, 200): ...  # one token a row, position after position

A step of one token is computed by `Decoder`, which is `Transformer.forward` in as few calls as there can be:
for a model of this size the calls take most of the time. The next token is drawn by `pick`. Shapes are as in
model.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from arianna.ops import X86, onednn, packed
from tokenizer import BOS, EOS, IGNORE

if TYPE_CHECKING:
    from model import Transformer

Prompts = Sequence[Sequence[int]]


def generate(
    model: Transformer, prompts: Prompts, max_new_tokens: int, stop: Sequence[int] = (BOS, EOS), **sampling
) -> list[list[int]]:
    """The tokens that a model adds to each prompt, without the `stop` token at the end; see `stream`."""
    added: list[list[int]] = [[] for _ in prompts]
    steps = stream(model, prompts, max_new_tokens, stop=stop, **sampling)
    for position, tokens in enumerate(steps, min(map(len, prompts))):
        for row, token in enumerate(tokens):
            if position >= len(prompts[row]) and token != IGNORE and token not in stop:
                added[row].append(token)
    return added


@torch.inference_mode()
def stream(
    model: Transformer,
    prompts: Prompts,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int = 300,
    top_p: float = 1.0,
    seed: int = 1337,
    stop: Sequence[int] = (),
    likelihoods: list[float] | None = None,
) -> Iterator[list[int]]:
    """Go on from prompts of any lengths: yields the tokens of one position after the other, one for each row.

    All rows stand at the same position; a row whose prompt is not yet over gets its own next token there, so
    no row is padded. A row ends behind a token of `stop` that it chose, or `max_new_tokens` behind its
    prompt; from then on its token is -1. The first position is behind the shortest prompt, the last is where
    the last row or the context ends. temperature 0 takes the likeliest token. `likelihoods` (a 0 for each
    row) gets the log-likelihood of what each row adds, in nats, its end included.
    """
    rows = Sequences(model, prompts, max_new_tokens, stop)
    # one number for each place, so that a row's draws do not depend on where others end
    generator = torch.Generator().manual_seed(seed)
    chances = torch.rand(rows.last - rows.first, len(prompts), generator=generator).to(rows.logits.device)
    for position, chance in enumerate(chances, rows.first):
        drawn = pick(rows.logits.float(), temperature, top_k, top_p, chance[rows.present])
        if likelihoods is not None:
            rows.add_likelihoods(likelihoods, drawn, position)
        tokens = rows.take(drawn.tolist(), position)
        yield tokens
        if not rows.going:
            return
        rows.drop_ended()
        rows.step(tokens, position)


class Sequences:
    """Rows of tokens that grow side by side: their cache, the logits of their next tokens, who goes on."""

    def __init__(self, model: Transformer, prompts: Prompts, max_new_tokens: int, stop: Sequence[int]):
        lengths, context = [len(prompt) for prompt in prompts], model.args.max_seq_len
        if min(lengths) < 1 or max(lengths) >= context:
            raise ValueError(
                f"the prompts have {min(lengths)} to {max(lengths)} tokens; a prompt needs at least 1 "
                f"and at most {context - 1} in a context of {context}"
            )
        self.model, self.prompts, self.stop, self.first = model, prompts, stop, min(lengths)
        self.ends = [min(length + max_new_tokens, context) for length in lengths]
        self.last = max(self.ends)
        self.present = list(range(len(prompts)))  # rows in the cache
        self.going = {row for row, end in enumerate(self.ends) if end > self.first}  # these have not ended
        self.cache = new_cache(model, len(prompts), self.last)
        self.logits = self.read_beginnings([tuple(prompt[: self.first]) for prompt in prompts])  # (B, V)
        self.decode = Decoder(model, self.cache)

    def read_beginnings(self, beginnings: list[tuple[int, ...]]) -> Tensor:
        """Put the first tokens of all rows into the cache, equal ones read once; the logits of the next."""
        once = list(dict.fromkeys(beginnings))
        cache = self.cache if len(once) == len(beginnings) else new_cache(self.model, len(once), self.first)
        tokens = torch.tensor(once, device=cache.device)
        logits = self.model.output(self.model.hidden_states(tokens, cache)[:, -1])
        if cache is self.cache:
            return logits
        rows = [once.index(beginning) for beginning in beginnings]
        self.cache[..., : self.first, :] = cache[:, :, rows]
        return logits[rows]

    def add_likelihoods(self, likelihoods: list[float], drawn: Tensor, position: int) -> None:
        """Add the log-likelihood of each row's drawn token, where its prompt is over and it has not ended."""
        nats = self.logits.float().log_softmax(-1).gather(1, drawn[:, None])[:, 0]
        for row, value in zip(self.present, nats.tolist(), strict=True):
            if row in self.going and position >= len(self.prompts[row]):
                likelihoods[row] += value

    def take(self, drawn: list[int], position: int) -> list[int]:
        """Each row's token at `position`: its prompt's, behind that the drawn one, -1 once it has ended."""
        tokens = [IGNORE] * len(self.prompts)
        for row, token in zip(self.present, drawn, strict=True):
            if row in self.going:
                in_prompt = position < len(self.prompts[row])
                tokens[row] = self.prompts[row][position] if in_prompt else token
                if position + 1 == self.ends[row] or (token in self.stop and not in_prompt):
                    self.going.remove(row)
        return tokens

    def drop_ended(self) -> None:
        """Compute ended rows no further once they are half of all: copying the cache costs a few steps."""
        if 2 * len(self.going) > len(self.present):
            return
        places = [place for place, row in enumerate(self.present) if row in self.going]
        self.present = [self.present[place] for place in places]
        self.cache = self.cache[:, :, places]
        self.decode = Decoder(self.model, self.cache)

    def step(self, tokens: list[int], position: int) -> None:
        """Put the tokens at `position` into the cache, and compute the logits of the next."""
        present = [max(tokens[row], 0) for row in self.present]  # an ended row goes on with token 0, unread
        self.logits = self.decode(torch.tensor(present, device=self.cache.device), position)


def new_cache(model: Transformer, rows: int, length: int) -> Tensor:
    """Zeros in place of keys and values, (layers, 2, B, K, length, D)."""
    a, weight = model.args, model.tok_embeddings.weight
    shape = (a.n_layers, 2, rows, a.n_kv_heads, length, a.head_dim)
    return torch.zeros(shape, dtype=weight.dtype, device=weight.device)


# ---- the choice of a token ----


def pick(logits: Tensor, temperature: float, top_k: int, top_p: float, chance: Tensor) -> Tensor:
    """One token a row from logits (B, V), by inverse transform of chance (B,) in [0, 1).

    top_k: only the k likeliest (0: all); top_p: of these only the smallest set whose probability reaches p
    (Holtzman et al. 2019, arXiv 1904.09751), counted within the k, so that nothing is sorted beyond them.
    """
    if temperature == 0:
        return logits.argmax(-1)
    V = logits.shape[-1]
    k = min(top_k or V, V)
    if k == V and top_p == 1:  # any order will do
        return draw(logits / temperature, top_p, chance)
    top, ids = logits.topk(k)  # (B, k), falling
    return ids.gather(1, draw(top / temperature, top_p, chance)[:, None])[:, 0]


def draw(top: Tensor, top_p: float, chance: Tensor) -> Tensor:
    """The place (B,) of a token among logits (B, k), which fall where top_p is below 1."""
    cumulative, last = top.softmax(-1).cumsum(-1), top.shape[-1] - 1
    if top_p < 1:
        end = (cumulative < top_p).sum(-1, keepdim=True).clamp(max=last)  # the token that reaches p stays in
        total = cumulative.gather(1, end)
    else:
        total = cumulative[:, -1:]  # not 1: sums in float32 miss it
    return (cumulative <= chance[:, None] * total).sum(-1).clamp(max=last)


# ---- one step ----


class TorchMath:
    """The plain formulas of a step, for any device and number format; the classes below are faster."""

    xp: ModuleType = torch  # the module whose functions the step calls: NumPy's have the same names

    def array(self, tensor: Tensor) -> Any:
        """A tensor as the step reads it, in the same memory."""
        return tensor

    def matrix(self, weight: Tensor) -> Any:
        """A weight (D, C) as `product` wants it."""
        return weight

    def product(self, x: Any, weight: Any) -> Any:
        """x @ weight.T, (B, D), for x (B, C)."""
        return F.linear(x, weight)

    def rotate(self, heads: Any, angles: Any) -> None:
        """Turn pairs of neighbours of (B, N, D) in place by a position's angles, (D/2,) complex."""
        pairs = torch.view_as_complex(heads.float().unflatten(-1, (-1, 2)))
        heads.copy_(torch.view_as_real(pairs * angles).flatten(-2))

    def attention(self, q: Any, k: Any, v: Any) -> Any:
        """Each head's output, (B, H, D), for scaled queries (B, H, D), keys and values (B, K, T, D)."""
        grouped = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(q[:, :, None], k, v, scale=1.0, enable_gqa=grouped)[:, :, 0]


class NumpyMath(TorchMath):
    """NumPy for one row on a CPU: a call takes a third of the time that one of torch's takes.

    All products of InnerArianna's token took 0.9 ms by vecdot (two cores, AMD EPYC), 1.7 to 3.2 by torch's
    libraries.
    """

    xp = np

    def array(self, tensor: Tensor) -> np.ndarray:
        return tensor.numpy()

    def matrix(self, weight: Tensor) -> Any:
        return weight.numpy()

    def product(self, x: np.ndarray, weight: Any) -> np.ndarray:
        return np.vecdot(weight, x)[None]

    def rotate(self, heads: np.ndarray, angles: np.ndarray) -> None:
        pairs = heads.view(np.complex64)
        pairs *= angles

    def attention(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        B, K, _, D = k.shape
        scores = q.reshape(B, K, -1, D) @ k.swapaxes(2, 3)  # (B, K, H/K, T)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        return (scores @ v / scores.sum(-1, keepdims=True)).reshape(q.shape)


class NumpyRowsMath(NumpyMath):
    """NumPy for many rows, where there is no oneDNN."""

    def matrix(self, weight: Tensor) -> np.ndarray:
        return weight.t().contiguous().numpy()

    def product(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x @ weight


class OneDnnMath(NumpyMath):
    """NumPy for many rows on x86, but oneDNN for products, with weights that are laid out for it once.

    On the same machine those of 32 rows took 3.6 ms so, 5.5 with weights as they are, 4.2 by NumPy.
    """

    def __init__(self, rows: int):
        self.rows = rows

    def matrix(self, weight: Tensor) -> Tensor:
        return packed(weight, self.rows)

    def product(self, x: np.ndarray, weight: Tensor) -> np.ndarray:
        return onednn(torch.from_numpy(x), weight).numpy()

    def attention(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        return TorchMath.attention(self, *map(torch.from_numpy, (q, k, v))).numpy()


def math_for(rows: int, weight: Tensor) -> TorchMath:
    """The fastest class above for so many rows of a model with such weights."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return TorchMath()
    if rows == 1:
        return NumpyMath()
    return OneDnnMath(rows) if X86 else NumpyRowsMath()


class Decoder:
    """Logits of one token a row behind those in a cache: `Transformer.forward` for T = 1.

    Factors that never change are multiplied into the matrices behind them: the weights of the norms, the
    1/sqrt(D) of the scores, and the half in silu(x) = x/2 (1 + tanh(x/2)).
    """

    def __init__(self, model: Transformer, cache: Tensor):
        weight = model.tok_embeddings.weight.detach()
        self.math, self.args = math_for(cache.shape[2], weight), model.args
        self.embeddings = self.math.array(weight)
        self.angles = self.math.array(torch.complex(model.freqs_cos, model.freqs_sin))
        self.output = self.math.matrix(model.output.weight.detach() * model.norm.weight.detach())
        self.layers = [
            (*map(self.math.matrix, folded(layer)), self.math.array(kv))
            for layer, kv in zip(model.layers, cache, strict=True)
        ]

    def __call__(self, tokens: Tensor, position: int) -> Tensor:
        """Logits (B, V) behind tokens (B,) at `position`, whose keys and values enter the cache."""
        math = self.math
        x = self.embeddings[math.array(tokens)]  # (B, C)
        for wqkv, wo, w13, w2, kv in self.layers:
            heads = math.product(self.norm(x), wqkv)
            x += math.product(self.attend(heads, kv, position), wo)
            x += math.product(self.gate(math.product(self.norm(x), w13)), w2)
        logits = math.product(self.norm(x), self.output)
        return torch.from_numpy(logits) if math.xp is np else logits

    def norm(self, x: Any) -> Any:
        """RMSNorm of (B, C) without its weight."""
        return x * (self.math.xp.linalg.vecdot(x, x)[:, None] / self.args.dim + self.args.norm_eps) ** -0.5

    def attend(self, heads: Any, kv: Any, position: int) -> Any:
        """The output of attention, (B, C), for a position's q, k and v, (B, (H + 2K) D). kv gets k and v."""
        H, K, T = self.args.n_heads, self.args.n_kv_heads, position + 1
        heads = heads.reshape(len(heads), H + 2 * K, -1)
        self.math.rotate(heads[:, : H + K], self.angles[position])
        kv[0, :, :, position] = heads[:, H : H + K]
        kv[1, :, :, position] = heads[:, H + K :]
        out = self.math.attention(heads[:, :H], kv[0, :, :, :T], kv[1, :, :, :T])
        return out.reshape(len(heads), -1)

    def gate(self, hidden: Any) -> Any:
        """silu(w1 x) * (w3 x), (B, hidden), from w1 x / 2 and w3 x side by side."""
        half, up = hidden[:, : self.args.hidden], hidden[:, self.args.hidden :]
        return (half + half * self.math.xp.tanh(half)) * up


def folded(layer: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The matrices of a layer as a step multiplies by them: wq, wk, wv in one, wo, w1 and w3 in one, w2."""
    a, f = layer.attention, layer.feed_forward
    wqkv = torch.cat((a.wq.weight * a.head_dim**-0.5, a.wk.weight, a.wv.weight)) * layer.attention_norm.weight
    w13 = torch.cat((f.w1.weight / 2, f.w3.weight)) * layer.ffn_norm.weight
    return wqkv.detach(), a.wo.weight.detach(), w13.detach(), f.w2.weight.detach()
