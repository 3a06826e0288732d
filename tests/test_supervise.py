import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

import supervise

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
import supervise, time, pathlib
with supervise.lock(pathlib.Path({str(tmp_path)!r})):
    pathlib.Path({str(tmp_path / "held")!r}).touch()
    time.sleep(60)
"""
    process = subprocess.Popen(script(holder))
    wait_for(tmp_path / "held")
    with pytest.raises(supervise.Locked, match=rf"in use by process {process.pid} \(since \d{{4}}-"), supervise.lock(tmp_path):
        pass
    process.kill()
    process.wait()
    with supervise.lock(tmp_path):
        pass


def test_the_first_signal_is_noted_and_the_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with supervise.stop_signals() as stop:
        assert not stop.asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked and stop.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


@POSIX
def test_the_second_signal_ends_at_once(tmp_path):
    child = f"""
import supervise, time, pathlib
with supervise.stop_signals():
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
    with supervise.stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.asked


@POSIX
def test_a_signal_to_the_wrapper_reaches_its_child_once(tmp_path):
    child = f"""
import supervise, signal, time, pathlib
with supervise.stop_signals() as stop:
    pathlib.Path({str(tmp_path / "ready")!r}).touch()
    while not stop.asked: time.sleep(0.01)
    time.sleep(0.5)
    pathlib.Path({str(tmp_path / "saved")!r}).touch()
sys.exit(stop.exit_code)
"""
    wrapper = f"import supervise\nsys.exit(supervise.run_child({script(child)!r}))"
    process = subprocess.Popen(script(wrapper), start_new_session=True)
    wait_for(tmp_path / "ready")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.wait(20) == 130
    assert (tmp_path / "saved").exists(), "the child could finish"


@POSIX
def test_a_child_notices_the_death_of_its_wrapper(tmp_path):
    child = f"""
import supervise, time, pathlib
stop = supervise.Stop()
supervise.watch_parent(stop)
pathlib.Path({str(tmp_path / "ready")!r}).touch()
while not stop.asked: time.sleep(0.01)
pathlib.Path({str(tmp_path / "noticed")!r}).touch()
"""
    process = subprocess.Popen(script(f"import supervise\nsupervise.run_child({script(child)!r})"))
    wait_for(tmp_path / "ready")
    process.kill()
    process.wait()
    wait_for(tmp_path / "noticed")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_the_environment_is_set_once_and_never_over_the_users(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        f"import sys, os; sys.path.insert(0, {str(ROOT)!r})\nimport supervise\nsupervise.restart_with_environment()\n"
        "print(os.environ['GOMP_SPINCOUNT'], os.environ['MALLOC_MMAP_MAX_'], os.environ[supervise.STARTED], sys.argv[1:])"
    )
    environment = {k: v for k, v in os.environ.items() if k != supervise.STARTED and k not in supervise.LINUX} | {"GOMP_SPINCOUNT": "7"}
    done = subprocess.run([sys.executable, program, "--a=b c"], env=environment, capture_output=True, text=True, check=True)
    spin, mmap, added, argv = done.stdout.strip().split(" ", 2)[0], done.stdout.split(" ")[1], done.stdout, done.stdout
    assert (spin, mmap) == ("7", "0")
    assert "GOMP_SPINCOUNT" not in added and "['--a=b c']" in argv
