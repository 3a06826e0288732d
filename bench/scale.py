"""How cost grows with the model, the conversations and the workers of a search, drawn in docs/scale.svg.

    python -m bench.scale step       # a step of 8 rows of 256 tokens, 7 to 117 million parameters
    python -m bench.scale prepare    # 20 to 1,000,000 conversations; 3 GB in /tmp, deleted afterwards
    python -m bench.scale search     # 1 to 4 workers, two minutes each
    python -m bench.scale draw       # the drawing, and the lines fitted

Each point is a command of its own and a line of bench/scale.jsonl; the newest of a point counts. A line is
fitted to the points' relative distances from it, so that small ones count as much as large ones.
"""

from __future__ import annotations

import datetime
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from arianna import ROOT
from arianna.formats.write import write_model
from arianna.reporting.scored_run import this_machine
from bench import data, pairs
from bench.step import least, ours, seconds_of
from model import ModelArgs, Transformer

RESULTS, DRAWING = ROOT / "bench/scale.jsonl", ROOT / "docs/scale.svg"
WIDTHS = (288, 432, 624, 864, 1248)  # each about twice the work of the one before it
CONVERSATIONS = (20, 1_000, 100_000, 1_000_000)
WORKERS = (1, 2, 3, 4)
HOURS = 0.03  # of a search
SMALL = ModelArgs(dim=96, n_layers=2, n_heads=2)  # its base: one that is shipped would try three settings
STEPS = 3  # of which the fastest counts
CURVES = {  # kind and figure: the axes' words
    ("step", "seconds"): ("parameters", "a step of 2,048 tokens, s"),
    ("step", "gib"): ("parameters", "its process, GiB"),
    ("prepare", "seconds"): ("conversations", "from conversations to shards, s"),
    ("prepare", "gib"): ("conversations", "all its processes, GiB"),
    ("search", "folds_an_hour"): ("workers", "folds trained an hour"),
}


def one_step(width: int) -> dict[str, float]:
    """A step of a model of this width, in this process."""
    args = ModelArgs(dim=width, n_heads=width // 48)
    size, step = sum(p.numel() for p in Transformer(args).parameters()), ours(args)
    seconds = least(lambda: seconds_of(step, args, "bfloat16", "windows"), STEPS + 1)
    return {"x": size, "seconds": seconds, "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def step_point(width: int) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.scale", "one_step", str(width)]
    done = subprocess.run(command, env=pairs.environment(True), stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def prepare_point(number: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        talk, shards = Path(folder, "talk.jsonl"), Path(folder, "shards")
        data.write_conversations(talk, number)
        words = ["arianna_data.py", "pretokenize", f"--data={talk}", f"--out={shards}"]
        seconds, gib = data.run([sys.executable, *words])
    return {"x": number, "seconds": seconds, "gib": gib}


def search_point(workers: int) -> dict[str, float]:
    """Trainings of a small model on a fold, over the time until the last trial was told."""
    with tempfile.TemporaryDirectory() as folder:
        model, base = Transformer(SMALL), Path(folder, "base.bin")
        model.init_weights(1)
        write_model(model, base)
        words = [f"--hours={HOURS}", f"--workers={workers}", f"--base={base}", f"--out_dir={folder}/out"]
        subprocess.run(
            [sys.executable, "arianna_ft.py", *words, "--report=False"],
            cwd=ROOT,
            stdout=sys.stderr,
            check=True,
        )
        trials = json.loads(Path(folder, "out/ft/search.json").read_text())["trials"]
    folds = sum(trial["seen"] for trial in trials)
    return {"x": workers, "folds_an_hour": 3600 * folds / max(trial["seconds"] for trial in trials)}


POINTS = {
    "step": (step_point, WIDTHS),
    "prepare": (prepare_point, CONVERSATIONS),
    "search": (search_point, WORKERS),
}


def measure(kind: str) -> None:
    point, places = POINTS[kind]
    for place in places:
        told = {"date": datetime.date.today().isoformat(), "machine": this_machine()["processor"]}
        line = json.dumps({"kind": kind, **point(place), **told})
        print(line, flush=True)
        with open(RESULTS, "a") as file:
            file.write(line + "\n")


def fitted(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """A line's height at 0 and its slope, nearest to the points by relative distance."""
    columns = np.stack((1 / y, x / y), 1)
    start, slope = np.linalg.lstsq(columns, np.ones_like(y), rcond=None)[0]
    return float(start), float(slope)


def draw() -> None:
    import matplotlib
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    newest = {(line["kind"], line["x"]): line for line in lines}
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "scale", "font.size": 9})
    figure = Figure(figsize=(11, 6), layout="constrained")
    *panels, unused = figure.subplots(2, 3).flat
    unused.set_axis_off()
    for axes, ((kind, figure_of), words) in zip(panels, CURVES.items(), strict=True):
        found = sorted((line["x"], line[figure_of]) for (k, _), line in newest.items() if k == kind)
        if len(found) < 4:
            continue
        x, y = np.array(found).T
        start, slope = fitted(x, y)
        along = np.geomspace(x[0], x[-1], 100)
        axes.plot(x, y, "o", color="#b0413e")
        axes.plot(along, start + slope * along, color="#555555", linewidth=1)
        if kind != "search":
            axes.set(xscale="log", yscale="log")
        axes.set(xlabel=words[0], title=words[1])
        dated = max(line["date"] for (k, _), line in newest.items() if k == kind)
        far = float(np.max(np.abs((start + slope * x) / y - 1)))
        pairs.tell(
            f"scale, {kind}, {figure_of}", start=start, slope=slope, farthest=round(far, 3), measured=dated
        )
    figure.savefig(DRAWING, metadata={"Date": None})


def main(argv: list[str]) -> int:
    match argv:
        case ["one_step", width]:
            print(json.dumps(one_step(int(width))))
        case ["draw"]:
            draw()
        case [kind] if kind in POINTS:
            measure(kind)
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
