"""safetensors files, out and back in: eight bytes, a JSON header and the numbers.

Written and read here, in a few lines, rather than by one more package to install.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

MAX_JSON = 16 << 20  # bytes
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # those that are read


class Header(NamedTuple):
    """What a file holds: its tensors' entries by name, words about it, and where the numbers begin."""

    entries: dict[str, dict[str, Any]]  # "dtype", "shape", "data_offsets"
    metadata: dict[str, str]
    start: int


def to_bytes(tensors: dict[str, Tensor], **metadata: str) -> bytes:
    """A file of float32 tensors."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    arrays = {name: tensor.cpu().numpy().astype("<f4") for name, tensor in tensors.items()}
    end = 0
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the numbers begin at a multiple of eight
    return struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in arrays.values())


def read_header(path: Path) -> Header:
    """Raises ValueError unless the header is whole and its tensors lie one behind the other up to the file's end."""
    size = path.stat().st_size
    with open(path, "rb") as f:
        length = int.from_bytes(f.read(8), "little")
        if not 2 <= length <= min(size - 8, MAX_JSON):
            raise ValueError(f"{path} is cut off or no safetensors file: it has {size:,} bytes and claims a header of {length:,}.")
        entries = parse_json(f.read(length), path)
    try:
        metadata = entries.pop("__metadata__", {})
        end = end_of_numbers(entries, path)
    except (TypeError, KeyError, AttributeError, ValueError):
        raise ValueError(f"{path} is damaged: its header does not describe tensors one behind the other. Use another copy of it.") from None
    if end != size - 8 - length:
        raise ValueError(f"{path} has {size:,} bytes; its header asks for {8 + length + end:,}. It is cut off or damaged.")
    return Header(entries, metadata if isinstance(metadata, dict) else {}, 8 + length)


def end_of_numbers(entries: dict[str, dict[str, Any]], path: Path) -> int:
    """How many bytes the tensors take. Raises ValueError and others for entries that are not as they should be."""
    end = 0
    for entry in sorted(entries.values(), key=lambda e: e["data_offsets"]):
        begin, stop = entry["data_offsets"]
        dtype, shape = DTYPES.get(entry["dtype"]), tuple(entry["shape"])
        if begin != end or stop < begin or (dtype is not None and stop - begin != math.prod(shape) * dtype.itemsize):
            raise ValueError
        end = stop
    return end


def parse_json(data: bytes, path: Path) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: what should be JSON is not ({str(error)[:80]}). Use another copy of it.") from None


def load(path: Path, header: Header, name: str) -> Tensor:
    """One tensor in float32. Raises ValueError for another type of number than DTYPES, or one that is not finite."""
    entry = header.entries[name]
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"{path}: {name} holds {entry['dtype']}; {', '.join(DTYPES)} can be read.")
    begin, end = entry["data_offsets"]
    raw = torch.from_numpy(np.fromfile(path, np.uint8, end - begin, offset=header.start + begin))
    tensor = raw.view(DTYPES[entry["dtype"]]).view(entry["shape"]).float()
    if not tensor.isfinite().all():
        raise ValueError(f"{path}: {name} holds NaN or infinity, so the model cannot be used.")
    return tensor
