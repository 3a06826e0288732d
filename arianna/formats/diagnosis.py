"""Advice on a file that was given as a checkpoint and is none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch.save began a file before 1.6


def what_it_is(path: Path) -> str | None:
    """Half a sentence on a file by its first bytes, and what to do; None if they tell nothing."""
    with open(path, "rb") as file:
        head = file.read(512)
    if head.startswith(OLD_TORCH):
        again = f"torch.save(torch.load({path.name!r}, weights_only=True), 'new.pt')"
        return (
            "is in torch's old format, whose damage cannot be seen; "
            f"save it again, where you trust it, with {again}"
        )
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 27:
        return "is a safetensors file, which holds no shape; give its folder, in which config.json lies"
    if head.startswith(b"GGUF"):
        return "is a GGUF file; give it a name that ends in .gguf"
    if head.startswith(b"\x80"):
        return (
            "is a pickle and no archive of torch.save; nothing in it was run. Save the model with torch.save"
        )
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS in place of the file; fetch it with git lfs pull"
    if not head:
        return "is empty; fetch or copy it again"
    if b"<unk>" in head[:40]:
        return "is a tokenizer, which belongs behind --tokenizer; a model is needed"
    if head.lstrip()[:1] in (b"{", b"[") and b'"' in head:
        return "holds JSON and no model; conversations belong behind --conversations"
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "is a web page; download the file itself"
    if is_text(head):
        return "is a text and no model"
    return None


def is_text(head: bytes) -> bool:
    return not head.translate(None, bytes(range(32, 127)) + b"\t\r\n")


def of_contents(contents: Any) -> str:
    """Half a sentence on contents of torch.save that lack a checkpoint's entries, and what to do."""
    is_mapping = isinstance(contents, Mapping) and bool(contents)
    if is_mapping and all(isinstance(value, Tensor) for value in contents.values()):
        if any(str(name).startswith(("model.", "lm_head.")) for name in contents):
            return (
                "is the state_dict of a Hugging Face model; "
                "give its folder, with config.json and model.safetensors"
            )
        return (
            "is a state_dict: weights without their model's shape; "
            "save {'model': state_dict, 'model_args': {...}} as llama2.c's train.py does"
        )
    return "is not a llama2.c checkpoint: it needs the entries 'model' and 'model_args'"


def of_refused(name: str) -> str:
    """Half a sentence on a file whose unpickling asked for more than tensors and plain values."""
    if name.startswith("numpy"):
        return (
            f"holds numbers of numpy ({name}), which are not opened; save it again with plain ones, "
            "such as best_val_loss=float(best_val_loss)"
        )
    return (
        f"is not a checkpoint of tensors and plain values: it asks for {name}. Nothing in it was run; "
        "save its weights, numbers and texts alone"
    )
