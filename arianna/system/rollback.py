"""A folder that is as it was after a refusal: what was moved away comes back, what was begun is deleted."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from arianna.system.files import rename_aside

REFUSALS = (ValueError, SystemExit)  # a sentence of ours, and a child's exit code after one


@contextlib.contextmanager
def rolled_back(
    folder: Path, fresh: bool, others: tuple[Path, ...] = (), kept: str = ""
) -> Iterator[Path | None]:
    """Within, a refusal changes nothing: a folder that was not there is deleted again, and one that was moved
    away to begin anew (`fresh`) comes back; of `others`, files that were not there are deleted. Gives the
    moved folder's name.

    A new folder in which a file matches `kept` stays, whatever happens. A signal or a crash leaves what was
    begun: the same command goes on with it.
    """
    begun = [path for path in others if not path.exists()]
    aside = rename_aside(folder) if fresh else None
    is_new = not folder.exists()
    try:
        yield aside
    except REFUSALS:
        if is_new and not (kept and any(folder.glob(kept))):
            undo(folder, aside, begun)
        raise


def undo(folder: Path, aside: Path | None, begun: list[Path]) -> None:
    for path in begun:
        path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    if aside is not None:
        aside.rename(folder)
