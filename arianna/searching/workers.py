"""Processes that do a search's units, one thread each, and ask for the next: started once, so that torch is.

with Pool(command, 4) as pool:
    pool.give(pool.idle()[0], "name", unit)
    name, answer = pool.wait(seconds=1)
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Hashable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from arianna import ROOT
from arianna.searching.job import Job, Unit, from_line
from arianna.system import processes

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
DEATHS = 2  # of workers at the same unit, after which it is the unit's fault
WORD = 20.0  # seconds that a worker has to end by itself


class Worker:
    """A process and what it is at."""

    def __init__(self, command: list[str], answers: queue.Queue):
        self.process = started(command)
        self.name: Hashable | None = None
        self.unit: Unit | None = None
        self.since = 0.0
        threading.Thread(target=self.listen, args=(answers,), daemon=True).start()

    def listen(self, answers: queue.Queue) -> None:
        """Put each answer into the queue, and None once the process is gone."""
        for line in self.process.stdout:
            answers.put((self, line))
        answers.put((self, None))

    def tell(self, name: Hashable, unit: Unit) -> None:
        self.name, self.unit, self.since = name, unit, time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # it has died: `listen` notices
            self.process.stdin.write(f"{json.dumps(asdict(unit))}\n".encode())
            self.process.stdin.flush()

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.terminate()
        try:
            self.process.wait(WORD)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def started(command: list[str]) -> subprocess.Popen[bytes]:
    """A process in a group of its own, which a Ctrl-C reaches through us alone, and which ends when we do."""
    group = {"process_group": 0} if os.name == "posix" else {}
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, **ONE_THREAD, processes.PARENT: str(os.getpid()), "PYTHONPATH": paths}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, **group)


class Pool:
    """Workers, as many as asked for. One that dies is replaced, and its unit done again."""

    def __init__(self, command: list[str], number: int):
        self.command, self.answers = command, queue.Queue()
        self.workers = [Worker(command, self.answers) for _ in range(number)]
        self.deaths: dict[Hashable, int] = {}
        self.busy_seconds = 0.0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self.workers:
            worker.process.terminate()  # all at once, then one after the other
        for worker in self.workers:
            worker.end()

    def idle(self) -> list[Worker]:
        return [w for w in self.workers if w.name is None]

    def at_work(self) -> list[Hashable]:
        return [w.name for w in self.workers if w.name is not None]

    def give(self, worker: Worker, name: Hashable, unit: Unit) -> None:
        worker.tell(name, unit)

    def wait(self, seconds: float) -> tuple[Hashable, dict[str, Any]] | None:
        """The next answer, with the name it was given under; None if there is none in time.

        Raises OSError for a unit that ends its workers.
        """
        try:
            worker, line = self.answers.get(timeout=seconds)
        except queue.Empty:
            return None
        if worker not in self.workers:
            return None  # one that was let go
        if line is None:
            self.replace(worker)
            return None
        name, worker.name = worker.name, None
        self.busy_seconds += time.monotonic() - worker.since
        return name, json.loads(line)

    def replace(self, worker: Worker) -> None:
        code = worker.process.wait()
        self.deaths[worker.name] = self.deaths.get(worker.name, 0) + 1
        if self.deaths[worker.name] >= DEATHS:
            raise OSError(
                f"a process of the search ended with code {code}, {DEATHS} times at the same work ({why(code)}). "
                "The same command goes on from here; fewer workers need less memory (--workers)."
            )
        fresh = Worker(self.command, self.answers)
        self.workers[self.workers.index(worker)] = fresh
        worker.process.stdin.close()
        worker.process.stdout.close()
        if worker.name is not None:
            fresh.tell(worker.name, worker.unit)

    def let_go(self) -> None:
        """End the workers that are at work, and start others in their place: what they were at is lost."""
        for place, worker in enumerate(self.workers):
            if worker.name is not None:
                self.workers[place] = Worker(self.command, self.answers)
                self.busy_seconds += time.monotonic() - worker.since
                worker.end()


def why(code: int) -> str:
    return "it was killed, for want of memory perhaps" if code in (-9, 137) else "what it said stands above"


# ---- in the worker ----


def serve(folder: Path, units: TextIO) -> int:
    """Answer each unit of the job in a folder, a line of JSON each way, until there are no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # whatever else is printed is for people
    processes.watch_parent()
    import torch

    from arianna.formats import open_model
    from arianna.searching.unit import Bench
    from arianna.training.devices import pick_device

    torch.set_num_threads(1)
    job = Job(**json.loads((folder / "job.json").read_bytes()))
    base = open_model(job.base, job.trainer.get("max_seq_len"))
    bench = Bench(job, base.to(pick_device(job.trainer.get("device", "auto"))))
    for line in units:
        try:
            answer = bench.do(from_line(json.loads(line)))
        except OSError as error:  # a full disk, say: it is the machine's, and a sentence already
            print(error, file=sys.stderr)
            return 1
        print(json.dumps(answer), file=answers, flush=True)
    return 0
