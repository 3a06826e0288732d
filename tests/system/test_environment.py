"""The process's surroundings: streams, packages, variables, sleep."""

import ast
import os
import subprocess
import sys
import threading
import time

import pytest
from helpers import ROOT

from arianna.system import environment

COMMANDS = [f"{name}.py" for name in "arianna_ft train_arianna sample tokenizer arianna_data".split()]
COMMANDS += [f"-m arianna.{name}" for name in ("export", "report", "evaluate", "search")]
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and process groups of POSIX")


def script(text: str) -> list[str]:
    return [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{text}"]


@POSIX
def test_the_end_of_a_pipe_does_not_end_the_run(tmp_path):
    program = f"""
import pathlib
from arianna.system import environment
environment.speak_on()
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
import fcntl, pathlib, signal, termios, time
from arianna.system import environment, processes
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup a child begins with it ignored
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
environment.speak_on()
with processes.stoppable():
    print("ready", flush=True)
    while not pathlib.Path({str(tmp_path / "closed")!r}).exists(): time.sleep(0.01)
    for _ in range(100):
        print("into the void", flush=True)
    pathlib.Path({str(tmp_path / "done")!r}).touch()
"""
    here, there = os.openpty()
    process = subprocess.Popen(
        script(program), stdin=there, stdout=there, stderr=there, start_new_session=True
    )
    os.close(there)
    assert os.read(here, 5) == b"ready"
    os.close(here)
    (tmp_path / "closed").touch()
    assert process.wait(60) == 0 and (tmp_path / "done").exists()


def pretend_to_inhibit(tmp_path, monkeypatch, body: str) -> None:
    (tmp_path / "systemd-inhibit").write_text(f"#!/bin/sh\n{body}\n")
    (tmp_path / "systemd-inhibit").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(environment, "KEEP_AWAKE", {"systemd-inhibit": ["--what=sleep:idle"]})


@POSIX
def test_the_system_is_asked_not_to_sleep_and_what_asks_ends_with_the_run(tmp_path, monkeypatch):
    pretend_to_inhibit(tmp_path, monkeypatch, 'test "$1" = --what=sleep:idle && shift && exec "$@"')
    said, heard = [], threading.Event()
    with environment.awake(lambda line: (said.append(line), heard.set())):
        assert heard.wait(60)
    assert said == ["kept awake by systemd-inhibit while this runs"]


@POSIX
def test_a_system_that_refuses_may_sleep(tmp_path, monkeypatch):
    pretend_to_inhibit(tmp_path, monkeypatch, "echo 'Failed to connect to bus' >&2; exit 1")
    said = []
    with environment.awake(said.append):
        pass
    assert said == []


@POSIX
def test_what_keeps_the_system_awake_ends_when_the_run_is_killed(tmp_path, monkeypatch):
    pretend_to_inhibit(tmp_path, monkeypatch, 'shift; exec "$@"')
    program = """
import time
from arianna.system import environment
environment.KEEP_AWAKE = {"systemd-inhibit": ["--what=sleep:idle"]}
with environment.awake(lambda line: print(line, flush=True)):
    time.sleep(120)
"""
    process = subprocess.Popen(script(program), stdout=subprocess.PIPE)
    assert process.stdout.readline().startswith(b"kept awake")
    asks = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,comm="], capture_output=True, text=True, check=True
    ).stdout
    (child,) = (
        int(pid) for pid, parent, _ in map(str.split, asks.splitlines()) if int(parent) == process.pid
    )
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
        f"import sys, os; sys.path.insert(0, {str(ROOT)!r})\n"
        "from arianna.system import environment\nenvironment.restart_with_environment()\n"
        "names = ('GOMP_SPINCOUNT', 'MALLOC_MMAP_MAX_', environment.STARTED)\n"
        "print(*(os.environ[name] for name in names), sys.argv[1:])"
    )
    ours = {environment.STARTED, *environment.LINUX}
    variables = {k: v for k, v in os.environ.items() if k not in ours} | {"GOMP_SPINCOUNT": "7"}
    done = subprocess.run(
        [sys.executable, program, "--a=b c"], env=variables, capture_output=True, text=True, check=True
    )
    spin, mmap, added, argv = (
        done.stdout.strip().split(" ", 2)[0],
        done.stdout.split(" ")[1],
        done.stdout,
        done.stdout,
    )
    assert (spin, mmap) == ("7", "0")
    assert "GOMP_SPINCOUNT" not in added and "['--a=b c']" in argv


def in_shell(program: str, redirection: str, **changes: str) -> subprocess.CompletedProcess:
    """Run a program text through a shell with its streams closed or full."""
    line = f'"$0" -c "$1" {redirection}'
    text = script(program)[2]
    return subprocess.run(
        ["sh", "-c", line, sys.executable, text], capture_output=True, text=True, env=os.environ | changes
    )


MAIN = """
from arianna.system import config
def main(argv):
    print("a line")
    return 0
config.run_main(main, [])
"""


@POSIX
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_streams_are_nothing_to_stop_for_and_no_file_takes_their_place(tmp_path, closed):
    program = f"""
from arianna.system import environment
environment.prepare(lasting=True)
with open({str(tmp_path / "file")!r}, "w") as file:
    print("into the void")
    print("into the void", file=sys.stderr)
    assert file.fileno() > 2, file.fileno()
assert sys.stdin.read() == ""
"""
    done = in_shell(program, closed, **{"ARIANNA_ENVIRONMENT": ""})
    assert (done.returncode, (tmp_path / "file").read_text()) == (0, ""), done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is always full")
def test_a_full_disk_behind_the_output_is_one_sentence():
    done = in_shell(MAIN, ">/dev/full")
    assert (done.returncode, done.stderr) == (1, "the output cannot be written: No space left on device\n")


@POSIX
def test_a_reader_that_has_seen_enough_ends_a_command_in_silence():
    done = in_shell(MAIN.replace('print("a line")', "for _ in range(99999): print('a line')"), "| head -n 1")
    assert (done.stdout, done.stderr) == ("a line\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_says_that_packages_are_missing(command):
    bare = [sys.executable, "-S", *command.split()]  # a Python that sees its own library alone
    done = subprocess.run(bare, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "lacks torch, numpy, sentencepiece" in done.stderr


@pytest.mark.parametrize(("name", "value"), [("PYTHON", (9, 9)), ("PACKAGES", ("torch", "no_such_package"))])
def test_an_old_python_or_a_missing_package_is_one_sentence(name, value):
    program = (
        f"from arianna.system import environment\nenvironment.{name} = {value!r}\n"
        "environment.prepare()\nprint('went on')"
    )
    done = subprocess.run(script(program), capture_output=True, text=True)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "activate .venv, or pip install -r requirements.txt" in done.stderr
    assert "no_such_package" in done.stderr or "9.9 or newer" in done.stderr


def test_what_runs_before_the_python_is_checked_is_understood_by_python_3_10():
    for path in ("arianna/system/environment.py", "arianna/__init__.py", "arianna/system/__init__.py"):
        ast.parse((ROOT / path).read_text(), feature_version=(3, 10))
