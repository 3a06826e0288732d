"""Checkpoints that a stranger could send: each must be refused, in a sentence, before it does anything or
takes much memory."""

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from helpers import build

from arianna.formats import checkpoint
from model import ModelArgs

SHAPE = ModelArgs(dim=32, n_layers=1, n_heads=4, vocab_size=64, max_seq_len=32)
NORM = "norm.weight"


class Calls:
    """Unpickled without care, it calls a function."""

    def __init__(self, function: Callable, *arguments):
        self.made_by = function, arguments

    def __reduce__(self):
        return self.made_by


def checkpoints(folder: Path, trap: Path) -> list[Path]:
    """The files. Those that hold a command would make `trap`."""
    folder.mkdir()
    command = Calls(os.mkdir, str(trap))
    for name, entries in {"command": {"run": command}, "command in the model": {"model": command}}.items():
        torch.save(packed() | entries, folder / f"{name}.pt")
    torch.save(
        packed() | {"run": command}, folder / "command, legacy.pt", _use_new_zipfile_serialization=False
    )
    torch.save(packed() | {"run": Calls(eval, f"__import__('os').mkdir({str(trap)!r})")}, folder / "eval.pt")
    (folder / "command, raw pickle.pt").write_bytes(pickle.dumps(packed() | {"run": command}))
    (folder / "command, pickle of another protocol.pt").write_bytes(pickle.dumps(command, protocol=0))
    for name, change in CHANGES.items():
        found = packed()
        change(found)
        torch.save(found, folder / f"{name}.pt")
    for name, make in ARCHIVES.items():
        make(folder / f"{name}.pt")
    return sorted(folder.iterdir())


def packed() -> dict:
    return checkpoint.pack(build(SHAPE), iter_num=1)


def whole() -> bytes:
    return checkpoint.serialized(packed())


def state_of_a_run() -> dict:
    parameters = list(build(SHAPE).parameters())
    parameters = [p for p in parameters if p.dim() > 1] + [p for p in parameters if p.dim() < 2]
    moments = {
        i: {"step": torch.tensor(1.0), "exp_avg": p.detach() * 0, "exp_avg_sq": p.detach() * 0}
        for i, p in enumerate(parameters)
    }
    return {"optimizer": {"state": moments, "param_groups": []}}


def sparse_tensor(size: int) -> torch.Tensor:
    return torch.sparse_coo_tensor([[0]], [1.0], (size,), check_invariants=True)


def with_moments(change: Callable[[dict], object]) -> Callable[[dict], None]:
    def changed(found: dict) -> None:
        found |= state_of_a_run()
        change(found["optimizer"]["state"])

    return changed


A_RUN = {"config": {}, "inputs": {}, "best_step": 1, "seconds": 0.0}
CHANGES: dict[str, Callable[[dict], object]] = {
    "a key too few": lambda c: c["model"].pop(NORM),
    "a key too many": lambda c: c["model"].update(more=torch.ones(3)),
    "another shape": lambda c: c["model"].update({NORM: torch.ones(33)}),
    "whole numbers": lambda c: c["model"].update({NORM: torch.ones(32, dtype=torch.int64)}),
    "NaN": lambda c: c["model"][NORM].fill_(torch.nan),
    "a number repeated a billion times": lambda c: c["model"].update({NORM: torch.zeros(1).expand(1 << 30)}),
    "a sparse tensor of a huge shape": lambda c: c["model"].update({NORM: sparse_tensor(1 << 40)}),
    "a huge width": lambda c: c["model_args"].update(dim=1 << 40),
    "a huge context": lambda c: c["model_args"].update(max_seq_len=1 << 20, n_heads=1, n_kv_heads=1),
    "a million layers": lambda c: c["model_args"].update(n_layers=1 << 20),
    "text for a number": lambda c: c["model_args"].update(vocab_size="64"),
    "a run that is a list": lambda c: c.update(run=[1, 2]),
    "a run without settings": lambda c: c.update(run={"format": 1}),
    "a number format that there is not": lambda c: c.update(run=A_RUN | {"dtype": "int8"}),
    "a step that is text": lambda c: c.update(iter_num="1"),
    "moments of another shape": with_moments(lambda m: m[0].update(exp_avg=torch.ones(3))),
    "moments that are NaN": with_moments(lambda m: m[0]["exp_avg_sq"].fill_(torch.nan)),
    "moments that are text": with_moments(lambda m: m[0].update(exp_avg="none")),
    "a terabyte of zeros asked for": lambda c: c.update(run=Calls(bytearray, 1 << 40)),
}


def rewritten(path: Path, method: int, extra: bytes = b"") -> None:
    """The archive with other compression, and one more entry."""
    with zipfile.ZipFile(io.BytesIO(whole())) as source, zipfile.ZipFile(path, "w", method) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
        if extra:
            target.writestr("archive/data/99", extra)


def claiming(path: Path) -> None:
    """Storages of 2^40 numbers where the archive has 32."""
    with zipfile.ZipFile(io.BytesIO(whole())) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("data.pkl"):
                assert b"K\x20" in data, "32 as a pickle has it"
                data = data.replace(b"K\x20", b"\x8a\x06" + struct.pack("<Q", 1 << 40)[:6])
            target.writestr(name, data)


def many_entries(path: Path) -> None:
    """A list of entries that is far larger than the entries."""
    entry = b"PK\x01\x02" + bytes(42)
    count = 600_000
    path.write_bytes(
        whole()
        + entry * count
        + b"PK\x05\x06"
        + struct.pack("<4H2LH", 0, 0, 65535, 65535, len(entry) * count, 0, 0)
    )


def sparse(path: Path) -> None:
    """A file of eight terabytes, almost all of it a hole."""
    with open(path, "wb") as f:
        f.truncate(1 << 43)
        f.seek(1 << 43)
        f.write(whole())


ARCHIVES: dict[str, Callable[[Path], object]] = {
    "compressed": lambda path: rewritten(path, zipfile.ZIP_DEFLATED),
    "a zip bomb": lambda path: rewritten(path, zipfile.ZIP_DEFLATED, bytes(300 << 20)),
    "a storage of a trillion numbers": claiming,
    "a list of 600,000 entries": many_entries,
    "eight terabytes": sparse,
    "no archive at all": lambda path: path.write_bytes(b"\x80\x02}q\x00."),
    "an empty archive": lambda path: path.write_bytes(b"PK\x05\x06" + bytes(18)),
}

REASONS = {  # where another guard would refuse the file too, later and for more memory
    "compressed": "has compressed",
    "a zip bomb": "has compressed",
    "a list of 600,000 entries": "has too many entries; torch.save writes fewer",
}
