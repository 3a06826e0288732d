"""Processes that are killed, stopped, orphaned, started twice or in odd places: the result is bit-identical,
or a sentence."""

import ctypes
import dataclasses
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults import (
    EVERY_STEP,
    FULL,
    children_of,
    finish,
    inputs_kept,
    kill_after,
    leftovers,
    logged_step,
    results,
    run,
    saved_step,
    settle,
    shipped,
    small,
    start,
    times,
    trainer,
    wait_for_line,
    weights,
)
from helpers import ROOT, furnish

from arianna.formats import checkpoint
from arianna.system.files import sha256
from train_arianna import train

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and process groups of POSIX")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, dict[str, str], float]:
    """A folder in which the command ran to its end undisturbed, what it left, and how many seconds it
    took."""
    place, began = furnish(tmp_path_factory.mktemp("whole")), time.monotonic()
    code, said = run(place)
    assert code == 0, said
    return place, results(place), time.monotonic() - began


# ---- killed ----


def test_a_command_killed_again_and_again_ends_with_the_same_files(tmp_path, whole):
    _, expected, seconds = whole
    number, place = 0, furnish(make(tmp_path / "0"))
    before = saved_step(place)
    for n in times("SIGKILL at a random time over the whole command", 1, 200):
        killed = False
        while not killed:
            with inputs_kept(place):
                killed = kill_after(
                    start(place, *EVERY_STEP), random.Random(f"{n} {number}").uniform(0.1, 1.1 * seconds)
                )
            if not killed:
                assert results(place) == expected and not leftovers(place)
                number, before = number + 1, 0
                place = furnish(make(tmp_path / str(number)))
        assert before <= saved_step(place), "a step that was saved is lost"
        assert logged_step(place) <= saved_step(place) + 1, "more than a save interval is lost"
        before = saved_step(place)
    code, said = run(place, *EVERY_STEP)
    assert code == 0, said
    assert results(place) == expected and not leftovers(place)


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.skipif(not FULL, reason="minutes long: make faults")
def test_the_shipped_base_killed_again_and_again_ends_with_the_same_files(tmp_path):
    whole, place, began = tmp_path / "whole", tmp_path / "killed", time.monotonic()
    assert finish(shipped(whole))[0] == 0
    seconds, before = time.monotonic() - began, 0
    with inputs_kept(place):
        for n in times("the same on the shipped base, two threads", 0, 5):
            killed = False
            while not killed:
                killed = kill_after(shipped(place), random.Random(n).uniform(0.2, 0.9) * seconds)
                if not killed:
                    assert results(place) == results(whole)
                    shutil.rmtree(place)
                    before = 0
            assert before <= saved_step(place) and logged_step(place) <= saved_step(place) + 1
            before = saved_step(place)
        assert finish(shipped(place))[0] == 0
    assert results(place) == results(whole) and not leftovers(place)


# ---- two at once ----

HOLDER = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import pathlib
from arianna.system import processes
try:
    with processes.lock(pathlib.Path(sys.argv[1])):
        print("mine", flush=True)
        sys.stdin.read()
except processes.LockedError as error:
    print(error, flush=True)
    sys.exit(2)
