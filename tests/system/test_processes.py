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
    with (
        pytest.raises(processes.LockedError, match=rf"in use by process {process.pid} \(since \d{{4}}-"),
        processes.lock(tmp_path),
    ):
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
        script(f"from arianna.system import processes\nprocesses.run_child({script(child)!r})"),
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    process.wait()
    assert process.stdout.read() == b"", "all that comes until the child has closed its end too"
    process.stdout.close()


@POSIX
def test_a_signal_that_comes_when_the_child_is_done_is_not_lost(tmp_path):
    child = (
        "import signal; signal.signal(signal.SIGTERM, lambda *a: sys.exit(0)); "
        "print('ready', flush=True); signal.pause()"
    )
    wrapper = f"""
from arianna.system import processes
try:
    processes.run_child({script(child)!r})
except processes.StoppedError as stopped:
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
    with pytest.raises(processes.StoppedError) as stopped:
        processes.run_child(child)
    assert stopped.value.exit_code == 143


@POSIX
def test_a_child_that_is_only_starting_ends_without_a_traceback():
    # As Python is before it has answers of its own.
    child = "print('ready', flush=True); import time; time.sleep(60)"
    wrapper = f"""
from arianna.system import processes
try:
    processes.run_child({script(child)!r})
except processes.StoppedError as stopped:
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
except processes.StoppedError as stopped:
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


def test_torchrun_gets_the_scripts_flags_behind_a_mark(monkeypatch):
    from torch.distributed import run

    given = []
    monkeypatch.setattr(run, "main", given.extend)
    monkeypatch.setattr(processes, "watch_parent", lambda: None)
    monkeypatch.setenv(processes.PARENT, "1")
    assert processes.launch(2, "train.py", ["--nproc=2"]) == 0
    assert given[-3:] == ["--", "train.py", "--nproc=2"], "else --nproc is taken for an abbreviation"
    assert run.parse_args(given).training_script == "train.py"
