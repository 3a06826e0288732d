"""A folder as Hugging Face's transformers load it (LlamaForCausalLM), out and back in.

    config.json  generation_config.json  model.safetensors  README.md
    tokenizer.json  tokenizer_config.json  tokenizer.model

The rows of wq and wk are reordered: transformers turn the two halves of a head where llama2.c turns neighbours.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arianna.formats import safetensors
from arianna.formats.card import card
from arianna.formats.llama2c import by_rule
from arianna.formats.names import HF, check_names, names
from arianna.formats.options import Options, beside, computed, stored
from arianna.formats.shapes import plausible, weight_shapes
from arianna.formats.vocabulary import CHAT_TEMPLATE, MADE_BY, Piece, pieces, tokenizer_json
from arianna.system.files import rename_aside, sync_folder, write_atomic
from model import NORM_EPS, ROPE_THETA, ModelArgs, Transformer
from tokenizer import BOS, EOS, Tokenizer

__all__ = ["beside", "check_tokenizer", "computed", "read", "stored", "to_bytes"]  # what every format has

CONFIG, WEIGHTS, SENTENCEPIECE, CARD = "config.json", "model.safetensors", "tokenizer.model", "README.md"
FILES = {CONFIG, WEIGHTS, SENTENCEPIECE, CARD, "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
INDEX = "model.safetensors.index.json"  # beside weights in several files


def to_halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of each head from pairs of neighbours (2i, 2i+1) to two halves (i, i+D/2). weight: (heads D, C)."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def to_neighbours(weight: Tensor, heads: int) -> Tensor:
    """The inverse of `to_halves`."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def heads_of(name: str, a: ModelArgs) -> int | None:
    """How many heads a weight's rows are to be reordered in; None for the others."""
    return {"wq": a.n_heads, "wk": a.n_kv_heads}.get(name.split(".")[-2])


# ---- out ----


def to_bytes(model: Transformer, options: Options) -> dict[str, bytes]:
    """The folder's files by name.

    Raises ValueError for a tokenizer that transformers would read differently, or of another vocabulary than the model's.
    """
    tokenizer = options.tokenizer
    tokenizer.check_fits(model.args.vocab_size, "the model")
    found = pieces(tokenizer)
    documents = {
        CONFIG: model_config(model),
        "generation_config.json": generation_config(model.args),
        "tokenizer.json": tokenizer_json(found),
        "tokenizer_config.json": tokenizer_config(found, model.args),
    }
    return {name: f"{json.dumps(d, indent=1, ensure_ascii=False)}\n".encode() for name, d in documents.items()} | {
        WEIGHTS: safetensors.to_bytes(weights(model), made_by=MADE_BY),
        SENTENCEPIECE: tokenizer.path.read_bytes(),
        CARD: card(model, options.report).encode(),
    }


def model_config(model: Transformer) -> dict[str, Any]:
    a = model.args
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": a.dim,
        "intermediate_size": a.hidden,
        "num_hidden_layers": a.n_layers,
        "num_attention_heads": a.n_heads,
        "num_key_value_heads": a.n_kv_heads,
        "head_dim": a.head_dim,
        "vocab_size": a.vocab_size,
        "max_position_embeddings": a.max_seq_len,
        "rms_norm_eps": a.norm_eps,
        "rope_theta": ROPE_THETA,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": model.tied,
        "bos_token_id": BOS,
        "eos_token_id": [BOS, EOS],  # an answer ends with BOS, as in llama2.c's run
        "torch_dtype": "float32",
    }


def generation_config(a: ModelArgs) -> dict[str, Any]:
    """Stops where arianna/generate.py does: at BOS, at EOS, at the end of the context."""
    return {"bos_token_id": BOS, "eos_token_id": [BOS, EOS], "pad_token_id": EOS, "max_length": a.max_seq_len}


def tokenizer_config(found: list[Piece], a: ModelArgs) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": found[BOS].text,
        "eos_token": found[EOS].text,
        "pad_token": found[EOS].text,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": a.max_seq_len,
        "padding_side": "left",
        "model_input_names": ["input_ids", "attention_mask"],
        "chat_template": CHAT_TEMPLATE,
    }


def weights(model: Transformer) -> dict[str, Tensor]:
    """The weights as transformers name and order them."""
    state, out = model.state_dict(), {}
    for ours, theirs in names(model.args, model.tied, HF).items():
        heads = heads_of(ours, model.args)
        out[theirs] = to_halves(state[ours], heads) if heads else state[ours]
    return out


def write(folder: Path, files: dict[str, bytes], check: Callable[[Path], None]) -> None:
    """Put a folder of these files at `folder`; one that is there already is kept under another name.

    `check` is shown the written folder before it takes its place; what it raises keeps the old one. A crash leaves the old
    folder, the new one, or for the moment between two renames none, never a mixture.
    """
    fresh, aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp"), None
    fresh.mkdir()
    try:
        for name, data in files.items():
            write_atomic(fresh / name, data)
        check(fresh)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        aside = rename_aside(folder)
        fresh.rename(folder)
        sync_folder(folder.parent)
    except OSError:
        if aside is not None and not folder.exists():
            aside.rename(folder)
        raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    if aside is not None:
        print(f"the old {folder} is now {aside.name}", flush=True)


# ---- in ----


