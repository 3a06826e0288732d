"""Whether threads compute the same to the last bit: one training after another, each in a process of its own.

    python tests/faults/threads.py                   # 100 processes, two threads, the shipped base
    python tests/faults/threads.py 20 4 --compile    # 20 processes, four threads, flags for train_arianna.py

Prints how many different results there were, with the beginning of each one's hash, and exits with 1 if more
than one.
"""

import collections
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from arianna.corpus.encoding import prepare_conversations  # noqa: E402
from arianna.corpus.prepare import read_conversations  # noqa: E402
from arianna.corpus.split import split_sides  # noqa: E402
from arianna.formats import checkpoint  # noqa: E402
from arianna.system.files import write_missing  # noqa: E402
from tokenizer import Tokenizer  # noqa: E402

BASE = ROOT / "out/ckpt_v1_base.pt"


def prepare(folder: Path) -> None:
    found = read_conversations(ROOT / "data/arianna_conversations.jsonl")
    files, _ = prepare_conversations(*split_sides(found), Tokenizer(ROOT / "data/tok4096.model"), 256, 256)
    write_missing(files, folder)


def train(folder: Path, data: Path, threads: str, flags: list[str]) -> str:
    """The hash of the weights and moments after four steps."""
    steps = ["--max_iters=4", "--eval_interval=4", "--eval_rows=8", "--log_interval=1", *flags]
    words = [
        str(ROOT / "train_arianna.py"),
        f"--base={BASE}",
        f"--data_dir={data}",
        f"--out_dir={folder}",
        *steps,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": threads}
    subprocess.run([sys.executable, *words], env=environment, check=True, capture_output=True)
    state, digest = checkpoint.load(folder / "ckpt.pt"), hashlib.sha256()
    for tensor in (
        *state["model"].values(),
        *(t for s in state["optimizer"]["state"].values() for t in s.values()),
    ):
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def main(words: list[str]) -> int:
    numbers = [w for w in words if not w.startswith("-")]
    flags = [w for w in words if w.startswith("-")]
    processes, threads = (*numbers, *("100", "2")[len(numbers) :])
    found: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as scratch:
        prepare(Path(scratch) / "data")
        for number in range(int(processes)):
            folder = Path(scratch) / "run"
            found[train(folder, Path(scratch) / "data", threads, flags)] += 1
            shutil.rmtree(folder)
            counts = ", ".join(f"{digest[:12]} {count} times" for digest, count in found.items())
            print(
                f"{number + 1} processes of {threads} threads, {len(found)} different results: {counts}",
                flush=True,
            )
    return int(len(found) > 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
