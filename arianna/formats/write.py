"""Write a model; the file takes its place only once it has been read back and is the model, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arianna.formats import hf
from arianna.formats.options import Options
from arianna.formats.table import module
from arianna.ops import one_thread
from arianna.system.files import write_atomic
from model import Transformer


class UnfaithfulError(OSError):
    """A written file does not give the model back."""


def write_model(model: Transformer, out: str | Path, format: str = "llama2c", **options: Any) -> Transformer:
    """Write a float32 model in a format of formats.table; `options` are those of formats.options.Options.

    The file is read back before it takes its place: its weights and logits are the model's, rounded where the
    format rounds, bit for bit. Returns the model as the programs that read the format compute it: the given
    one, or a rounded copy. Raises ValueError for what the format cannot hold, OSError for a failed write, and
    UnfaithfulError (an OSError) if it reads back another model; the old file stays then.
    """
    made_by, settings, out = module(format), Options(**options), Path(out)
    stored = made_by.stored(model, settings)
    put(out, made_by.to_bytes(model, settings), lambda fresh: verify(stored, format, settings, fresh, out))
    for name, data in made_by.beside(out.name, model, settings).items():
        write_atomic(out.with_name(name), data)
    return made_by.computed(stored, settings)


def put(out: Path, content: bytes | dict[str, bytes], check: Callable[[Path], None]) -> None:
    """Write a file, or a folder of files."""
    if isinstance(content, bytes):
        write_atomic(out, content, check)
    else:
        hf.write(out, content, check)


def update_model(model: Transformer, out: str | Path, format: str = "llama2c", **options: Any) -> bool:
    """Call write_model unless all files are there already, byte for byte. Returns whether it wrote."""
    made_by, settings, out = module(format), Options(**options), Path(out)
    content = made_by.to_bytes(model, settings)
    whole = {"": content} if isinstance(content, bytes) else content
    files = {out / name: data for name, data in whole.items()}
    files |= {out.with_name(name): data for name, data in made_by.beside(out.name, model, settings).items()}
    if all(path.is_file() and path.read_bytes() == data for path, data in files.items()):
        return False
    write_model(model, out, format, **options)
    return True


def verify(model: Transformer, format: str, options: Options, fresh: Path, out: Path) -> None:
    """Read the written file back. Raises UnfaithfulError, naming it `out`, if it does not hold the model."""
    try:
        again = module(format).read(fresh)
        if options.tokenizer is not None:
            module(format).check_tokenizer(fresh, options.tokenizer)
    except ValueError as error:
        raise UnfaithfulError(f"{out} is not written: read back, it is no such file ({error})") from None
    reason = how_they_differ(model, again.to(model.tok_embeddings.weight.device))
    if reason is not None:
        raise UnfaithfulError(
            f"{out} is not written: read back, {reason}. What was there before is untouched."
        )


def how_they_differ(model: Transformer, again: Transformer) -> str | None:
    """The difference of two models in a phrase; None if contexts, weights and logits are equal to the bit."""
    if again.args.max_seq_len != model.args.max_seq_len:
        return f"its context is {again.args.max_seq_len}, the model's is {model.args.max_seq_len}"
    theirs = again.state_dict()
    for name, weight in model.state_dict().items():
        if not torch.equal(weight, theirs[name]):
            return f"its {name} is not the model's"
    apart = largest_difference(model, again)
    return f"its logits differ from the model's by up to {apart:.3g}" if apart else None


def rounding(model: Transformer, computed: Transformer) -> str:
    """The end of a sentence: how far the logits of a written model, as computed, are from the model's."""
    if computed is model:
        return ", its logits are the model's"
    difference, deviation = largest_difference(model, computed), logits_over_context(model).std()
    return (
        f"; computed as its programs do, its logits differ from the model's by up to {difference:.3g} "
        f"(their standard deviation is {deviation:.3g})"
    )


def largest_difference(model: Transformer, other: Transformer) -> float:
    """The largest difference between two models' logits over the whole context; NaN if one is NaN."""
    return float((logits_over_context(model) - logits_over_context(other)).abs().max())


def logits_over_context(model: Transformer) -> Tensor:
    """Logits (1, T, V) of always the same tokens, by one thread: two may round the same sum differently."""
    a = model.args
    tokens = torch.arange(a.max_seq_len, device=model.tok_embeddings.weight.device)[None] * 997 % a.vocab_size
    with one_thread(), torch.inference_mode():
        return model(tokens)
