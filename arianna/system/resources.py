"""Disk, memory and the permission to write, compared with what is needed. Standard library only.

Each check raises ValueError with one sentence and leaves nothing behind. The needs are a caller's estimates.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

SPARE_DISK = 20 << 20  # bytes for logs, the report and the file system itself


def check_writable(folder: Path) -> None:
    """Raise ValueError unless files can be made in a folder, or in the nearest one above it that is there."""
    there = nearest(folder)
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be written ({there}: {error.strerror}); mend that, or give another --out_dir."
        ) from None


def check_disk(folder: Path, needed: int) -> None:
    """Raise ValueError unless `needed` more bytes can be written in a folder."""
    needed, free = needed + SPARE_DISK, shutil.disk_usage(nearest(folder)).free
    if free < needed:
        raise ValueError(
            f"{folder} would grow by {megabytes(needed)}, but its disk has {megabytes(free)} left; "
            "make room there, give another --out_dir, or fewer evaluations with a larger --eval_interval."
        )


def check_memory(needed: int) -> None:
    """Raise ValueError if the system says that `needed` bytes of memory cannot be had."""
    left = memory_left()
    if left is not None and left < needed:
        raise ValueError(
            f"training would take about {megabytes(needed)} of memory, but {megabytes(left)} can be had; "
            "close other programs, or give a smaller --batch_size."
        )


def check_file(path: Path, size: int) -> None:
    """Raise ValueError if a file that is to be read whole has more bytes than there is memory."""
    left = memory_left()
    if left is not None and left < size:
        raise ValueError(
            f"{path} has {megabytes(size)}, but only {megabytes(left)} of memory can be had; "
            "use another file."
        )


def nearest(folder: Path) -> Path:
    """The folder, or the first above it that is there. A link that leads nowhere is there, but no folder."""
    folder = folder.absolute()
    return next(p for p in (folder, *folder.parents) if p.exists() or p.is_symlink())


def memory_left() -> int | None:
    """Bytes that the system and its control group still allow this process; on macOS all the memory."""
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = sum(int(fields[name].split()[0]) << 10 for name in ("MemAvailable", "SwapFree"))
        return min(free, group_left())
    except (OSError, KeyError, ValueError):
        pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else -1
        return pages * os.sysconf("SC_PAGE_SIZE") if pages > 0 else None


def group_left() -> float:
    """Bytes left in this process's control group (version 2), infinite without one."""
    try:
        name = Path("/proc/self/cgroup").read_text().strip().split("::")[-1].lstrip("/")
        group = Path("/sys/fs/cgroup") / name
        most, used = (group / "memory.max").read_text().strip(), int((group / "memory.current").read_text())
        fields = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int(most) - used + int(fields["file"])  # the cache of files can be given back
    except (OSError, KeyError, ValueError):  # also "max": no limit
        return float("inf")


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