"""


def holder(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def end(*processes: subprocess.Popen) -> None:
    for process in processes:
        process.kill()
        process.communicate()


def test_of_two_that_start_at_once_one_has_the_folder_until_it_is_killed(tmp_path):
    for n in times("two starts at once, holder killed", 3, 45):
        for _ in ("a folder that was never held", "one whose holder was killed"):
            both = [holder(tmp_path / str(n)), holder(tmp_path / str(n))]
            said = [p.stdout.readline() for p in both]
            assert sorted(s == "mine\n" for s in said) == [False, True], said
            first, second = sorted(both, key=lambda p: said[both.index(p)] != "mine\n")
            assert f"in use by process {first.pid} (since" in said[both.index(second)]
            assert second.wait(60) == 2
            end(first, second)


@pytest.mark.skipif(not FULL, reason="minutes long: make faults")
def test_of_two_commands_that_start_at_once_one_runs(tmp_path, whole):
    for n in times("two starts at once, holder killed", 0, 5):
        place = furnish(make(tmp_path / str(n)))
        with inputs_kept(place):
            both = [start(place), start(place)]
            ends = [finish(p) for p in both]
            assert sorted(code for code, _ in ends) in ([0, 2], [0, 0]), (
                ends
            )  # 0, 0: one had ended before the other came to the lock
            assert any("is in use by process" in said for code, said in ends if code == 2) or [
                c for c, _ in ends
            ] == [0, 0]
        assert results(place) == whole[1]


# ---- the wrapper or the trainer alone ----

LONG = ["--max_iters=40", "--eval_interval=20", "--log_interval=1"]
ALONE = {  # signal, and the wrapper's exit code
    "wrapper killed": (signal.SIGKILL, -9),
    "wrapper signalled": (signal.SIGTERM, 143),
    "trainer killed": (signal.SIGKILL, 137),
    "trainer signalled": (signal.SIGINT, 130),
}


@pytest.fixture(scope="module")
def long_run(tmp_path_factory) -> Path:
    place = furnish(tmp_path_factory.mktemp("long"))
    assert run(place, *LONG)[0] == 0
    return place


def hurt_alone(place: Path, who: str, *flags: str) -> bool:
    """Send one of the two its signal in mid-training; False if it came too late."""
    process = start(place, *LONG, *flags)
    wait_for_line(process, f"{random.Random(str(place)).randint(1, 19)} |")
    (trainer_pid,) = children_of(process.pid)
    number, expected = ALONE[who]
    os.kill(process.pid if who.startswith("wrapper") else trainer_pid, number)
    code, said = finish(process)  # comes when the trainer has closed its end of the pipe too
    if code == 0:
        return False
    assert code == expected, said
    assert ("the same command goes on from here" in said) == (who != "wrapper killed"), said
    return True


@pytest.mark.parametrize("who", ALONE)
def test_no_process_of_a_run_goes_on_without_the_other(tmp_path, long_run, who):
    for n in times(f"{who} alone", int(who == "wrapper killed"), 10):
        place = furnish(make(tmp_path / f"{who} {n}"))
        with inputs_kept(place):
            while not hurt_alone(place, who):
                place = furnish(make(tmp_path / f"{place.name} again"))
            assert settle(place), "something still writes"
            if who.endswith("signalled"):
                assert logged_step(place) == saved_step(place), "a step that was done is lost"
            assert run(place, *LONG)[0] == 0
        for name in ("out/ckpt_ft.pt", "out/arianna_v1_ft.bin", "out/ft/ckpt_000040.pt"):
            assert sha256(place / name) == sha256(long_run / name)


def test_a_signal_at_any_time_ends_the_command_with_its_number_and_a_sentence(tmp_path, whole):
    _, expected, seconds = whole
    for n in times("a signal at a random time over the whole command", 1, 20):
        place, chosen = furnish(make(tmp_path / str(n))), random.Random(n)
        number = chosen.choice([signal.SIGINT, signal.SIGTERM])
        with inputs_kept(place):
            process = start(place)
            time.sleep(chosen.uniform(0.1, 0.9) * seconds)  # not while the interpreter itself starts
            process.send_signal(number)
            code, said = finish(process)
            assert code in (0, 128 + number) and "Traceback" not in said, (code, said)
            assert code == 0 or "the same command goes on from here" in said
            assert run(place)[0] == 0 and results(place) == expected and not leftovers(place)


@pytest.mark.skipif(not FULL, reason="four processes")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_several_processes_end_with_their_wrapper(tmp_path, number, code):
    for _ in times("wrapper of two processes killed or signalled", 0, 1):
        place = furnish(tmp_path)
        with inputs_kept(place):
            process = start(place, *LONG, "--nproc=2", "--max_iters=4000")
            wait_for_line(process, "3 |")
            process.send_signal(number)
            assert finish(process)[0] == code
            assert settle(place)
        assert number == signal.SIGKILL or saved_step(place) > 2


# ---- asleep, and the clock ----


def test_a_run_that_was_put_to_sleep_ends_with_the_same_weights(tmp_path):
    steps = {"max_iters": 60, "eval_interval": 30}
    cfg = small(tmp_path, **steps)
    train(dataclasses.replace(cfg, out_dir=str(tmp_path / "whole")))
    for n in times("SIGSTOP for seconds", 1, 10):
        chosen, folder = random.Random(n), tmp_path / f"run{n}"
        with inputs_kept(tmp_path):
            process = trainer(dataclasses.replace(cfg, out_dir=str(folder)))
            wait_for_line(process, f"{chosen.randint(1, 40)} |")
            os.killpg(process.pid, signal.SIGSTOP)
            time.sleep(3)
            os.killpg(process.pid, signal.SIGCONT)
            code, said = finish(process)
        assert code == 0, said
        assert weights(folder) == weights(tmp_path / "whole")
        assert_sane_lines(folder, 60)


def test_a_clock_set_back_and_forth_changes_nothing(tmp_path, monkeypatch):
    cfg = small(tmp_path)
    train(dataclasses.replace(cfg, out_dir=str(tmp_path / "whole")))
    chosen, real = random.Random(4), time.time
    monkeypatch.setattr(time, "time", lambda: real() + chosen.uniform(-1e8, 1e8))
    for n in times("clock set back and forth", 2, 10):
        folder = tmp_path / f"run{n}"
        with inputs_kept(tmp_path):
            train(dataclasses.replace(cfg, out_dir=str(folder)))
        assert weights(folder) == weights(tmp_path / "whole")
        assert_sane_lines(folder, 4)


def assert_sane_lines(folder: Path, steps: int) -> None:
    """A line a step, and no figure in it that cannot be."""
    lines = [line for line in (folder / "train.log").read_text().splitlines() if " | loss " in line]
    assert len(lines) == steps and not any(re.search(r"\| -|nan|inf", line) for line in lines), lines


# ---- once more ----


def test_a_finished_run_started_again_changes_no_byte(whole):
    place, expected, _ = whole
    for _ in times("finished run started again", 1, 3):
        before = everything(place)
        with inputs_kept(place):
            code, said = run(place)
        assert code == 0 and "is trained: 6 iterations" in said
        assert everything(place) == before and results(place) == expected


def everything(place: Path) -> dict[str, tuple[str, int]]:
    return {
        str(p): (sha256(p), p.stat().st_mtime_ns)
        for p in sorted(place.rglob("*"))
        if p.is_file() and ".lock" not in p.name
    }


# ---- odd places ----

PLACES = "read-only and odd folders, links"


def without_privilege() -> None:
    """In a child: let permissions hold for root too (PR_CAPBSET_DROP of CAP_DAC_OVERRIDE)."""
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)


@pytest.mark.skipif(os.geteuid() == 0 and sys.platform != "linux", reason="root may write everywhere")
@pytest.mark.parametrize("locked", ["out", "data"])
def test_a_folder_that_cannot_be_written_is_told_or_left_alone(tmp_path, whole, locked):
    place = furnish(tmp_path)
    for _ in times(PLACES, int(locked == "out"), 1):
        (place / locked).mkdir(exist_ok=True)
        (place / locked).chmod(0o555)
        with inputs_kept(place):
            code, said = run(place, preexec_fn=without_privilege)
        (place / locked).chmod(0o755)
        assert list((place / "data").iterdir()) == []
        if locked == "out":
            (told,) = (line for line in said.splitlines() if "cannot be written" in line)
            assert code == 2 and "Permission denied" in told and not list((place / "out").iterdir()), said
        else:
            assert code == 0 and "the readable copy is left out" in said and results(place) == whole[1], said


def test_spaces_and_letters_of_any_language_in_paths_are_fine(tmp_path, whole):
    for _ in times(PLACES, 0, 1):
        place = furnish(make(tmp_path / "a folder für Ålice — 日本 'quoted'"))
        with inputs_kept(place):
            assert run(place, "--out_dir=my out $HOME")[0] == 0
        (place / "my out $HOME").rename(place / "out")
        assert results(place) == whole[1]


def test_an_output_folder_behind_a_link_is_used(tmp_path, whole):
    for _ in times(PLACES, 0, 1):
        place = furnish(tmp_path)
        (place / "out").symlink_to(make(place / "elsewhere"), target_is_directory=True)
        with inputs_kept(place):
            assert run(place)[0] == 0
        assert results(place) == whole[1] and (place / "out").is_symlink()
        assert checkpoint.load(place / "elsewhere/ft/ckpt.pt")["iter_num"] == 6


@pytest.mark.parametrize("there", ["a link to nowhere", "a file"])
def test_an_output_folder_that_is_none_is_told(tmp_path, there):
    for _ in times(PLACES, 0, 1):
        place = furnish(tmp_path)
        (place / "out").symlink_to("nowhere") if there == "a link to nowhere" else (place / "out").write_text(
            "mine"
        )
        with inputs_kept(place):
            code, said = run(place)
        (told,) = (line for line in said.splitlines() if "cannot be written" in line)
        assert code == 2 and "out" in told and "Traceback" not in said
        assert not (place / "nowhere").exists() and (
            there != "a file" or (place / "out").read_text() == "mine"
        )
