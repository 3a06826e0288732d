import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers import ROOT

from arianna.system import processes

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and process groups of POSIX")


def script(text: str) -> list[str]:
    return [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{text}"]


def wait_for(path, seconds=20):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)


def test_a_folder_is_held_by_one_process_and_released_by_its_death(tmp_path):
    holder = f"""
import time, pathlib
from arianna.system import processes
with processes.lock(pathlib.Path({str(tmp_path)!r})):
    pathlib.Path({str(tmp_path / "held")!r}).touch()
    time.sleep(60)
"""
    process = subprocess.Popen(script(holder))
    wait_for(tmp_path / "held")
    with pytest.raises(processes.Locked, match=rf"in use by process {process.pid} \(since \d{{4}}-"), processes.lock(tmp_path):
        pass
    process.kill()
    process.wait()
    with processes.lock(tmp_path):
        pass


def test_the_first_signal_is_noted_and_the_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with processes.stop_signals() as stop:
        assert not stop.asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked and stop.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


@POSIX
def test_the_second_signal_ends_at_once(tmp_path):
    child = f"""
import time, pathlib
from arianna.system import processes
with processes.stop_signals():
    pathlib.Path({str(tmp_path / "ready")!r}).touch()
    time.sleep(60); time.sleep(60)
"""
    process = subprocess.Popen(script(child))
    wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM


@POSIX
def test_a_closed_terminal_is_survived(tmp_path):
    with processes.stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.asked


@POSIX
def test_a_signal_to_the_wrapper_reaches_its_child_once(tmp_path):
    child = f"""
import signal, time, pathlib
from arianna.system import processes
with processes.stop_signals() as stop:
    pathlib.Path({str(tmp_path / "ready")!r}).touch()
    while not stop.asked: time.sleep(0.01)
    time.sleep(0.5)
    pathlib.Path({str(tmp_path / "saved")!r}).touch()
sys.exit(stop.exit_code)
"""
    wrapper = f"from arianna.system import processes\nsys.exit(processes.run_child({script(child)!r}))"
    process = subprocess.Popen(script(wrapper), start_new_session=True)
    wait_for(tmp_path / "ready")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.wait(20) == 130
    assert (tmp_path / "saved").exists(), "the child could finish"


