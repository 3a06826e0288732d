"""The names of a model's weights in other programs."""

from __future__ import annotations

from arianna.formats.shapes import weight_shapes
from model import ModelArgs

HF = {
    "tok_embeddings": "model.embed_tokens",
    "layers": "model.layers",
    "attention_norm": "input_layernorm",
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "norm": "model.norm",
    "output": "lm_head",
}
GGUF = {
    "tok_embeddings": "token_embd",
    "layers": "blk",
    "attention_norm": "attn_norm",
    "attention.wq": "attn_q",
    "attention.wk": "attn_k",
    "attention.wv": "attn_v",
    "attention.wo": "attn_output",
    "ffn_norm": "ffn_norm",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
    "norm": "output_norm",
    "output": "output",
}


def names(a: ModelArgs, tied: bool, table: dict[str, str]) -> dict[str, str]:
    """Each weight's name in one of the tables by its name here; tied models have no output."""
    return {name: renamed(name, table) for name in weight_shapes(a) if not (tied and name == "output.weight")}


def renamed(name: str, table: dict[str, str]) -> str:
    kind = name.removesuffix(".weight")
    if kind.startswith("layers."):
        _, number, kind = kind.split(".", 2)
        return f"{table['layers']}.{number}.{table[kind]}.weight"
    return f"{table[kind]}.weight"
