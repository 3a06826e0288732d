"""The result of a run: the chosen checkpoint, blended with the base or not, and whether it is better.

The run's log.jsonl has a line for each evaluation; after a resume the last line of a step counts.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from arianna.system.files import write_atomic
from arianna.training.log import read_log

if TYPE_CHECKING:
    from model import Transformer

BLENDS = tuple(i / 10 for i in range(1, 10))  # shares of the tuned weights that are tried


@dataclass(frozen=True)
class Point:
    """A model between the base and the end of a run, with its losses in nats a token."""

    step: int
    blend: float  # 0: the base, 1: the checkpoint as it was trained
    answer_loss: float
    base_text: dict[str, float]  # loss on each held-out base text

    def forgetting(self, base: Point) -> float:
        """The largest rise of the loss on base text over the base's; 0 where there is no base text."""
        known = base.base_text
        return max(
            (loss - known[name] for name, loss in self.base_text.items() if name in known), default=0.0
        )


@dataclass(frozen=True)
class Choice:
    """The base, the best checkpoint, the model made of both to be used, and all blends that were tried."""

    base: Point
    best: Point
    used: Point
    tried: tuple[Point, ...] = ()


def evaluations(folder: Path) -> list[Point]:
    """The scores of the base (step 0) and every checkpoint of a run, by step; ValueError if either lacks."""
    points = [
        Point(step, float(step > 0), entry["val_loss"], entry.get("base_text", {}))
        for step, entry in sorted(read_log(folder).items())
        if "val_loss" in entry
    ]
    if len(points) < 2 or points[0].step != 0:
        raise ValueError(
            f"{folder / 'log.jsonl'} has no evaluation of the base and of a checkpoint after it; "
            "run it again with --fresh."
        )
    return points


def best_checkpoint(points: list[Point]) -> Point:
    """The checkpoint with the lowest answer loss, the first of equals; the base is no checkpoint."""
    return min(points[1:], key=lambda p: (p.answer_loss, p.step))


def weights_of(point: Point, folder: Path) -> Path:
    """The file of a checkpoint. Raises ValueError, which says what it is for, if it is not there."""
    path = folder / f"ckpt_{point.step:06d}.pt"
    if not path.is_file():
        raise ValueError(
            f"{path} is missing; it holds the weights at iteration {point.step}, of which the result is "
            f"made: they are the best on held-out answers ({point.answer_loss:.4f} nats a token). "
            "Put it back, or train again with --fresh."
        )
    return path


def blended(base: Transformer, tuned: Transformer, share: float) -> Transformer:
    """base + share x (tuned - base), weight by weight (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903)."""
    if share == 1:
        return tuned
    model, theirs = copy.deepcopy(tuned), dict(base.named_parameters())
    for name, parameter in model.named_parameters():
        parameter.data = theirs[name].data.lerp(parameter.data, share)
    return model


def choose(
    points: list[Point], max_forgetting: float, blend: float | None, score: Callable[[Point, float], Point]
) -> Choice:
    """The best checkpoint or, if it forgets more than `max_forgetting`, its best blend that does not.

    `score(best, share)` scores a blend. A `blend` that is given is taken as it is. If every blend forgets too
    much, the smallest one is used: the verdict then says that the base is better.
    """
    base, best = points[0], best_checkpoint(points)
    if blend is not None:
        used = best if blend == 1 else score(best, blend)
        return Choice(base, best, used, (used,))
    if best.forgetting(base) <= max_forgetting:
        return Choice(base, best, best)
    tried = tuple(score(best, share) for share in BLENDS)
    allowed = [p for p in tried if p.forgetting(base) <= max_forgetting]
    return Choice(base, best, min(allowed or tried[:1], key=lambda p: p.answer_loss), tried)


def remember(choice: Choice, settings: dict[str, Any], folder: Path) -> None:
    """Store a choice in the run's folder with the settings it was made with: scoring blends takes a while."""
    text = json.dumps({"settings": settings, "choice": dataclasses.asdict(choice)}, indent=1)
    write_atomic(folder / "choice.json", text.encode())


def recall(settings: dict[str, Any], folder: Path) -> Choice | None:
    """The stored choice, None if there is none or it was made with other settings."""
    try:
        stored = json.loads((folder / "choice.json").read_bytes())
        if stored["settings"] != settings:
            return None
        base, best, used = (Point(**stored["choice"][name]) for name in ("base", "best", "used"))
        return Choice(base, best, used, tuple(Point(**p) for p in stored["choice"]["tried"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


Word = Literal["better", "no clear change", "worse"]


def judge(
    difference: float, interval: tuple[float, float] | None, forgetting: float, max_forgetting: float
) -> Word:
    """A run's result in a word, by the rise of the held-out answer loss, its 95% interval, and forgetting.

    | interval of the difference | forgetting within the budget | beyond it |
    |---|---|---|
    | wholly below 0 | better | no clear change |
    | contains 0, or there is none | no clear change | worse |
    | wholly above 0 | worse | worse |

    Where there are too few conversations for an interval, nothing can be told from them.
    """
    if not math.isfinite(difference):
        return "worse"
    low, high = interval if interval is not None else (-math.inf, math.inf)
    within = forgetting <= max_forgetting
    if high < 0:
        return "better" if within else "no clear change"
    return "no clear change" if low <= 0 and within else "worse"
