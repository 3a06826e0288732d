"""The Llama architecture as llama2.c trains and runs it: forward pass, loss, generation with a KV cache.

Tensor names are llama2.c's (tok_embeddings, layers.0.attention.wq, ...), because files depend on them.
Shapes: B rows, T tokens, C = dim, H heads, K key/value heads, D = C / H, V = vocab_size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arianna.generate import Decoder, pick
from arianna.ops import Teacher, causal_attention, head_loss, product, rms_norm
from tokenizer import IGNORE

NORM_EPS = 1e-5  # fixed in llama2.c's run.c, as is ROPE_THETA
ROPE_THETA = 10000.0
SCORED_ROWS = 256  # tokens whose logits `nll` holds at a time
LARGEST, MOST_LAYERS = 1 << 20, 1 << 12  # in a shape: what a damaged file claims is refused before memory is taken for it


@dataclass(frozen=True)
class ModelArgs:
    """The shape of a model. The fields are llama2.c's, the defaults InnerArianna's."""

    dim: int = 288
    n_layers: int = 6
    n_heads: int = 6
    n_kv_heads: int | None = None  # None: as many as n_heads
    vocab_size: int = 4096
    hidden_dim: int | None = None  # None: 8/3 of dim, rounded up to multiple_of
    multiple_of: int = 32
    norm_eps: float = NORM_EPS
    max_seq_len: int = 256
    dropout: float = 0.0  # kept because llama2.c's files carry it; not applied

    def __post_init__(self) -> None:
        if self.n_kv_heads is None:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        names = ["dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "max_seq_len"]
        for name in names if self.hidden_dim is None else [*names, "hidden_dim"]:
            value, most = getattr(self, name), MOST_LAYERS if name == "n_layers" else LARGEST
            if not isinstance(value, int) or not 1 <= value <= most:
                raise ValueError(f"{name} is {value!r}; it must be a whole number from 1 to {most}")
        if not isinstance(self.norm_eps, float) or not 0 < self.norm_eps < 1:
            raise ValueError(f"norm_eps is {self.norm_eps!r}; it must be a number between 0 and 1")
        if self.dim % self.n_heads or self.head_dim % 2 or self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"dim {self.dim}, n_heads {self.n_heads}, n_kv_heads {self.n_kv_heads} do not fit together: "
                "dim / n_heads must be an even number, and n_heads a multiple of n_kv_heads"
            )

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    @property
    def hidden(self) -> int:
        """Width of the feed-forward layer, by llama2.c's rule unless given."""
        if self.hidden_dim is not None:
            return self.hidden_dim
        return -(-(8 * self.dim // 3) // self.multiple_of) * self.multiple_of


def weight_shapes(args: ModelArgs) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's weights, for checking a file before a model is made of it."""
    kv_dim = args.n_kv_heads * args.head_dim
    of_a_layer = {
        "attention_norm": (args.dim,),
        "attention.wq": (args.dim, args.dim),
        "attention.wk": (kv_dim, args.dim),
        "attention.wv": (kv_dim, args.dim),
        "attention.wo": (args.dim, args.dim),
        "ffn_norm": (args.dim,),
        "feed_forward.w1": (args.hidden, args.dim),
        "feed_forward.w2": (args.dim, args.hidden),
        "feed_forward.w3": (args.hidden, args.dim),
    }
    shapes = {f"layers.{i}.{name}.weight": shape for i in range(args.n_layers) for name, shape in of_a_layer.items()}
    matrix = (args.vocab_size, args.dim)
    return {"tok_embeddings.weight": matrix, **shapes, "norm.weight": (args.dim,), "output.weight": matrix}


def rope_table(args: ModelArgs) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles, each (max_seq_len, D/2) float32 (Su et al. 2021, arXiv 2104.09864)."""
    frequencies = 1.0 / ROPE_THETA ** (torch.arange(0, args.head_dim, 2).float() / args.head_dim)
    angles = torch.outer(torch.arange(args.max_seq_len).float(), frequencies)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of neighbours (x[2i], x[2i+1]) of the head dimension by its position's angle. x: (B, T, H, D)."""
    pairs = x.float().unflatten(-1, (-1, 2))  # (B, T, H, D/2, 2)
    cos, sin = cos[:, None, :], sin[:, None, :]  # (T, 1, D/2)
    if torch.compiler.is_compiling():  # the compiler fuses real arithmetic, but has none for complex numbers
        real, imaginary = pairs.unbind(-1)
        turned = torch.stack((real * cos - imaginary * sin, real * sin + imaginary * cos), -1)
    else:  # one pass over the data instead of six
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.complex(cos, sin))
    return turned.flatten(-2).to(x.dtype)


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class Linear(nn.Linear):
    """Without a bias, as all of llama's are."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight)


class Attention(nn.Module):
    """Causal self-attention with grouped key/value heads."""

    def __init__(self, args: ModelArgs):
        super().__init__()
        self.head_dim = args.head_dim
        self.grouped = args.n_kv_heads != args.n_heads
        self.wq = Linear(args.dim, args.n_heads * args.head_dim)
        self.wk = Linear(args.dim, args.n_kv_heads * args.head_dim)
        self.wv = Linear(args.dim, args.n_kv_heads * args.head_dim)
        self.wo = Linear(args.n_heads * args.head_dim, args.dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Tensor | None = None) -> Tensor:
        """x: (B, T, C); cache: (2, B, K, S, D), whose first T places get the keys and values."""
        B, T, _ = x.shape
        heads = (B, T, -1, self.head_dim)
        q = rotate(self.wq(x).view(heads), cos, sin).transpose(1, 2)  # (B, H, T, D)
        k = rotate(self.wk(x).view(heads), cos, sin).transpose(1, 2)  # (B, K, T, D)
        v = self.wv(x).view(heads).transpose(1, 2)
        if cache is not None:
            cache[0, :, :, :T] = k
            cache[1, :, :, :T] = v
        if q.device.type == "cpu" and q.dtype == torch.bfloat16:
            out = causal_attention(q, k, v)
        else:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.grouped)
        return self.wo(out.transpose(1, 2).reshape(B, T, -1))


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, args: ModelArgs):
        super().__init__()
        self.w1 = Linear(args.dim, args.hidden)
        self.w2 = Linear(args.hidden, args.dim)
        self.w3 = Linear(args.dim, args.hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class TransformerBlock(nn.Module):
    def __init__(self, args: ModelArgs):
        super().__init__()
        self.attention = Attention(args)
        self.feed_forward = FeedForward(args)
        self.attention_norm = RMSNorm(args.dim, args.norm_eps)
        self.ffn_norm = RMSNorm(args.dim, args.norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, cache)
        return x + self.feed_forward(self.ffn_norm(x))


class Transformer(nn.Module):
    """The whole model. `tied`: the output matrix is the token embedding's, as llama2.c trains it."""

    def __init__(self, args: ModelArgs, tied: bool = True):
        super().__init__()
        self.args = args
        self.tied = tied
        self.tok_embeddings = nn.Embedding(args.vocab_size, args.dim)
        self.layers = nn.ModuleList(TransformerBlock(args) for _ in range(args.n_layers))
        self.norm = RMSNorm(args.dim, args.norm_eps)
        self.output = Linear(args.dim, args.vocab_size)
        if tied:
            self.output.weight = self.tok_embeddings.weight
        cos, sin = rope_table(args)
        self.register_buffer("freqs_cos", cos, persistent=False)
        self.register_buffer("freqs_sin", sin, persistent=False)

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """llama2.c's initialisation: normal(0, 0.02), but wo and w3 (its choice) smaller by 1/sqrt(2 n_layers)."""
        generator = torch.Generator().manual_seed(seed)
        for name, p in self.named_parameters():
            if p.dim() > 1:
                scaled = name.endswith(("wo.weight", "w3.weight"))
                p.normal_(0.0, 0.02 / math.sqrt(2 * self.args.n_layers) if scaled else 0.02, generator=generator)

    def hidden_states(self, tokens: Tensor, cache: Tensor | None = None) -> Tensor:
        """What the output matrix sees, (B, T, C), for tokens (B, T). The cache (see `new_cache`) gets their keys and values."""
        T, most = tokens.shape[1], self.args.max_seq_len
        assert most >= T, f"{T} tokens in a context of {most}"
        x = self.tok_embeddings(tokens)  # (B, T, C)
        cos, sin = self.freqs_cos[:T], self.freqs_sin[:T]
        for i, layer in enumerate(self.layers):
            x = layer(x, cos, sin, None if cache is None else cache[i])
        return self.norm(x)

    def forward(
        self, tokens: Tensor, targets: Tensor | None = None, n_targets: int | None = None, teacher: Teacher | None = None
    ) -> Tensor:
        """Logits (B, T, V) without targets; with targets (B, T) their mean negative log-likelihood in nats.

        Targets of -1 are ignored. `n_targets` is what the sum is divided by (default: how many there are), so
        that parts of a batch add up to the loss and the gradient of the whole. `teacher`: what another model's `as_teacher`
        says of the tokens; its predictions are learned in the targets' place.
        """
        x = self.hidden_states(tokens)
        if targets is None:
            return self.output(x)
        count = int((targets != IGNORE).sum()) if n_targets is None else n_targets
        return head_loss(x.flatten(0, 1), self.output.weight, targets.flatten(), count, teacher)

    @torch.no_grad()
    def as_teacher(self, tokens: Tensor) -> Teacher:
        """What `forward` of another model needs to learn this one's predictions for tokens (B, T)."""
        return self.hidden_states(tokens).flatten(0, 1), self.output.weight

    @torch.no_grad()
    def nll(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Negative log-likelihood of each target in nats, (B, T) float32; 0 where the target is -1."""
        x = self.hidden_states(tokens).flatten(0, 1)
        parts = [
            F.cross_entropy(self.output(h).float(), y, ignore_index=IGNORE, reduction="none")
            for h, y in zip(x.split(SCORED_ROWS), targets.flatten().split(SCORED_ROWS), strict=True)
        ]
        return torch.cat(parts).view(targets.shape)

    @torch.inference_mode()
    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int = 300,
        top_p: float = 1.0,
        seed: int = 1337,
        stop: Sequence[int] = (),
    ) -> Iterator[list[int]]:
        """Go on from prompts of any lengths: yields the tokens of one position after the other, one for each row.

        All rows stand at the same position; a row whose prompt is not yet over gets its own next token there, so
        no row is padded. A row ends behind a token of `stop` that it chose, or `max_new_tokens` behind its prompt; from then on
        its token is -1, and it is computed no further once half of the rows have ended. It starts behind the shortest prompt and
        ends with the last row or the context. temperature 0 takes the likeliest token.
        """
        lengths, most, device = [len(p) for p in prompts], self.args.max_seq_len, self.tok_embeddings.weight.device
        first, ends = min(lengths), [min(length + max_new_tokens, most) for length in lengths]
        if first < 1 or max(lengths) >= most:
            raise ValueError(
                f"the prompts have {first} to {max(lengths)} tokens; a prompt needs at least 1 "
                f"and at most {most - 1} in a context of {most}"
            )
        chances = torch.rand(max(ends) - first, len(prompts), generator=torch.Generator().manual_seed(seed)).to(device)
        rows, going = list(range(len(prompts))), {row for row, end in enumerate(ends) if end > first}  # in the cache; of these
        cache = self.new_cache(len(prompts), max(ends))
        logits = self.output(self.hidden_states(torch.tensor([p[:first] for p in prompts], device=device), cache)[:, -1])  # (B, V)
        decode = Decoder(self, cache)
        for position in range(first, max(ends)):
            picked = pick(logits.float(), temperature, top_k, top_p, chances[position - first]).tolist()
            tokens = [IGNORE] * len(prompts)
            for row, token in zip(rows, picked, strict=True):
                in_prompt = position < lengths[row]
                if row in going:
                    tokens[row] = prompts[row][position] if in_prompt else token
                    if position + 1 == ends[row] or (token in stop and not in_prompt):
                        going.remove(row)
            yield tokens
            if not going:
                return
            if 2 * len(going) <= len(rows):
                kept = torch.tensor([place for place, row in enumerate(rows) if row in going], device=device)
                rows, cache, chances = [rows[place] for place in kept], cache[:, :, kept], chances[:, kept]
                decode = Decoder(self, cache)
            logits = decode(torch.tensor([max(tokens[row], 0) for row in rows], device=device), position)

    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop: Sequence[int] = (1, 2), **sampling) -> list[list[int]]:
        """What the model adds to each prompt, without the stop token (BOS or EOS) that ended it."""
        added: list[list[int]] = [[] for _ in prompts]
        for position, tokens in enumerate(self.stream(prompts, max_new_tokens, stop=stop, **sampling), min(map(len, prompts))):
            for row, token in enumerate(tokens):
                if position >= len(prompts[row]) and token != IGNORE and token not in stop:
                    added[row].append(token)
        return added

    def new_cache(self, rows: int, length: int) -> Tensor:
        """Room for keys and values: (layers, 2, B, K, length, D)."""
        a, weight = self.args, self.tok_embeddings.weight
        return torch.zeros(a.n_layers, 2, rows, a.n_kv_heads, length, a.head_dim, dtype=weight.dtype, device=weight.device)
