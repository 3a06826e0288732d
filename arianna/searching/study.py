"""The study of a search in one of Optuna's storages: opened, checked, presets in line, dead trials buried.

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
from arianna.system.visible import one_line

NAME = "innerarianna"
FORMAT = 1  # the version of our attributes of a study
# what databases say where another process makes a table, or its first row, at the same moment
JUST_MADE = ("already exists", "unique constraint", "duplicate")
JOURNAL = "journal.log"
FIRST = 2  # folds after which a trial may be given up
PRUNE = 0.3  # p-value: a trial that is worse than the best on both of them is
TRIES = 20  # half a second apart, while another process makes a database's tables
DONE = (TrialState.COMPLETE, TrialState.PRUNED)


class Lock:
    """A journal's lock that the system releases at any death, and that leaves only whole lines behind.

    Half a line, of a writer that was killed or whose disk was full, would make the next one unreadable too.
    """

    def __init__(self, path: Path):
        self.path, self.held = path, filelock.FileLock(f"{path}.lock")

    def acquire(self) -> bool:
        self.held.acquire()
        with open(self.path, "rb") as file:
            if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) and file.read() != b"\n":
                os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        self.held.release()


class Journal(JournalFileBackend):
    """Optuna's journal, with the file's name in the error of a failed write."""

    def __init__(self, path: Path):
        super().__init__(str(path), Lock(path))
        self.path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        try:
            super().append_logs(logs)
        except OSError as error:
            raise OSError(error.errno, f"{self.path} could not be written: {error.strerror}") from error


def storage_of(url: str | None, folder: Path) -> Any:
    """Optuna's storage by a database's URL, redis://, or a journal's path, by default one in the folder."""
    if url is not None and "://" in url:
        redis = url.startswith("redis")
        storages = optuna.storages
        return storages.JournalStorage(JournalRedisBackend(url)) if redis else database(url)
    path = folder / JOURNAL if url is None else Path(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    return optuna.storages.JournalStorage(Journal(path))


def database(url: str) -> Any:
    """A database's storage, asked again for a while where another process is just making its tables."""
    for _ in range(TRIES):
        try:
            return optuna.storages.RDBStorage(url)
        except Exception as error:  # each database has its own
            if not any(sign in str(error).casefold() for sign in JUST_MADE):
                raise
            time.sleep(0.5)
    return optuna.storages.RDBStorage(url)


def open_study(url: str | None, folder: Path, facts: Mapping[str, Any]) -> optuna.Study:
    """The study of a storage, made if there is none. Raises UsageError if it cannot be had or is another's.

    `facts`: values by names fit for a sentence; trials can be compared only where all are the same.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    where = url or str(folder / JOURNAL)
    try:
        with quiet():
            sampler = optuna.samplers.TPESampler(multivariate=True, constant_liar=True)
            pruner = optuna.pruners.WilcoxonPruner(p_threshold=PRUNE, n_startup_steps=FIRST)
            options = {"storage": storage_of(url, folder), "sampler": sampler, "pruner": pruner}
            study = optuna.create_study(study_name=NAME, load_if_exists=True, **options)
            if not study.user_attrs and not study.get_trials(deepcopy=False):
                study.set_user_attr("search", {"format": FORMAT, "facts": dict(facts)})
            stored = study.user_attrs.get("search", {})
    except Exception as error:  # each storage has its own
        lacks_package = isinstance(error, ImportError)
        remedy = "pip install what it names, or leave it out" if lacks_package else "give another, or none"
        raise UsageError(
            f"the search's storage {where} cannot be used ({one_line(error)}); {remedy}."
        ) from None
    anew = "begin anew with --fresh (the old folder is kept), or give another --out_dir"
    mend = "give another --storage" if url else anew
    if (made := stored.get("format")) != FORMAT:
        raise UsageError(
            f"{where} holds a study of {f'format {made}' if made else 'another program'}; "
            f"this program writes format {FORMAT}: {mend}."
        )
    if changed := [name for name in facts if stored["facts"].get(name) != facts[name]]:
        raise UsageError(f"{where} holds a search with other {', other '.join(changed)}: {mend}.")
    return study


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A context without Optuna's warnings of what is experimental in it, and scipy's of few folds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def reachable(url: str | None) -> Iterator[None]:
    """A context in which a storage's error becomes an OSError with one sentence, since the machine fails."""
    try:
        with quiet():
            yield
    except storage_errors() as error:
        where = f"the search's storage{f' {url}' if url else ''}"
        raise OSError(
            f"{where} failed: {one_line(error)}. The same command goes on from what it holds."
        ) from error


def storage_errors() -> tuple[type[Exception], ...]:
    """The errors of the storages whose packages are loaded, Optuna's own and a damaged journal's included."""
    kinds: list[type[Exception]] = [optuna.exceptions.OptunaError, json.JSONDecodeError]
    for module, name in (("sqlalchemy.exc", "SQLAlchemyError"), ("redis.exceptions", "RedisError")):
        if module in sys.modules:
            kinds.append(getattr(sys.modules[module], name))
    return tuple(kinds)


# ---- trials ----


def summary_of(trial: FrozenTrial) -> dict[str, Any]:
    """The summary that a worker stored beside a trial's value; empty if there is none."""
    return trial.user_attrs.get("told", {})


def trials_of(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=states or None)


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The complete trial with the lowest value, the first of equals."""
    return min(trials_of(study, TrialState.COMPLETE), key=lambda t: (t.value, t.number), default=None)


def bury(study: optuna.Study, place: str) -> None:
    """Fail the trials that a search, or one worker of it, left behind. Those of other machines are theirs."""
    for trial in trials_of(study, TrialState.RUNNING):
        if f"{trial.user_attrs.get('place')} ".startswith(f"{place} "):
            end(study, trial.number, TrialState.FAIL)


def end(study: optuna.Study, number: int, state: TrialState, value: float | None = None) -> bool:
    """Tell the study how a trial ended; False if it has ended already."""
    try:
        study.tell(number, value, state)
        return True
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
        return False


def line_up(study: optuna.Study, name: str, params: Mapping[str, Any]) -> None:
    """Put a preset in line unless it was tried, is being tried or stands in line already."""
    if all(t.user_attrs.get("preset") != name or t.state == TrialState.FAIL for t in trials_of(study)):
        study.enqueue_trial(dict(params), user_attrs={"preset": name})
