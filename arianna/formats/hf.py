"""A folder as Hugging Face's transformers load it (LlamaForCausalLM), out and back in.

    config.json  generation_config.json  model.safetensors  README.md
    tokenizer.json  tokenizer_config.json  tokenizer.model

The rows of wq and wk are reordered: transformers turn the two halves of a head, llama2.c turns neighbours.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from arianna.formats.card import card
from arianna.formats.names import HF, names
from arianna.formats.options import Options, beside, computed, stored
from arianna.formats.shapes import by_rule, check_same, check_shapes, claimed, model_of, weight_shapes
from arianna.formats.vocabulary import CHAT_TEMPLATE, Piece, collapses, pieces, tokenizer_json
from arianna.ops import all_finite
from arianna.system.files import rename_aside, sync_folder, write_atomic
from model import NORM_EPS, ROPE_THETA, ModelArgs, Transformer
from tokenizer import BOS, EOS, Tokenizer

__all__ = ["beside", "check_tokenizer", "computed", "read", "stored", "to_bytes"]  # what every format has

CONFIG, WEIGHTS, SENTENCEPIECE, CARD = "config.json", "model.safetensors", "tokenizer.model", "README.md"
GENERATION, RULES, TOKENIZER = "generation_config.json", "tokenizer.json", "tokenizer_config.json"
FILES = {CONFIG, WEIGHTS, SENTENCEPIECE, CARD, GENERATION, RULES, TOKENIZER}
DTYPES = ("F32", "F16", "BF16")  # number formats of weights that can be read
MAX_JSON = 16 << 20  # bytes
INDEX = "model.safetensors.index.json"  # beside weights in several files


def to_halves(weight: Tensor, heads: int) -> Tensor:
    """A weight (heads D, C) whose heads' pairs of neighbours (2i, 2i+1) become two halves (i, i+D/2)."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def to_neighbours(weight: Tensor, heads: int) -> Tensor:
    """The inverse of `to_halves`."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def heads_of(name: str, a: ModelArgs) -> int | None:
    """The number of heads within which a weight's rows are reordered; None where they are not."""
    return {"wq": a.n_heads, "wk": a.n_kv_heads}.get(name.split(".")[-2])


# ---- out ----


def to_bytes(model: Transformer, options: Options) -> dict[str, bytes]:
    """The folder's files by name.

    Raises ValueError for a tokenizer that transformers would read differently, or that is not the model's.
    """
    tokenizer = options.tokenizer
    tokenizer.check_fits(model.args.vocab_size, "the model")
    tokens = pieces(tokenizer)
    documents = {
        CONFIG: model_config(model),
        GENERATION: generation_config(model.args),
        RULES: tokenizer_json(tokens, collapses(tokenizer)),
        TOKENIZER: tokenizer_config(tokens, model.args),
    }
    texts = {name: json.dumps(document, indent=1, ensure_ascii=False) for name, document in documents.items()}
    return {name: f"{text}\n".encode() for name, text in texts.items()} | {
        WEIGHTS: safetensors.torch.save(weights(model), {"format": "pt"}),
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
    """Where a generation stops, as in arianna/generate.py: at BOS, at EOS, at the end of the context."""
    return {"bos_token_id": BOS, "eos_token_id": [BOS, EOS], "pad_token_id": EOS, "max_length": a.max_seq_len}


def tokenizer_config(tokens: list[Piece], a: ModelArgs) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[BOS].text,
        "eos_token": tokens[EOS].text,
        "pad_token": tokens[EOS].text,
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
        weight = state[ours].cpu().float()
        out[theirs] = (to_halves(weight, heads) if heads else weight).contiguous()
    return out


def write(folder: Path, files: dict[str, bytes], check: Callable[[Path], None]) -> None:
    """Put a folder of these files at `folder`; one that is there already is kept under another name.

    `check` is shown the written folder before it takes its place; if it raises, the old one stays. A crash
    leaves the old folder, the new one, or for the moment between two renames none, never a mixture.
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

    Raises ValueError for another architecture than llama2.c computes, and for weights that are in several
    files, missing, cut off, not finite, or of other shapes than config.json asks for.
    """
    folder = Path(path)
    config = read_config(folder / CONFIG)
    args = read_args(config, folder / CONFIG)
    tied = config.get("tie_word_embeddings") is True
    state = load_weights(weights_file(folder), args, tied)
    tied = tied or torch.equal(state["output.weight"], state["tok_embeddings.weight"])
    return model_of(by_rule(args), tied, state, max_seq_len)


def read_config(path: Path) -> dict[str, Any]:
    """The contents of a config.json. Raises ValueError or OSError for what is none."""
    if path.with_name("adapter_config.json").is_file():
        raise ValueError(
            f"{path.parent} is an adapter without its base; merge both, with merge_and_unload() of peft, and "
            "give the folder of the whole model."
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; a Hugging Face model's folder has one.")
    if path.stat().st_size > MAX_JSON:
        raise ValueError(
            f"{path} has {path.stat().st_size:,} bytes; a model's config has at most {MAX_JSON:,}."
        )
    config = parse_json(path)
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not a JSON object, as a model's config is.")
    return config


def parse_json(path: Path) -> Any:
    """The value in a JSON file. Raises ValueError where there is none."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged: what should be JSON is not ({str(error)[:80]}). Use another copy of it."
        ) from None


def read_args(config: dict[str, Any], path: Path) -> ModelArgs:
    """The shape that a config.json asks for. Raises ValueError for what llama2.c's run cannot compute."""
    architecture = config.get("architectures") or ["LlamaForCausalLM"]
    if config.get("model_type") != "llama" or architecture != ["LlamaForCausalLM"]:
        raise ValueError(
            f"{path} is of a model of type {config.get('model_type')!r} ({architecture}); "
            "only LlamaForCausalLM can be read."
        )
    args = claimed(
        path,
        {"num_key_value_heads": config.get("num_attention_heads")} | config,
        dim="hidden_size",
        n_layers="num_hidden_layers",
        n_heads="num_attention_heads",
        n_kv_heads="num_key_value_heads",
        vocab_size="vocab_size",
        hidden_dim="intermediate_size",
        max_seq_len="max_position_embeddings",
    )
    # transformers 4 has these here and in rope_scaling, 5 in rope_parameters
    rope = {name: value for name, value in config.items() if name.startswith("rope_")}
    for inner in ("rope_scaling", "rope_parameters"):
        if isinstance(config.get(inner), dict):
            rope |= config[inner]
        elif config.get(inner) is not None:
            raise ValueError(f"{path} has {inner} {config[inner]!r}, which is no object.")
    rotary = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1))
    check_same(  # where an entry is missing, the value is transformers' default
        path,
        ("rms_norm_eps", config.get("rms_norm_eps", 1e-6), NORM_EPS),
        ("rope_theta", rope.get("rope_theta", ROPE_THETA), ROPE_THETA),
        ("rope_type", rope.get("rope_type", rope.get("type", "default")), "default"),
        ("partial_rotary_factor", rotary, 1),
        ("head_dim", config.get("head_dim") or args.head_dim, args.head_dim),
        ("hidden_act", config.get("hidden_act", "silu"), "silu"),
        ("attention_bias", config.get("attention_bias", False), False),
        ("mlp_bias", config.get("mlp_bias", False), False),
        ("quantization_config", config.get("quantization_config"), None),
    )
    return args


