"""Every command with its streams closed, full or cut off: an orderly end, at most one sentence, no traceback.

Each command runs in a child that is forked from the tests, so that torch is loaded once.
"""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest
from helpers import ROOT, build, command, furnish

import arianna_data
import arianna_ft
import sample
import tokenizer as tokenizers
import train_arianna
from arianna import evaluate, export, report
from arianna.formats import checkpoint
from arianna.system import config, environment

pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks, and closes streams as a shell does")

MODEL = f"--tokenizer={ROOT / 'data/tok4096.model'}"
PAIR = {"sentence_good": "The stones are grey.", "sentence_bad": "The stones is grey."}
COMMANDS = {  # what each does, in a folder with a model, a text and conversations
    "sample.py": (sample.main, ["--checkpoint=base.pt", MODEL, "--max_new_tokens=3", "What?"]),
    "sample.py --chat": (sample.main, ["--checkpoint=base.pt", MODEL, "--max_new_tokens=3", "--chat"]),
    "sample.py --compare": (
        sample.main,
        ["--checkpoint=base.pt", MODEL, "--max_new_tokens=3", "--compare=base.pt", "--out=a.md", "--force"],
    ),
    "arianna.evaluate": (evaluate.main, ["--checkpoint=base.pt", MODEL, "--pairs=pairs.jsonl"]),
    "arianna.export": (export.main, ["a.bin", "--checkpoint=base.pt", "--force"]),
    "arianna.report": (report.main, ["--help"]),
    "tokenizer.py": (tokenizers.main, ["t.model"]),
    "arianna_data.py": (
        arianna_data.main,
        ["pretokenize", "--data=a.txt", "--model=t.model", "--out=shards"],
    ),
    "arianna_ft.py": (arianna_ft.main, [*command("--dry_run")[2:]]),
    "train_arianna.py": (train_arianna.main, ["--help"]),
}
LASTING = {"arianna_ft.py", "train_arianna.py"}  # a night's work goes on without its terminal
FULL = "the output cannot be written: No space left on device\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = furnish(tmp_path_factory.mktemp("place"))
    (folder / "t.model").write_bytes((ROOT / "data/tok4096.model").read_bytes())
    (folder / "a.txt").write_text("A stone lies by the road.\n" * 50)
    (folder / "pairs.jsonl").write_text(f"{json.dumps(PAIR)}\n" * 3)
    return folder


def closed(*numbers: int) -> None:
    for number in numbers:
        os.close(number)


def as_python_opens(number: int) -> TextIO | None:
    """A standard stream as a new process finds it: None where it is closed."""
    try:
        os.fstat(number)
    except OSError:
        return None
    return open(number, "w" if number else "r")


def into(path: str) -> None:
    os.dup2(os.open(path, os.O_WRONLY), 1)


def into_a_pipe_that_nobody_reads() -> None:
    there, here = os.pipe()
    os.close(there)
    os.dup2(here, 1)


STREAMS: dict[str, Callable[[], None]] = {
    "<&-": lambda: closed(0),
    ">&-": lambda: closed(1),
    "<&- >&-": lambda: closed(0, 1),
    "<&- >&- 2>&-": lambda: closed(0, 1, 2),
    "| head -n 0": into_a_pipe_that_nobody_reads,
    ">/dev/full": lambda: into("/dev/full"),
}


def ended(name: str, folder: Path, arrange: Callable[[], None]) -> tuple[int, str]:
    """The exit code of a command in a child with its streams arranged, and what it says on stderr."""
    main, argv = COMMANDS[name]
    said = folder / "stderr"
    child = os.fork()
    if not child:
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        code = 99
        try:
            arrange()
            for number, stream in enumerate(("stdin", "stdout", "stderr")):
                setattr(sys, stream, as_python_opens(number))
            environment.open_streams()
            environment.speak_on(lasting=name in LASTING)
            config.run_main(main, argv)
        except SystemExit as left:
            code = left.code
        except BaseException:
            said.write_text(traceback.format_exc())
        finally:
            sys.stderr.flush()
            os._exit(code or 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.read_text()


@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_ends_in_good_order_whatever_its_streams_are(place, name, streams):
    if streams == ">/dev/full" and not os.path.exists("/dev/full"):
        pytest.skip("a disk that is always full")
    code, said = ended(name, place, STREAMS[streams])
    prints = name != "sample.py --chat"  # asked nothing, it says nothing
    is_cut = prints and streams in ("| head -n 0", ">/dev/full") and name not in LASTING
    assert (code, said) == (int(is_cut), FULL if prints and streams == ">/dev/full" else "")


@pytest.mark.parametrize(
    ("streams", "code", "told"),
    [("<&- >&-", 0, ""), (">/dev/full", 1, FULL), ("| head -n 0; exit ${PIPESTATUS[0]}", 1, "")],
)
def test_the_script_itself_does_so_too(place, streams, code, told):
    checkpoint.save(place / "one.pt", checkpoint.pack(build()))
    words = [sys.executable, str(ROOT / "sample.py"), "--checkpoint=one.pt", MODEL, "--max_new_tokens=3"]
    done = subprocess.run(
        ["bash", "-c", f'"$0" "$@" {streams}', *words], cwd=place, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "", told)
