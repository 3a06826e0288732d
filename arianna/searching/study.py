"""The study of a search in one of Optuna's storages: opened, checked, its presets in line, its dead trials buried.

Imports Optuna: whoever imports this has seen that it is installed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import optuna
from optuna.storages.journal import JournalFileBackend, JournalRedisBackend
from optuna.trial import FrozenTrial, TrialState

from arianna.system.config import UsageError

NAME = "innerarianna"
FORMAT = 1  # of what we keep in a study
JOURNAL = "journal.log"
STARTUP = 10  # trials drawn at random before TPE has seen enough
PRUNE = 0.3  # p-value: a trial that is worse than the best on its first two folds is given up
LATE = 10  # times as long as a trial should take, and another machine's is taken for dead
DONE = (TrialState.COMPLETE, TrialState.PRUNED)


class Journal(JournalFileBackend):
    """Optuna's journal with a lock that the system releases at any death, and with whole lines alone."""

    def __init__(self, path: Path):
        super().__init__(str(path))
        self.path, self.held = path, filelock.FileLock(f"{path}.lock")

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add lines. Raises OSError, naming the file, and leaves it as it was, if they cannot be written."""
        data = "".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in logs).encode()
        with self.held:
            size = whole_lines(self.path)
            try:
                with open(self.path, "r+b", buffering=0) as file:
                    file.truncate(size)
                    file.seek(size)
                    if file.write(data) < len(data):
                        file.truncate(size)
                        raise OSError(28, os.strerror(28))
                    os.fsync(file.fileno())
            except OSError as error:
                with contextlib.suppress(OSError):
                    os.truncate(self.path, size)
                raise OSError(
                    error.errno, f"{self.path} could not be written ({len(data):,} bytes): {error.strerror}"
                ) from error


def whole_lines(path: Path) -> int:
    """Bytes of a file up to its last whole line's end: a writer that was killed may have left half a line."""
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 4096)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0


def storage_of(url: str | None, folder: Path) -> Any:
    """Optuna's storage of a URL: a database, redis://, or a journal's path; by default the journal in a folder."""
    if url is not None and url.startswith("redis"):
        return optuna.storages.JournalStorage(JournalRedisBackend(url))
    if url is not None and "://" in url and not url.startswith("journal://"):
        return optuna.storages.RDBStorage(url)
    path = folder / JOURNAL if url is None else Path(url.removeprefix("journal://"))
    path.parent.mkdir(parents=True, exist_ok=True)
    return optuna.storages.JournalStorage(Journal(path))


def open_study(url: str | None, folder: Path, facts: Mapping[str, Any]) -> optuna.Study:
    """The study of a storage, made if there is none. Raises UsageError if it cannot be had, or is of other data.

    `facts`: what must be the same for a trial's value to mean the same, by what it is called in a sentence.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    where = url or str(folder / JOURNAL)
    try:
        sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP, multivariate=True, constant_liar=True)
        with quiet():
            pruner = optuna.pruners.WilcoxonPruner(p_threshold=PRUNE, n_startup_steps=2)
            settings = {"storage": storage_of(url, folder), "sampler": sampler, "pruner": pruner}
            study = optuna.create_study(
                study_name=NAME, direction="minimize", load_if_exists=True, **settings
            )
            kept = study.user_attrs
            if not kept and not study.get_trials(deepcopy=False):
                study.set_user_attr("search", {"format": FORMAT, "facts": dict(facts)})
                kept = study.user_attrs
    except Exception as error:  # each storage has its own
        raise UsageError(
            f"the search's storage {where} cannot be used: {one_line(error)}. {hint(error)}"
        ) from None
    check(kept, facts, where, url)
    return study


def check(attributes: Mapping[str, Any], facts: Mapping[str, Any], where: str, url: str | None) -> None:
    """Raise UsageError unless a study is of this version and of these facts."""
    kept = attributes.get("search", {})
    mend = (
        "give another --storage"
        if url
        else "begin anew with --fresh (the old folder is kept), or give another --out_dir"
    )
    if (made := kept.get("format")) != FORMAT:
        raise UsageError(
            f"{where} holds a study of {f'format {made}' if made else 'another program'}; "
            f"this program writes format {FORMAT}: {mend}."
        )
    then = kept.get("facts", {})
    changed = [name for name in facts if then.get(name) != facts[name]]
    if changed:
        raise UsageError(f"{where} holds a search with other {', other '.join(changed)}: {mend}.")


def one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (text[:300] or type(error).__name__).rstrip(".")


def hint(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "Install what it names with pip, or leave --storage out."
    return "Mend that, give another --storage, or leave it out."


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within, Optuna's words about what is experimental in it, and scipy's about few folds, are not shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def reachable(url: str | None) -> Iterator[None]:
    """Within, what a storage raises becomes an OSError with one sentence: by now it is the machine that fails."""
    try:
        with quiet():
            yield
    except storage_errors() as error:
        raise OSError(
            f"the search's storage{f' {url}' if url else ''} failed: {one_line(error)}. "
            "What it holds is kept; the same command goes on from here."
        ) from error


def storage_errors() -> tuple[type[Exception], ...]:
    """What the storages raise whose packages are loaded, Optuna's own and a damaged journal's among it."""
    found: list[type[Exception]] = [optuna.exceptions.OptunaError, json.JSONDecodeError]
    for module, name in (("sqlalchemy.exc", "SQLAlchemyError"), ("redis.exceptions", "RedisError")):
        if module in sys.modules:
            found.append(getattr(sys.modules[module], name))
    return tuple(found)


# ---- trials ----


def told(trial: FrozenTrial) -> dict[str, Any]:
    """What was kept of a trial beside its value."""
    return trial.user_attrs.get("told", {})


def trials_of(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=states or None)


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The complete trial with the lowest value, the first of equals."""
    return min(trials_of(study, TrialState.COMPLETE), key=lambda t: (t.value, t.number), default=None)


def bury(study: optuna.Study, place: str) -> int:
    """Fail the trials that nobody is at any more: those this place left behind, and others that are far too late."""
    buried = 0
    for trial in trials_of(study, TrialState.RUNNING):
        late = (
            trial.datetime_start is not None
            and time.time() - trial.datetime_start.timestamp()
            > trial.user_attrs.get("expected", 360.0) * LATE + 600
        )
        if trial.user_attrs.get("place") == place or late:
            buried += fail(study, trial.number)
    return buried


def fail(study: optuna.Study, number: int) -> bool:
    """Give a trial up; False if it has ended meanwhile."""
    try:
        study.tell(number, state=TrialState.FAIL)
        return True
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
        return False


def line_up(study: optuna.Study, name: str, params: Mapping[str, Any]) -> None:
    """Put a preset in line unless it was tried, is being tried or stands in line already."""
    known = [t for t in trials_of(study) if t.user_attrs.get("preset") == name and t.state != TrialState.FAIL]
    if not known:
        study.enqueue_trial(dict(params), user_attrs={"preset": name})
