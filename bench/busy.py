"""Train beside one other busy process (on one core, at nice 19 and at nice 0): the speed as a share of the
quiet one.

    python -m bench.busy

The step is timed in the environment that train_arianna.py gives itself, and in the plain one of the shell.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator

from bench import pairs
from bench.step import ours, seconds_of
from model import ModelArgs

STEPS = 2  # a measurement
NICE = (19, 0)  # of the other process


@contextlib.contextmanager
def other_process(nice: int | None) -> Iterator[None]:
    """Somebody else's work on the first of our cores; None: nobody's."""
    if nice is None:
        yield
        return
    core = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, {{{core}}}); "
        f"os.nice({nice} - os.nice(0)); exec('while True: pass')"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            yield
        finally:
            process.kill()


def main() -> int:
    args = ModelArgs()
    if len(sys.argv) > 1:
        step = ours(args)
        return pairs.serve(lambda _: sum(seconds_of(step, args, "float32", "windows") for _ in range(STEPS)))
    with pairs.workers("bench.busy", {"ours": True, "plain": False}) as workers:

        def beside(name: str, nice: int | None) -> float:
            with other_process(nice):
                return workers[name].ask()

        asked = {
            (name, nice): lambda name=name, nice=nice: beside(name, nice)
            for name in workers
            for nice in (None, *NICE)
        }
        seconds = pairs.in_turn(asked)
    speeds = {key: round(STEPS * 8 * args.max_seq_len / statistics.median(s)) for key, s in seconds.items()}
    for nice in NICE:
        shares = {name: pairs.ratio(seconds[name, None], seconds[name, nice]) for name in workers}
        pairs.tell(
            f"busy, nice {nice}",
            share=shares["ours"],
            tokens_per_second={"quiet": speeds["ours", None], "busy": speeds["ours", nice]},
            peer="the same step in a plain environment",
            peer_share=shares["plain"],
            peer_tokens_per_second={"quiet": speeds["plain", None], "busy": speeds["plain", nice]},
            ratio=pairs.ratio(seconds["plain", nice], seconds["ours", nice]),
            pairs=pairs.PAIRS,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