@POSIX
def test_a_child_ends_with_its_wrapper():
    child = """
import time
from arianna.system import processes
processes.watch_parent()
print("ready", flush=True)
time.sleep(20)
print("went on without it", flush=True)
"""
    process = subprocess.Popen(
        script(f"from arianna.system import processes\nprocesses.run_child({script(child)!r})"), stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    process.wait()
    assert process.stdout.read() == b"", "all that comes until the child has closed its end too"
    process.stdout.close()


@POSIX
def test_a_signal_that_comes_when_the_child_is_done_is_not_lost(tmp_path):
    child = "import signal; signal.signal(signal.SIGTERM, lambda *a: sys.exit(0)); print('ready', flush=True); signal.pause()"
    wrapper = f"""
from arianna.system import processes
try:
    processes.run_child({script(child)!r})
except processes.Stopped as stopped:
    sys.exit(stopped.exit_code)
"""
    process = subprocess.Popen(script(wrapper), stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.terminate()
    assert process.wait(60) == 143
    process.stdout.close()


@POSIX
def test_a_signal_to_a_child_that_cannot_answer_it_yet_stops_the_wrapper_in_good_order():
    child = ["sh", "-c", "kill -TERM $$"]
    with pytest.raises(processes.Stopped) as stopped:
        processes.run_child(child)
    assert stopped.value.exit_code == 143


@POSIX
def test_a_child_that_is_only_starting_ends_without_a_traceback():
    child = "print('ready', flush=True); import time; time.sleep(60)"  # as Python is before it has answers of its own
    wrapper = f"""
from arianna.system import processes
try:
    processes.run_child({script(child)!r})
except processes.Stopped as stopped:
    sys.exit(stopped.exit_code)
"""
    process = subprocess.Popen(script(wrapper), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == 130


@POSIX
def test_the_note_of_a_dead_holder_is_not_taken_for_the_living_ones(tmp_path):
    note = tmp_path / ".run.pid"
    note.write_text("process 99999999 (since 2026-01-01 00:00:00)")
    mine = f"process {os.getpid()} (since 2026-01-02 00:00:00)"
    threading.Timer(0.2, note.write_text, [mine]).start()
    assert processes.holder(note) == mine


@POSIX
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_outside_training_ends_what_is_being_done_and_closes_files(number, code):
    program = """
import time
from arianna.system import processes
try:
    with processes.stoppable():
        try:
            print("ready", flush=True)
            time.sleep(120)
        finally:
            print("closed", flush=True)
except processes.Stopped as stopped:
    sys.exit(stopped.exit_code)
"""
    process = subprocess.Popen(script(program), stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    assert process.communicate(timeout=60)[0] == b"closed\n"
    assert process.returncode == code


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_job_has_ended_changes_nothing(number):
    program = """
import atexit, time
from arianna.system import processes
atexit.register(time.sleep, 1)
atexit.register(print, "ending", flush=True)
sys.exit(processes.ended(0))
"""
    process = subprocess.Popen(script(program), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"ending\n"
    process.send_signal(number)
    assert process.communicate(timeout=60) == (b"", b"") and process.returncode == 0


@POSIX
def test_a_second_signal_outside_training_ends_at_once():
    program = """
import time
from arianna.system import processes
with processes.stoppable():
    try:
        print("ready", flush=True)
        time.sleep(120)
    finally:
        print("closing", flush=True)
        time.sleep(120)
"""
    process = subprocess.Popen(script(program), stdout=subprocess.PIPE)
    for expected in (b"ready\n", b"closing\n"):
        assert process.stdout.readline() == expected
        process.terminate()
    assert process.wait(60) == -signal.SIGTERM
    process.stdout.close()


@POSIX
def test_the_end_of_a_pipe_does_not_end_the_run(tmp_path):
    program = f"""
import pathlib
from arianna.system import processes
processes.speak_on()
for number in range(20_000):
    print("a line", flush=True)
    print("another", file=sys.stderr)
pathlib.Path({str(tmp_path / "done")!r}).touch()
"""
    process = subprocess.Popen(script(program), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 0 and (tmp_path / "done").exists()


@POSIX
def test_a_closed_terminal_does_not_end_the_run(tmp_path):
    program = f"""
import fcntl, pathlib, termios, time
from arianna.system import processes
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
processes.speak_on()
with processes.stoppable():
    print("ready", flush=True)
    while not pathlib.Path({str(tmp_path / "closed")!r}).exists(): time.sleep(0.01)
    for _ in range(100):
        print("into the void", flush=True)
    pathlib.Path({str(tmp_path / "done")!r}).touch()
"""
    here, there = os.openpty()
    process = subprocess.Popen(script(program), stdin=there, stdout=there, stderr=there, start_new_session=True)
    os.close(there)
    assert os.read(here, 5) == b"ready"
    os.close(here)
    (tmp_path / "closed").touch()
    assert process.wait(60) == 0 and (tmp_path / "done").exists()


def pretend_to_inhibit(tmp_path, monkeypatch, body: str) -> None:
    (tmp_path / "systemd-inhibit").write_text(f"#!/bin/sh\n{body}\n")
    (tmp_path / "systemd-inhibit").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(processes, "KEEP_AWAKE", {"systemd-inhibit": ["--what=sleep:idle"]})


@POSIX
def test_the_system_is_asked_not_to_sleep_and_what_asks_ends_with_the_run(tmp_path, monkeypatch):
    pretend_to_inhibit(tmp_path, monkeypatch, 'test "$1" = --what=sleep:idle && shift && exec "$@"')
    said, heard = [], threading.Event()
    with processes.awake(lambda line: (said.append(line), heard.set())):
        assert heard.wait(60)
    assert said == ["kept awake by systemd-inhibit while this runs"]


@POSIX
def test_a_system_that_refuses_may_sleep(tmp_path, monkeypatch):
    pretend_to_inhibit(tmp_path, monkeypatch, "echo 'Failed to connect to bus' >&2; exit 1")
    said = []
    with processes.awake(said.append):
        pass
    assert said == []


@POSIX
def test_what_keeps_the_system_awake_ends_when_the_run_is_killed(tmp_path, monkeypatch):
    pretend_to_inhibit(tmp_path, monkeypatch, 'shift; exec "$@"')
    program = """
import time
from arianna.system import processes
processes.KEEP_AWAKE = {"systemd-inhibit": ["--what=sleep:idle"]}
with processes.awake(lambda line: print(line, flush=True)):
    time.sleep(120)
"""
    process = subprocess.Popen(script(program), stdout=subprocess.PIPE)
    assert process.stdout.readline().startswith(b"kept awake")
    asks = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,comm="], capture_output=True, text=True, check=True).stdout
    (child,) = (int(pid) for pid, parent, _ in map(str.split, asks.splitlines()) if int(parent) == process.pid)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while is_alive(child):
        assert time.monotonic() < deadline, "it goes on"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    return subprocess.run(["ps", "-p", str(pid)], capture_output=True).returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_the_environment_is_set_once_and_never_over_the_users(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        f"import sys, os; sys.path.insert(0, {str(ROOT)!r})\nfrom arianna.system import processes\nprocesses.restart_with_environment()\n"
        "print(os.environ['GOMP_SPINCOUNT'], os.environ['MALLOC_MMAP_MAX_'], os.environ[processes.STARTED], sys.argv[1:])"
    )
    environment = {k: v for k, v in os.environ.items() if k != processes.STARTED and k not in processes.LINUX} | {"GOMP_SPINCOUNT": "7"}
    done = subprocess.run([sys.executable, program, "--a=b c"], env=environment, capture_output=True, text=True, check=True)
    spin, mmap, added, argv = done.stdout.strip().split(" ", 2)[0], done.stdout.split(" ")[1], done.stdout, done.stdout
    assert (spin, mmap) == ("7", "0")
    assert "GOMP_SPINCOUNT" not in added and "['--a=b c']" in argv