def weights_file(folder: Path) -> Path:
    """The one file with all weights. Raises ValueError where there is none, saying what there is."""
    path = folder / WEIGHTS
    if path.is_file():
        return path
    if (folder / INDEX).exists():
        raise ValueError(
            f"{folder} has its weights in several files; "
            "save it with `save_pretrained(..., max_shard_size='100GB')` in one."
        )
    if (folder / "pytorch_model.bin").exists():
        raise ValueError(
            f"{folder} has pytorch_model.bin, which is not opened; "
            f"{WEIGHTS} is needed, as `save_pretrained` writes it."
        )
    raise FileNotFoundError(f"{path} is missing; the weights are needed there.")


def load_weights(path: Path, a: ModelArgs, tied: bool) -> dict[str, Tensor]:
    """All weights by llama2.c's names, float32. Shapes are checked before memory is taken."""
    shapes, theirs = weight_shapes(a), names(a, tied, HF)
    try:
        with safetensors.safe_open(path, "pt") as file:
            check_header(path, file, {theirs[name]: shapes[name] for name in theirs}, tied)
            weights = {name: file.get_tensor(theirs[name]).float() for name in theirs}
    except safetensors.SafetensorError:
        raise ValueError(
            f"{path} is cut off, damaged or no safetensors file ({path.stat().st_size:,} bytes). "
            "Use another copy of it."
        ) from None
    for name, weight in weights.items():
        if not all_finite(weight):
            raise ValueError(f"{path}: {theirs[name]} holds NaN or infinity, so the model cannot be used.")
    for name in weights:
        if heads := heads_of(name, a):
            weights[name] = to_neighbours(weights[name], heads)
    return weights


def check_header(path: Path, file: Any, wanted: dict[str, tuple[int, ...]], tied: bool) -> None:
    """Raise ValueError unless an open safetensors file has the wanted tensors, in types that are read."""
    there = file.keys()
    tensors = {name: file.get_slice(name) for name in there}
    unused = [name for name in tensors if name.endswith("rotary_emb.inv_freq")]  # they follow from the shape
    unused += ["lm_head.weight"] if tied else []
    used = {name: tensor for name, tensor in tensors.items() if name not in unused}
    shapes = {name: tuple(tensor.get_shape()) for name, tensor in used.items()}
    check_shapes(path, shapes, wanted, "its config.json asks")
    for name, tensor in used.items():
        if tensor.get_dtype() not in DTYPES:
            raise ValueError(f"{path}: {name} holds {tensor.get_dtype()}; {', '.join(DTYPES)} can be read.")


def check_tokenizer(path: Path, tokenizer: Tokenizer) -> None:
    """Raise ValueError if the folder carries a tokenizer, and it is another than `tokenizer`."""
    folder, file = path, path / "tokenizer.json"
    if not file.is_file():
        return
    rules = parse_json(file)
    try:
        vocab = dict(rules["model"]["vocab"])
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"{file} is damaged: it has no vocabulary. Use another copy of it.") from None
    other = sum(vocab.get(tokenizer.sp.id_to_piece(i)) != i for i in range(tokenizer.vocab_size))
    if other:
        right = folder / SENTENCEPIECE
        raise ValueError(
            f"{tokenizer.path} does not belong to {folder}: {other} of its {tokenizer.vocab_size} tokens "
            f"are others in {file.name}. "
            f"Use the tokenizer it was trained with{f' ({right})' if right.is_file() else ''}."
        )
