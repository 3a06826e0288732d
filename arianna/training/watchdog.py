"""A watch that notices when a run stands still. Standard library only."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

TIMES = 10  # a step this many times as long as usual is a stall
SHORTEST = 2.0  # seconds; nobody minds less
USUAL = 50  # the usual time is the median of so many steps


def clock() -> float:
    """Seconds of a clock that goes on while the machine sleeps, as time.monotonic() does not everywhere."""
    kind = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
    return time.monotonic() if kind is None else time.clock_gettime(kind)


class Watch:
    """A thread that looks at the clock while a step is computed.

    `tell(step, seconds, usual)` is called once a step, with the seconds it has taken so far and the median of
    those before it, when that is ten times as much: by the thread, or, if the whole process slept, as soon as
    the step is over.
    """

    def __init__(self, tell: Callable[[int, float, float], None]):
        self.tell = tell
        self.usual: deque[float] = deque(maxlen=USUAL)
        self.step, self.started, self.reported = 0, None, False
        self.lock, self.over = threading.Lock(), threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)

    @contextlib.contextmanager
    def __call__(self, step: int) -> Iterator[None]:
        """A context for the computation of a step."""
        with self.lock:
            self.step, self.started, self.reported = step, clock(), False
        try:
            yield
        finally:
            self.check()
            with self.lock:
                self.usual.append(clock() - self.started)
                self.started = None

    def check(self) -> None:
        with self.lock:
            if self.started is None or self.reported or not self.usual:
                return
            seconds, usual = clock() - self.started, statistics.median(self.usual)
            self.reported = seconds > max(TIMES * usual, SHORTEST)
            if self.reported:
                self.tell(self.step, seconds, usual)

    def look(self) -> None:
        while not self.over.wait(SHORTEST / 2):
            self.check()

    def __enter__(self) -> Watch:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.thread.join()
