import threading
import time

import pytest

from arianna.training import watchdog


class Clock:
    now = 0.0


def steps(monkeypatch, *seconds: float) -> list[tuple[int, float, float]]:
    """What is told of steps that take so long."""
    clock, told = Clock(), []
    monkeypatch.setattr(watchdog, "clock", lambda: clock.now)
    watch = watchdog.Watch(lambda *what: told.append(what))
    for number, taken in enumerate(seconds):
        with watch(number):
            clock.now += taken
        clock.now += 1000.0  # an evaluation: no step, so no stall
    return told


def test_a_step_of_ten_times_the_median_is_told_when_it_is_over(monkeypatch):
    assert steps(monkeypatch, 1, 1, 1, 9.5, 10.5, 1) == [(4, 10.5, 1.0)]


def test_short_pauses_and_the_first_step_are_not(monkeypatch):
    assert steps(monkeypatch, 100, 0.01, 0.01, 0.01, 1.9) == []


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="a clock of Linux")
def test_the_time_that_the_machine_sleeps_counts(monkeypatch):
    monkeypatch.setattr(time, "clock_gettime", {time.CLOCK_BOOTTIME: 42.0}.__getitem__)
    assert watchdog.clock() == 42.0


def test_a_step_that_hangs_is_told_meanwhile_and_once(monkeypatch):
    monkeypatch.setattr(watchdog, "SHORTEST", 0.01)
    told, heard = [], threading.Event()

    def tell(step: int, seconds: float, usual: float) -> None:
        told.append(step)
        heard.set()

    with watchdog.Watch(tell) as watch:
        with watch(0):
            pass
        with watch(1):
            assert heard.wait(60)
    assert told.count(1) == 1
    assert not watch.thread.is_alive()
