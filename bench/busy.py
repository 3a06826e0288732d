"""Training beside one other busy process (nice 19, on one core): its speed as a share of the quiet one.

    python -m bench.busy

The same step in the environment that train_arianna.py gives itself, and in the one that it would have without.
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


@contextlib.contextmanager
def other_process(at_work: bool) -> Iterator[None]:
    """Somebody else's work on the first of our cores."""
    if not at_work:
        yield
        return
    core = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{core}}}); os.nice(19 - os.nice(0)); exec('while True: pass')"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            yield
        finally:
            process.kill()


def main() -> int:
    args = ModelArgs()
    if len(sys.argv) > 1:
        step = ours(args)
        return pairs.serve(lambda _: sum(seconds_of(step, args) for _ in range(STEPS)))
    with pairs.workers("bench.busy", {"ours": True, "plain": False}) as found:

        def beside(name: str, at_work: bool) -> float:
            with other_process(at_work):
                return found[name].ask()

        asked = {(name, busy): lambda name=name, busy=busy: beside(name, busy) for name in found for busy in (False, True)}
        seconds = pairs.in_turn(asked)
    speeds = {key: round(STEPS * 8 * args.max_seq_len / statistics.median(s)) for key, s in seconds.items()}
    shares = {name: pairs.ratio(seconds[name, False], seconds[name, True]) for name in found}
    pairs.tell(
        "busy",
        share=shares["ours"],
        tokens_per_second={"quiet": speeds["ours", False], "busy": speeds["ours", True]},
        peer="the same step in a plain environment",
        peer_share=shares["plain"],
        peer_tokens_per_second={"quiet": speeds["plain", False], "busy": speeds["plain", True]},
        pairs=pairs.PAIRS,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
