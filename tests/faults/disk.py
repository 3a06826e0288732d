"""A disk that keeps for certain only what it was asked to keep: what a power cut may leave of the files
written through it.

The model is harsher than the usual file systems. Until a file has been synced, each page written since may be
there or not (zeros then). Until a folder has been synced, each change of its names since may be there or not,
in any combination.
"""

import builtins
import io
import os
import random
import stat
from pathlib import Path

from arianna.system import files
from arianna.training import log

PAGE = 512


class Recorded(io.FileIO):
    """A file that tells the disk what is written."""

    def __init__(self, disk: "Disk", path: Path, mode: str):
        super().__init__(path, mode.replace("b", ""))
        self.disk, self.number = disk, disk.number_of(path, mode)
        disk.open[self.fileno()] = self.number

    def write(self, data) -> int:
        self.disk.ops.append(("write", self.number, bytes(data)))
        return super().write(data)

    def close(self) -> None:
        if not self.closed:
            self.disk.open.pop(self.fileno(), None)
        super().close()


class Disk:
    """Records what is written into one folder, which it also writes. `deaf` to 'file' or 'folder': its syncs
    are not heard."""

    def __init__(self, folder: Path, monkeypatch, deaf: str = ""):
        self.folder, self.deaf = folder, deaf
        self.ops: list[tuple] = []
        self.open: dict[int, int] = {}  # descriptor: number of the file
        self.names: dict[str, int] = {}
        self.old = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
        self.contents = [*self.old.values()]  # by number, as they were at the start
        self.names = {name: number for number, name in enumerate(self.old)}
        self.start = dict(self.names)
        self.real = {name: getattr(os, name) for name in ("fsync", "replace", "unlink")}
        for name in self.real:
            monkeypatch.setattr(os, name, getattr(self, name))
        for module in (files, log):
            monkeypatch.setattr(module, "open", self.opened, raising=False)

    def number_of(self, path: Path, mode: str) -> int:
        if path.name not in self.names or "w" in mode:
            self.contents.append(b"")
            self.names[path.name] = len(self.contents) - 1
            self.ops.append(("name", path.name, self.names[path.name]))
        return self.names[path.name]

    def opened(self, path, mode: str = "r", *rest, **options):
        if Path(path).parent != self.folder or "b" not in mode or "r" in mode:
            return builtins.open(path, mode, *rest, **options)
        return Recorded(self, Path(path), mode)

    def fsync(self, descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        if self.deaf != ("folder" if is_folder else "file"):
            self.ops.append(("sync folder",) if is_folder else ("sync", self.open.get(descriptor)))
        self.real["fsync"](descriptor)

    def replace(self, source, target) -> None:
        self.real["replace"](source, target)
        if Path(source).parent == self.folder:
            number = self.names.pop(Path(source).name)
            self.names[Path(target).name] = number
            self.ops.append(("move", Path(source).name, Path(target).name, number))

    def unlink(self, path, *rest, **options) -> None:
        self.real["unlink"](path, *rest, **options)
        if Path(path).parent == self.folder and self.names.pop(Path(path).name, None) is not None:
            self.ops.append(("unlink", Path(path).name))

    def after_cut(self, done: int, keep) -> dict[str, bytes]:
        """Name and bytes of all files when the power fails after `done` of the operations. What is not
        certain stays where `keep()`."""
        ops = self.ops[:done]
        synced = max((i for i, op in enumerate(ops) if op[0] == "sync folder"), default=-1)
        names = dict(self.start)
        for i, (kind, *what) in enumerate(ops):
            if kind in ("name", "move", "unlink") and (i < synced or keep()):
                names = renamed(names, kind, what)
        return {name: self.bytes_of(number, ops, keep) for name, number in names.items()}

    def bytes_of(self, number: int, ops: list[tuple], keep) -> bytes:
        synced = max((i for i, op in enumerate(ops) if op == ("sync", number)), default=-1)
        data = bytearray(self.contents[number])
        for i, op in enumerate(ops):
            if op[:2] == ("write", number):
                pages = [op[2][j : j + PAGE] for j in range(0, len(op[2]), PAGE)]
                kept = [page if i < synced or keep() else bytes(len(page)) for page in pages]
                while (
                    kept and i > synced and not any(kept[-1])
                ):  # nor is the file longer for what was never written
                    kept.pop()
                data += b"".join(kept)
        return bytes(data)


def renamed(names: dict[str, int], kind: str, what: list) -> dict[str, int]:
    if kind == "name":
        return names | {what[0]: what[1]}
    without = {name: number for name, number in names.items() if name != what[0]}
    return without | {what[1]: what[2]} if kind == "move" else without


def cuts(disk: Disk, randomly: int):
    """Pairs (operations done, files): after each prefix with nothing and with all of what is uncertain, then
    at random."""
    for done in range(len(disk.ops) + 1):
        yield done, disk.after_cut(done, lambda: False)
        yield done, disk.after_cut(done, lambda: True)
    for seed in range(randomly):
        chosen = random.Random(seed)
        done, likely = chosen.randint(0, len(disk.ops)), chosen.random()
        yield done, disk.after_cut(done, lambda chosen=chosen, likely=likely: chosen.random() < likely)
