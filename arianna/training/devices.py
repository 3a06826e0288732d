"""The means that a run computes with: device, number format, threads, and the processes of a group."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from arianna.ops import one_thread
from arianna.system.config import UsageError

BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # the first two are Intel's and AMD's, the last arm64's
# what a device needs, by the first word of its name; torch's own sentences are about its operators
MISSING = {
    "mps": (torch.backends.mps.is_available, "a Mac with Apple's own processor"),
    "cuda": (torch.cuda.is_available, "an NVIDIA GPU and a torch built for it"),
}


def pick_device(name: str) -> torch.device:
    """The device of a name; `auto` is CUDA where there is one. Raises UsageError if it cannot be used."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    is_there, needed = MISSING.get(name.split(":")[0], (lambda: True, ""))
    reason = "" if is_there() else f"it needs {needed}"
    try:
        if not reason:
            # reading the number back: a device that only describes tensors ("meta") cannot give it
            torch.zeros(1, device=name).item()
            return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError):
        reason = "torch has no such device on this machine"
    raise UsageError(f"device '{name}' cannot be used here ({reason}); leave --device out, or give cpu.")


def steady_threads() -> None:
    """Make threaded arithmetic repeat itself.

    MKL's vector functions choose their code at the first call, which two threads may race for: 2 of 10
    identical runs differed. One small call of each on one thread settles it.
    """
    with one_thread():
        x = torch.rand(64) + 0.5
        for name in ("exp", "log", "sin", "cos", "sqrt", "tanh", "erf", "rsqrt"):
            getattr(torch, name)(x)


@dataclass(frozen=True)
class Precision:
    """The device of a run and the number format of its matrix products; a call gives a context with both."""

    device: torch.device
    dtype: torch.dtype

    def __call__(self) -> contextlib.AbstractContextManager:
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    @property
    def name(self) -> str:
        return str(self.dtype).removeprefix("torch.")


def pick_precision(device: str, dtype: str) -> Precision:
    """Device and number format by their names; dtype `auto` is bfloat16 on CUDA and float32 elsewhere."""
    picked = pick_device(device)
    by_device = torch.bfloat16 if picked.type == "cuda" else torch.float32
    return Precision(picked, {"auto": by_device, "float32": torch.float32, "bfloat16": torch.bfloat16}[dtype])


def has_bfloat16(device: torch.device, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether a device computes with bfloat16: a CPU by what Linux says, any other as if it did.

    Without, torch still takes bfloat16 products, seven to fifty times slower than float32 ones.
    """
    try:
        return device.type != "cpu" or not BFLOAT16_FLAGS.isdisjoint(cpuinfo.read_text().split())
    except OSError:  # another system
        return False


class ProcessGroup:
    """The processes of a run and this one's place in it: rank 0 prints, evaluates and saves; all compute."""

    def __init__(self, device: str, rank: int | None = None, size: int | None = None):
        """Join by the environment that torchrun sets (RANK, WORLD_SIZE, LOCAL_RANK), or by rank and size."""
        self.rank = int(os.environ.get("RANK", 0)) if rank is None else rank
        self.size = int(os.environ.get("WORLD_SIZE", 1)) if size is None else size
        self.device = str(pick_device(device))
        if self.size > 1:
            if self.device == "cuda":
                self.device = f"cuda:{os.environ['LOCAL_RANK']}"
                torch.cuda.set_device(self.device)
            dist.init_process_group("nccl" if self.device.startswith("cuda") else "gloo")

    @classmethod
    def alone(cls) -> ProcessGroup:
        """A group of this process, whatever the environment says."""
        return cls("cpu", rank=0, size=1)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def shard(self, rows: Tensor, backwards: bool = False) -> Tensor:
        """This process's rows of a micro batch: every size-th.

        Two micro batches whose rows make up a multiple of the processes give each of them as many, if one of
        both is dealt backwards: from the last process to the first.
        """
        return rows[(self.size - 1 - self.rank if backwards else self.rank) :: self.size]

    def all_reduce(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, the same to the last bit in each."""
        if self.size == 1:
            return
        tensors = list(tensors)
        flat = torch.cat([t.flatten() for t in tensors])  # one message instead of one a tensor
        dist.all_reduce(flat)
        for tensor, summed in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(summed.view_as(tensor))

    def any(self, asked: bool) -> bool:
        """Whether at least one process says yes; all get the same answer."""
        flag = torch.tensor(float(asked), device=self.device if self.size > 1 else "cpu")
        self.all_reduce([flag])
        return bool(flag > 0)

    def barrier(self) -> None:
        """Wait until all processes have come here."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        if self.size > 1:
            dist.destroy_process_group()
