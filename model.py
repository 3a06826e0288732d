"""The Llama architecture as llama2.c trains and runs it: the forward pass and the loss, from top to bottom.

Generation is in arianna/generate.py, the fast forms of products, norms and the loss are in arianna/ops.py.
Tensor names are llama2.c's (tok_embeddings, layers.0.attention.wq, ...), because files depend on them.
Shapes: B rows, T tokens, C = dim, H heads, K key/value heads, D = C / H, V = vocab_size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arianna import fused
from arianna.ops import Teacher, causal_attention, head_loss, product, rms_norm
from tokenizer import IGNORE

NORM_EPS = 1e-5  # fixed in llama2.c's run.c, as is ROPE_THETA: a model with others would talk otherwise in C
ROPE_THETA = 10000.0
SCORED_TOKENS = 256  # tokens whose logits `nll` holds at a time: 4 MB with a vocabulary of 4096


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
        for name in ("dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "max_seq_len"):
            self.check_positive(name)
        if self.hidden_dim is not None:
            self.check_positive("hidden_dim")
        if not isinstance(self.norm_eps, float) or not 0 < self.norm_eps < 1:
            raise ValueError(f"norm_eps is {self.norm_eps!r}; it must be a number between 0 and 1")
        if self.dim % self.n_heads or self.head_dim % 2 or self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"dim {self.dim}, n_heads {self.n_heads}, n_kv_heads {self.n_kv_heads} do not fit together: "
                "dim / n_heads must be an even number, and n_heads a multiple of n_kv_heads"
            )

    def check_positive(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    @property
    def hidden(self) -> int:
        """Width of the feed-forward layer, by llama2.c's rule unless given."""
        if self.hidden_dim is not None:
            return self.hidden_dim
        return -(-(8 * self.dim // 3) // self.multiple_of) * self.multiple_of


def rope_table(args: ModelArgs) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles, each (max_seq_len, D/2) (Su et al. 2021, arXiv 2104.09864)."""
    # in float32, whatever the weights are in: bfloat16 has 8 bits and cannot tell position 256 from 257.
    # On the CPU, also for a model on the meta device: arithmetic there imports torch's compiler in a second
    pairs = torch.arange(0, args.head_dim, 2, device="cpu").float()
    positions = torch.arange(args.max_seq_len, device="cpu").float()
    angles = torch.outer(positions, 1.0 / ROPE_THETA ** (pairs / args.head_dim))
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of neighbours of the head dimension by its position's angle.

    x is (B, T, H, D). Neighbours are x[2i] and x[2i+1], as in llama2.c; Hugging Face turns x[i] with
    x[i + D/2], so formats/hf.py moves rows of wq and wk.
    """
    pairs = x.float().unflatten(-1, (-1, 2))  # (B, T, H, D/2, 2)
    cos, sin = cos[:, None, :], sin[:, None, :]  # (T, 1, D/2)
    if torch.compiler.is_compiling():  # the compiler fuses real arithmetic, but has none for complex numbers
        real, imaginary = pairs.unbind(-1)
        turned = torch.stack((real * cos - imaginary * sin, real * sin + imaginary * cos), -1)
    else:  # complex numbers take one pass over the data, real ones six
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.complex(cos, sin))
    return turned.flatten(-2).to(x.dtype)


class RMSNorm(nn.Module):
    """A norm that divides by the root mean square and has a weight, but no mean and no bias."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class Linear(nn.Linear):
    """A matrix without a bias, as all of Llama's are."""

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
        # three matrices and not one: the gradient of one had to be put together by a copy, 7% of a step
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
        if q.device.type == "cpu" and q.dtype == torch.bfloat16:  # torch's own takes a third of a step there
            out = causal_attention(q, k, v)
        else:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.grouped)
        return self.wo(out.transpose(1, 2).reshape(B, T, -1))


