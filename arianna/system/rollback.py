"""Undo after a refusal: a folder that was moved away comes back, new files and folders are deleted."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from arianna.system.files import rename_aside

REFUSALS = (ValueError, SystemExit)  # a sentence of ours, and a child's exit code after one


@contextlib.contextmanager
def rolled_back(
    folder: Path, fresh: bool, others: tuple[Path, ...] = (), saved: str = ""
) -> Iterator[Path | None]:
    """A context in which a refusal changes nothing; gives the name of the folder that was moved away, if any.

    A folder that was not there is deleted again, one that was moved away to begin anew (`fresh`) comes back,
    and new files among `others` are deleted. A new folder in which a file matches `saved` stays, whatever
    happens. A signal or a crash leaves what was begun: the same command goes on with it.
    """
    begun = [path for path in others if not path.exists()]
    aside = rename_aside(folder) if fresh else None
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield aside
    except REFUSALS:
        if new and not (saved and any(folder.glob(saved))):
            undo(new, begun)
            if aside is not None:
                aside.rename(folder)
        raise


def undo(new: list[Path], begun: list[Path]) -> None:
    """Delete a new folder, the new ones above it that are empty then, and new files."""
    for path in begun:
        path.unlink(missing_ok=True)
    shutil.rmtree(new[0], ignore_errors=True)
    with contextlib.suppress(OSError):  # something else was put there in the meantime
        for parent in new[1:]:
            parent.rmdir()
