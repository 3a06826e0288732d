"""What a run computes on: device, number format, threads, and the processes that share the work."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from arianna.system.config import UsageError


def pick_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device '{name}' cannot be used here ({str(error).splitlines()[0]}); leave --device out or give cpu.") from None


def steady_threads() -> None:
    """Make threaded arithmetic repeat itself: MKL's vector functions choose their code at the first call, which two threads
    may race for. One small call on one thread settles it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    x = torch.rand(64) + 0.5
    for function in (torch.exp, torch.log, torch.sin, torch.cos, torch.sqrt, torch.tanh, torch.erf, torch.rsqrt):
        function(x)
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Precision:
    """Which numbers the matrix products are computed in."""

    device: torch.device
    dtype: torch.dtype

    def __call__(self):
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)


def pick_precision(device: str, dtype: str) -> Precision:
    """The device by its name or `auto`; bfloat16 on cuda and float32 on a CPU where dtype is `auto`."""
    picked = pick_device(device)
    by_device = torch.bfloat16 if picked.type == "cuda" else torch.float32
    return Precision(picked, {"auto": by_device, "float32": torch.float32, "bfloat16": torch.bfloat16}[dtype])


class Team:
    """This process's place among those of the run: rank 0 speaks, saves and evaluates, all compute."""

    def __init__(self, device: str, rank: int | None = None, size: int | None = None):
        """Join through what torchrun put into the environment (RANK, WORLD_SIZE, LOCAL_RANK), unless they are given."""
        self.rank = int(os.environ.get("RANK", 0)) if rank is None else rank
        self.size = int(os.environ.get("WORLD_SIZE", 1)) if size is None else size
        self.device = str(pick_device(device))
        if self.size > 1:
            if self.device == "cuda":
                self.device = f"cuda:{os.environ['LOCAL_RANK']}"
                torch.cuda.set_device(self.device)
            dist.init_process_group("nccl" if self.device.startswith("cuda") else "gloo")

    @classmethod
    def alone(cls) -> Team:
        """A team of this process, whatever the environment says."""
        return cls("cpu", rank=0, size=1)

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, rows: Tensor, backwards: bool = False) -> Tensor:
        """This process's rows of a part of a batch: every size-th. Two parts whose rows make up a multiple of the processes
        give each of them as many, if one of both is shared backwards: from the last process to the first."""
        return rows[(self.size - 1 - self.rank if backwards else self.rank) :: self.size]

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, the same to the last bit in each."""
        if self.size == 1:
            return
        tensors = list(tensors)
        flat = torch.cat([t.flatten() for t in tensors])
        dist.all_reduce(flat)
        for tensor, summed in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(summed.view_as(tensor))

    def any(self, asked: bool) -> bool:
        """Whether at least one process asks for something: all get the same answer."""
        flag = torch.tensor(float(asked), device=self.device if self.size > 1 else "cpu")
        self.add_up([flag])
        return bool(flag > 0)

    def wait(self) -> None:
        """Until all have come here."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        if self.size > 1:
            dist.destroy_process_group()