class FeedForward(nn.Module):
    """A feed-forward network with a gate: SwiGLU (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, args: ModelArgs):
        super().__init__()
        self.w1 = Linear(args.dim, args.hidden)
        self.w2 = Linear(args.hidden, args.dim)
        self.w3 = Linear(args.dim, args.hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class TransformerBlock(nn.Module):
    """One layer: attention, then the feed-forward network, each behind a norm and added to what comes in."""

    def __init__(self, args: ModelArgs):
        super().__init__()
        self.attention = Attention(args)
        self.feed_forward = FeedForward(args)
        self.attention_norm = RMSNorm(args.dim, args.norm_eps)
        self.ffn_norm = RMSNorm(args.dim, args.norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Tensor | None = None) -> Tensor:
        if cache is None and fused.applies(x):
            return self.forward_fused(x, torch.complex(cos, sin))
        x = x + self.attention(self.attention_norm(x), cos, sin, cache)
        return x + self.feed_forward(self.ffn_norm(x))

    def forward_fused(self, x: Tensor, angles: Tensor) -> Tensor:
        """The same by hand, for a step in bfloat16 on a CPU: in 0.73 of the time."""
        a, f, norms = self.attention, self.feed_forward, (self.attention_norm, self.ffn_norm)
        weights = [matrix.weight for matrix in (a.wq, a.wk, a.wv, a.wo)]
        x = fused.AttentionHalf.apply(x, angles, a.head_dim, norms[0].eps, norms[0].weight, *weights)
        weights = [matrix.weight for matrix in (f.w1, f.w2, f.w3)]
        return fused.FeedForwardHalf.apply(x, norms[1].eps, norms[1].weight, *weights)


class Transformer(nn.Module):
    """The whole model. `tied`: the output matrix is that of the token embedding, as llama2.c trains it."""

    def __init__(self, args: ModelArgs, tied: bool = True):
        super().__init__()
        self.args = args
        self.tied = tied
        # zeros until a file or init_weights fills them: nn.Embedding would draw normal numbers for nothing
        embeddings = torch.zeros(args.vocab_size, args.dim)
        self.tok_embeddings = nn.Embedding.from_pretrained(embeddings, freeze=False)
        self.layers = nn.ModuleList(TransformerBlock(args) for _ in range(args.n_layers))
        self.norm = RMSNorm(args.dim, args.norm_eps)
        self.output = Linear(args.dim, args.vocab_size)
        if tied:  # a second matrix of 4096 tokens would be a sixth of the parameters of a model this small
            self.output.weight = self.tok_embeddings.weight
        cos, sin = rope_table(args)
        self.register_buffer("freqs_cos", cos, persistent=False)  # not in files: they follow from the shape
        self.register_buffer("freqs_sin", sin, persistent=False)

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Draw new weights as llama2.c does: normal(0, 0.02), but wo and w3 smaller by 1/sqrt(2 n_layers)."""
        generator = torch.Generator().manual_seed(seed)  # its own: nobody else's random numbers change
        small = 0.02 / math.sqrt(2 * self.args.n_layers)  # each layer adds twice to x, whose size then stays
        for name, p in self.named_parameters():
            if p.dim() > 1:
                scaled = name.endswith(("wo.weight", "w3.weight"))  # GPT-2 scales w2, llama2.c w3
                p.normal_(0.0, small if scaled else 0.02, generator=generator)

    def hidden_states(self, tokens: Tensor, cache: Tensor | None = None) -> Tensor:
        """The input of the output matrix, (B, T, C), for tokens (B, T).

        A cache (layers, 2, B, K, S, D) gets their keys and values in its first T places.
        """
        T, most = tokens.shape[1], self.args.max_seq_len
        assert most >= T, f"{T} tokens in a context of {most}"
        x = self.tok_embeddings(tokens)  # (B, T, C)
        cos, sin = self.freqs_cos[:T], self.freqs_sin[:T]
        for i, layer in enumerate(self.layers):
            x = layer(x, cos, sin, None if cache is None else cache[i])
        return self.norm(x)

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        n_targets: int | None = None,
        teacher: Teacher | None = None,
    ) -> Tensor:
        """Logits (B, T, V) without targets; with targets (B, T) their mean negative log-likelihood in nats.

        Targets of -1 are ignored. `n_targets` divides the sum (default: how many targets there are), so that
        the parts of a batch add up to the loss and the gradient of the whole. With a `teacher` (another
        model's `as_teacher` of the same tokens) its predictions are learned in the targets' place.
        """
        x = self.hidden_states(tokens)
        if targets is None:
            return self.output(x)
        count = int((targets != IGNORE).sum()) if n_targets is None else n_targets
        loss = fused.head_loss if fused.applies(x) else head_loss
        return loss(x.flatten(0, 1), self.output.weight, targets.flatten(), count, teacher)

    @torch.no_grad()
    def as_teacher(self, tokens: Tensor) -> Teacher:
        """This model's predictions for tokens (B, T), as `forward` of another model takes them to learn."""
        return self.hidden_states(tokens).flatten(0, 1), self.output.weight

    @torch.no_grad()
    def nll(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Negative log-likelihood of each target in nats, (B, T) float32; 0 where the target is -1."""
        x = self.hidden_states(tokens).flatten(0, 1)
        losses = [
            F.cross_entropy(self.output(h).float(), y, ignore_index=IGNORE, reduction="none")
            for h, y in zip(x.split(SCORED_TOKENS), targets.flatten().split(SCORED_TOKENS), strict=True)
        ]
        return torch.cat(losses).view(targets.shape)
