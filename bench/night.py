"""Compare a search of some hours with `--preset=best`, on the shipped files and several outer splits.

    pip install -e .[search]
    python -m bench.night                            # half an hour a split, three splits: about two hours
    python -m bench.night --hours=0.25 --splits=1    # goes on after a stop; no job that is done is repeated

An outer split holds out another tenth of the conversations: the keys that part them are hashed with its
number. The whole job runs twice on each, with the preset and with the hours, in folders that stay. Prints a
line of JSON for each split and one for their mean; losses and forgetting in nats a token.
"""

from __future__ import annotations

import json
import shlex
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arianna.scoring import choose
from arianna.system import config
from bench import pairs

HERE = Path(__file__).resolve().parent.parent
JOB = """
import sys
from arianna.corpus import split
number, plain = sys.argv.pop(1), split.digest
split.digest = lambda text: plain(f"{number} {text}")
import arianna_ft
from arianna.system import config, processes
config.run_main(lambda argv: processes.ended(arianna_ft.main(argv)))
"""


@dataclass(frozen=True)
class Config:
    """What is measured, and where the jobs lie."""

    hours: float = 0.5  # of each search
    splits: int = 3  # outer splits, each with tenths of its own
    folder: str = "/tmp/innerarianna_night"  # for all that is made
    flags: str = ""  # more flags of arianna_ft.py, for both jobs: "--max_iters=4 --batch_size=2", say


def job(cfg: Config, split: int, name: str, *own: str) -> Path:
    """Do a whole job of a split, or what is left of it; returns the run's folder."""
    out = Path(cfg.folder) / f"{name} {split}"
    if not (out / "done").exists():
        flags = [f"--out_dir={out}", *own, *shlex.split(cfg.flags)]
        words, started = [sys.executable, "-c", JOB, str(split), *flags], time.time()
        subprocess.run(words, cwd=HERE, env=pairs.environment(True), stdout=sys.stderr, check=True)
        (out / "done").write_text(f"{time.time() - started:.1f}")
    return out / "ft"


def result(run: Path) -> dict[str, Any]:
    """What a job's result is worth on the conversations that its split holds out."""
    choice = choose.recall({"max_forgetting": 0.10, "blend": None}, run)
    report = json.loads((run / "report.json").read_bytes()) if (run / "report.json").exists() else {}
    listens = report.get("scores", {}).get("tuned", {}).get("listening") or {}
    losses = {"base": choice.base.answer_loss, "answers": choice.used.answer_loss}
    losses |= {"forgot": choice.used.forgetting(choice.base), "listens": listens.get("share")}
    return {name: round(value, 4) for name, value in losses.items() if value is not None}


def trials(run: Path) -> dict[str, Any]:
    """What a search tried, and the share of its processes' time in which they computed trials that ended."""
    found = json.loads((run / "search.json").read_bytes())
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    spans = [(s["seconds"], s["workers"]) for s in lines if s.get("search") == "trials"]
    an_hour = 3600 * len(found["trials"]) / sum(seconds for seconds, _ in spans)
    busy = sum(t["worker_seconds"] for t in found["trials"]) / sum(seconds * n for seconds, n in spans)
    told = {"trials": len(found["trials"]), "trials_an_hour": round(an_hour, 1), "computing": round(busy, 3)}
    told |= {"minutes": round(found["seconds"] / 60, 1), "expected_gain": round(found["expected_gain"], 4)}
    return told | {"presets": found["presets"], "chosen": found["chosen"]}


def main(argv: list[str] | None = None) -> int:
    cfg = config.parse(Config, argv, __doc__)
    gains = []
    for split in range(1, cfg.splits + 1):
        best = result(job(cfg, split, "best", "--preset=best"))
        run = job(cfg, split, f"{cfg.hours:g} hours", f"--hours={cfg.hours:g}")
        night = result(run)
        gains.append(best["answers"] - night["answers"])
        pairs.tell("a night", hours=cfg.hours, split=split, best=best, night=night | trials(run))
    pairs.tell("a night, mean", hours=cfg.hours, splits=cfg.splits, gain=round(statistics.fmean(gains), 4))
    return 0


if __name__ == "__main__":
    sys.exit(main())
