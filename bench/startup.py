"""Seconds from `python arianna_ft.py` to the end of the first training step, on the files that are shipped,
in a new folder.

    python -m bench.startup
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import pairs

HERE = Path(__file__).resolve().parent.parent
RUNS = 5
FIRST_STEP = re.compile(r"^1 \| loss")


def seconds_to_first_step(place: Path, lines: dict[str, float]) -> float:
    """Start the whole job in a folder and kill it when its first step is told. `lines` gets when each line
    came."""
    started = time.monotonic()
    command = [sys.executable, str(HERE / "arianna_ft.py"), "--fresh", "--log_interval=1"]
    child = subprocess.Popen(
        command, cwd=place, env=pairs.environment(False), stdout=subprocess.PIPE, text=True
    )
    for line in child.stdout:
        lines[line.strip()[:60]] = round(time.monotonic() - started, 2)
        if FIRST_STEP.match(line):
            break
    else:
        sys.exit("the job ended before its first step")
    seconds = time.monotonic() - started
    child.kill()  # the trainer notices, and ends
    child.communicate()
    time.sleep(3)
    return seconds


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        shutil.copytree(HERE / "data", place / "data")
        (place / "out").mkdir()
        shutil.copy(HERE / "out/ckpt_v1_base.pt", place / "out")
        lines: dict[str, float] = {}
        seconds = [seconds_to_first_step(place, lines) for _ in range(RUNS + 1)][1:]
    for line, at in lines.items():
        print(f"{at:6.2f} {line}", file=sys.stderr)
    pairs.tell(
        "startup", seconds=round(statistics.median(seconds), 2), runs=RUNS, all=[round(s, 2) for s in seconds]
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