def read(path: str | Path, max_seq_len: int | None = None) -> Transformer:
    """The model of a folder, in float32 on the CPU, with another context where `max_seq_len` gives one.

    Raises ValueError for another architecture than llama2.c computes, and for weights that are sharded, missing, cut off, of
    other shapes than config.json asks for or not finite.
    """
    folder = Path(path)
    found = read_config(folder / CONFIG)
    args = read_args(found, folder / CONFIG)
    tied = found.get("tie_word_embeddings") is True
    loaded = load_weights(weights_file(folder), args, tied)
    tied = tied or torch.equal(loaded["output.weight"], loaded["tok_embeddings.weight"])
    context = args.max_seq_len if max_seq_len is None else max_seq_len
    model = Transformer(dataclasses.replace(by_rule(args), max_seq_len=context), tied)
    model.load_state_dict(loaded, strict=not tied)
    return model


def read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; a Hugging Face model's folder has one.")
    if path.stat().st_size > safetensors.MAX_JSON:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; a model's config has at most {safetensors.MAX_JSON:,}.")
    found = safetensors.parse_json(path.read_bytes(), path)
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not a JSON object, as a model's config is.")
    return found


def read_args(found: dict[str, Any], path: Path) -> ModelArgs:
    """The shape that a config.json asks for. Raises ValueError for what llama2.c's programs would compute differently."""
    architecture = found.get("architectures") or ["LlamaForCausalLM"]
    if found.get("model_type") != "llama" or architecture != ["LlamaForCausalLM"]:
        raise ValueError(f"{path} is of a model of type {found.get('model_type')!r} ({architecture}); only LlamaForCausalLM can be read.")
    heads = found.get("num_attention_heads")
    shape = (found.get("hidden_size"), found.get("num_hidden_layers"), heads, found.get("num_key_value_heads", heads))
    sizes = (found.get("vocab_size"), found.get("intermediate_size"), found.get("max_position_embeddings"))
    try:
        args = plausible(ModelArgs(*shape, sizes[0], sizes[1], max_seq_len=sizes[2]))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}.") from None
    rope = {
        k: v for k, v in found.items() if k.startswith("rope_")
    }  # transformers 4 has them here and in rope_scaling, 5 in rope_parameters
    for inner in ("rope_scaling", "rope_parameters"):
        if isinstance(found.get(inner), dict):
            rope |= found[inner]
        elif found.get(inner) is not None:
            raise ValueError(f"{path} has {inner} {found[inner]!r}, which is no object.")
    for name, value, needed in (
        ("rms_norm_eps", found.get("rms_norm_eps", 1e-6), NORM_EPS),  # what is not there is transformers' default
        ("rope_theta", rope.get("rope_theta", ROPE_THETA), ROPE_THETA),
        ("rope_type", rope.get("rope_type", rope.get("type", "default")), "default"),
        ("partial_rotary_factor", rope.get("partial_rotary_factor", found.get("partial_rotary_factor", 1)), 1),
        ("head_dim", found.get("head_dim") or args.head_dim, args.head_dim),
        ("hidden_act", found.get("hidden_act", "silu"), "silu"),
        ("attention_bias", found.get("attention_bias", False), False),
        ("mlp_bias", found.get("mlp_bias", False), False),
        ("quantization_config", found.get("quantization_config"), None),
    ):
        if value != needed:
            raise ValueError(f"{path} has {name} {value!r}; llama2.c's programs compute with {needed!r}, so the model cannot be used.")
    return args


def weights_file(folder: Path) -> Path:
    """The one file with all weights. Raises ValueError where there is none, saying what there is."""
    path = folder / WEIGHTS
    if path.is_file():
        return path
    if (folder / INDEX).exists():
        raise ValueError(f"{folder} has its weights in several files; save it with `save_pretrained(..., max_shard_size='100GB')` in one.")
    if (folder / "pytorch_model.bin").exists():
        raise ValueError(f"{folder} has pytorch_model.bin, which is not opened; {WEIGHTS} is needed, as `save_pretrained` writes it.")
    raise FileNotFoundError(f"{path} is missing; the weights are needed there.")


def load_weights(path: Path, a: ModelArgs, tied: bool) -> dict[str, Tensor]:
    """All weights by their names here, float32. Names and shapes are checked before memory is taken."""
    header = safetensors.read_header(path)
    unused = {"lm_head.weight"} if tied else set()
    there = {name for name in header.entries if name not in unused and not name.endswith("rotary_emb.inv_freq")}  # follows from the shape
    wanted, shapes = names(a, tied, HF), weight_shapes(a)
    check_names(there, set(wanted.values()), path)
    for ours, theirs in wanted.items():
        shape = tuple(header.entries[theirs]["shape"])
        if shape != shapes[ours]:
            raise ValueError(f"{path}: {theirs} is {shape}, but its config.json asks for {shapes[ours]}.")
    loaded = {ours: safetensors.load(path, header, theirs) for ours, theirs in wanted.items()}
    return {name: to_neighbours(w, heads) if (heads := heads_of(name, a)) else w for name, w in loaded.items()}


def check_tokenizer(path: Path, tokenizer: Tokenizer) -> None:
    """Raise ValueError if the folder carries a tokenizer, and it is another than `tokenizer`."""
    folder, file = path, path / "tokenizer.json"
    if not file.is_file():
        return
    rules = safetensors.parse_json(file.read_bytes(), file)
    try:
        vocab = dict(rules["model"]["vocab"])
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"{file} is damaged: it has no vocabulary. Use another copy of it.") from None
    other = sum(vocab.get(tokenizer.sp.id_to_piece(i)) != i for i in range(tokenizer.vocab_size))
    if other:
        raise ValueError(
            f"{tokenizer.path} does not belong to {folder}: {other} of its {tokenizer.vocab_size} tokens are others in {file.name}. "
            f"Use the tokenizer it was trained with{f' ({folder / SENTENCEPIECE})' if (folder / SENTENCEPIECE).is_file() else ''}."
        )
