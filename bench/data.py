"""A million conversations, about a gigabyte: how fast they become token shards, in how much memory, and how
soon training starts.

    python -m bench.data                                    # in /tmp; deleted afterwards
    python -m bench.data --conversations=100000 --folder=/tmp/many --keep
"""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from arianna.system import config
from bench import pairs

HERE = Path(__file__).resolve().parent.parent
RARE = 0.02  # share of words that stand in no sentence of the corpus


@dataclass(frozen=True)
class Config:
    """How much of what is made, and where."""

    conversations: int = 1_000_000  # of about a thousand bytes each
    folder: str = "/tmp/innerarianna_bench"  # for the file and its shards
    keep: bool = False  # leave them there


def write_conversations(path: Path, number: int) -> None:
    """Questions and answers of sentences from Arianna's prose, with rare words, numbers and typography in
    between."""
    rng = random.Random(1)
    prose = (HERE / "data/arianna_corpus.txt").read_text(encoding="utf-8")
    sentences_of_prose = [s for s in re.split(r"(?<=[.?!])\s+", prose) if 20 < len(s) < 200]
    rare = (HERE / "data/words.txt").read_text(encoding="utf-8").split()
    sentences = [sentence(rng, sentences_of_prose, rare) for _ in range(50_000)]
    with open(path, "w", encoding="utf-8") as file:
        for n in range(number):
            answer = []
            while sum(map(len, answer)) < 780:
                answer.append(rng.choice(sentences))
            question = f"{rng.choice(sentences)[:70]} {n}?"
            turns = [
                {"role": "user", "content": question},
                {"role": "assistant", "content": " ".join(answer)},
            ]
            file.write(json.dumps(turns, ensure_ascii=False) + "\n")


def sentence(rng: random.Random, sentences: list[str], rare: list[str]) -> str:
    words = rng.choice(sentences).split(" ")
    for _ in range(sum(rng.random() < RARE for _ in words)):
        words[rng.randrange(len(words))] = rng.choice(rare)
    return " ".join(words)


def run(command: list[str]) -> tuple[float, float]:
    """Seconds of a command, and the most memory that it and its children had, in GiB."""
    started, most = time.monotonic(), 0
    child = subprocess.Popen(
        command, env=pairs.environment(False), cwd=HERE, stdout=subprocess.PIPE, text=True
    )
    while child.poll() is None:
        most = max(most, memory(child.pid))
        time.sleep(0.2)
    output = child.communicate()[0]
    print(output, file=sys.stderr)
    if child.returncode:
        sys.exit(f"{' '.join(command)} failed")
    return time.monotonic() - started, most / 2**30


def memory(pid: int) -> int:
    """Bytes that a process and all below it have, each page counted once (Linux)."""
    total = 0
    try:
        total = (
            int(re.search(r"^Pss: +(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)[1])
            * 1024
        )
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, TypeError):  # it has just ended
        return total
    return total + sum(memory(int(child)) for child in children)


def main(argv: list[str] | None = None) -> int:
    cfg = config.parse(Config, argv, __doc__)
    folder = Path(cfg.folder)
    folder.mkdir(parents=True, exist_ok=True)
    talk, shards = folder / f"{cfg.conversations}.jsonl", folder / "shards"
    if not talk.exists():
        write_conversations(talk, cfg.conversations)
    shutil.rmtree(shards, ignore_errors=True)
    megabytes = talk.stat().st_size / 1e6
    seconds, gib = run(
        [sys.executable, "arianna_data.py", "pretokenize", f"--data={talk}", f"--out={shards}"]
    )
    figures = {
        "megabytes": round(megabytes),
        "seconds": round(seconds, 1),
        "megabytes_per_second": round(megabytes / seconds, 2),
    }
    pairs.tell("data, prepare", **figures, most_memory_gib=round(gib, 2))
    trainer = [
        "train_arianna.py",
        "--base=out/ckpt_v1_base.pt",
        f"--data_dir={shards}",
        f"--out_dir={folder / 'run'}",
        "--max_iters=1",
    ]
    seconds, gib = run([sys.executable, *trainer, "--fresh", "--eval_rows=8"])
    pairs.tell("data, first step", seconds=round(seconds, 1), most_memory_gib=round(gib, 2))
    if not cfg.keep:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
