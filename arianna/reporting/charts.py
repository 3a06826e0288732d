"""The report's drawings: SVG for the inside of a page, whose colours and fonts are the page's own (CSS
variables).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from arianna.scoring.choose import Choice, Point

SIZES = {"wide": (560, 390), "narrow": (340, 260)}  # CSS pixels; the page shows one of them
MOST = 300  # points of a line; of more, neighbours are averaged
INK, FAINT, TRAINING, ANSWERS = "#0000a1", "#0000a2", "#0000a3", "#0000a4"
TEXTS = ("#0000a5", "#0000a6")  # base texts
COLOURS = {
    INK: "ink",
    FAINT: "faint",
    TRAINING: "training",
    ANSWERS: "answers",
    TEXTS[0]: "text-1",
    TEXTS[1]: "text-2",
}
"""What a drawing is drawn with, and the page's variables that take its place."""

Line = tuple[str, str, Sequence[int], Sequence[float]]  # name, colour, iterations, losses


def drawn(name: str, alternative: str, draw: Callable[[Axes, str], None]) -> str:
    """Both sizes of a drawing as SVG elements. The same arguments give the same bytes."""
    return "\n".join(to_svg(f"{name}-{size}", size, alternative, draw) for size in SIZES)


def to_svg(name: str, size: str, alternative: str, draw: Callable[[Axes, str], None]) -> str:

    width, height = SIZES[size]
    colours = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK)
    colours |= dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), FAINT)
    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.family": "DejaVu Sans",
        "font.size": 11.5 if size == "wide" else 10.5,
        "axes.grid": True,
    }
    style |= {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "grid.linewidth": 0.5,
    }
    style |= {"xtick.major.size": 3, "ytick.major.size": 0, "axes.axisbelow": True, "axes.linewidth": 0.8}
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **style, **colours}):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        draw(figure.add_subplot(), size)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    start = (
        f'<svg class="{size}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(alternative)}">'
    )
    return start + inside(file.getvalue(), name)


def inside(svg: str, name: str) -> str:
    """A drawing without its first tag and whatever names another place; ids are made the drawing's own."""
    svg = svg[svg.index(">", svg.index("<svg")) + 1 :]
    svg = re.sub(r"<(metadata|style)[ >].*?</\1>\s*|<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'id="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(|xlink:href=")#', rf"\1#{name}-", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    for colour, variable in COLOURS.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg.strip()


def thinned(steps: Sequence[int], losses: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most MOST points: the means of neighbours."""
    size = -(-len(steps) // MOST)
    parts = [slice(i, i + size) for i in range(0, len(steps), max(size, 1))]
    means = [[sum(values[p]) / len(values[p]) for p in parts] for values in (steps, losses)]
    return means[0], means[1]


# ---- the curves ----


def text_name(name: str) -> str:
    """A base text as people call it."""
    return {"val_samples": "base's own text", "val_text": "base text"}.get(name, name.removeprefix("val_"))


def lines_of(training: Mapping[int, float], points: Sequence[Point]) -> list[Line]:
    """What is drawn over the iterations; base texts beyond the first two are left out."""
    steps = [p.step for p in points]
    lines = [("training", TRAINING, list(training), list(training.values()))] if training else []
    lines.append(("held-out answers", ANSWERS, steps, [p.answer_loss for p in points]))
    names = [n for n in sorted(points[0].base_text, reverse=True) if all(n in p.base_text for p in points)]
    return lines + [
        (text_name(n), c, steps, [p.base_text[n] for p in points]) for n, c in zip(names, TEXTS, strict=False)
    ]


def legend(lines: Sequence[Line]) -> list[dict[str, str]]:
    return [{"name": name, "colour": COLOURS[colour]} for name, colour, _, _ in lines]


def curves(training: Mapping[int, float], points: Sequence[Point], choice: Choice) -> dict[str, Any]:
    """Losses by iteration, the chosen one marked: {svg, alternative, legend}."""
    lines, used = lines_of(training, points), choice.used
    told = "; ".join(f"{name} from {losses[0]:.2f} to {losses[-1]:.2f}" for name, _, _, losses in lines)
    alternative = (
        f"Losses in nats a token over {points[-1].step} iterations: {told}. Chosen: iteration {used.step}."
    )

    def draw(axes: Axes, size: str) -> None:
        for name, colour, steps, losses in lines:
            marker = {"marker": "o", "markersize": 2.6} if name != "training" and len(steps) <= 40 else {}
            look = {
                "linewidth": 1.0 if name == "training" else 1.8,
                "linestyle": "--" if colour == TEXTS[1] else "-",
                **marker,
            }
            axes.plot(*thinned(steps, losses), color=colour, **look)
        axes.axvline(used.step, color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
        axes.plot(
            [used.step],
            [used.answer_loss],
            "o",
            color=ANSWERS,
            markersize=8,
            markerfacecolor="none",
            markeredgewidth=1.6,
            clip_on=False,
        )
        near_end = used.step > 0.6 * points[-1].step
        label = f"iteration {used.step}" + ("" if used.blend == 1 else f", blended {used.blend:.0%}")
        place = {
            "xycoords": ("data", "axes fraction"),
            "textcoords": "offset points",
            "xytext": (-5 if near_end else 5, 1),
        }
        axes.annotate(
            label,
            (used.step, 1.0),
            **place,
            ha="right" if near_end else "left",
            va="bottom",
            annotation_clip=False,
        )
        axes.set_xlim(0, points[-1].step)
        axes.set_xlabel("iteration")
        axes.set_ylabel("nats a token")

    return {"svg": drawn("curves", alternative, draw), "alternative": alternative, "legend": legend(lines)}


# ---- the frontier ----


def frontier(points: Sequence[Point], choice: Choice, name: str, max_forgetting: float) -> dict[str, Any]:
    """Answer loss against the loss on base text `name`, for base, checkpoints and blends: {svg,
    alternative}.
    """
    base, used = choice.base, choice.used
    checkpoints = [p for p in points[1:] if name in p.base_text]
    blends = [p for p in choice.tried if name in p.base_text]
    alternative = (
        f"Held-out answer loss against the loss on {text_name(name)}: base {base.answer_loss:.2f} and "
        f"{base.base_text[name]:.2f}, "
        f"used {used.answer_loss:.2f} and {used.base_text[name]:.2f}; {len(checkpoints)} checkpoints, "
        f"{len(blends)} blends."
    )

    def draw(axes: Axes, size: str) -> None:
        path = [base, *checkpoints]
        axes.plot(
            [p.base_text[name] for p in path], [p.answer_loss for p in path], "-", color=ANSWERS, linewidth=1
        )
        few = {"markersize": 4 if len(checkpoints) <= 40 else 2}
        axes.plot(
            [p.base_text[name] for p in checkpoints],
            [p.answer_loss for p in checkpoints],
            "o",
            color=ANSWERS,
            **few,
        )
        axes.plot(
            [p.base_text[name] for p in blends],
            [p.answer_loss for p in blends],
            "D",
            color=TEXTS[0],
            markersize=4.5,
            mfc="none",
        )
        axes.plot([base.base_text[name]], [base.answer_loss], "s", color=INK, markersize=6)
        ring = {"markersize": 11, "markerfacecolor": "none", "markeredgewidth": 1.6}
        axes.plot([used.base_text[name]], [used.answer_loss], "o", color=INK, **ring)
        limit = base.base_text[name] + max_forgetting
        axes.axvline(limit, color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
        crowded = axes.get_xlim()
        right = limit > sum(crowded) / 2
        place = {
            "xycoords": ("data", "axes fraction"),
            "textcoords": "offset points",
            "xytext": (-5 if right else 5, 1),
        }
        axes.annotate(
            "allowed",
            (limit, 1.0),
            **place,
            ha="right" if right else "left",
            va="bottom",
            annotation_clip=False,
        )
        for label, p in (("base", base), ("used", used)):
            axes.annotate(
                label, (p.base_text[name], p.answer_loss), textcoords="offset points", xytext=(9, 4)
            )
        axes.margins(x=0.12, y=0.1)
        axes.set_xlabel(f"loss on {text_name(name)}, nats a token")
        axes.set_ylabel("held-out answers, nats a token")

    return {"svg": drawn("frontier", alternative, draw), "alternative": alternative, "text": text_name(name)}


# ---- the search ----


Dots = Sequence[tuple[float, float]]  # minute, nats a token


def searched(ended: Dots, stopped: Dots, best: Dots, base: float | None, minutes: float) -> dict[str, Any]:
    """Each trial by the minute at which it ended or was stopped early, and the best so far: {svg,
    alternative}.
    """
    alternative = (
        f"{len(ended)} trials that came to their end and {len(stopped)} stopped early, over {minutes:.0f} "
        "minutes; "
        f"the best value so far falls from {best[0][1]:.3f} to {best[-1][1]:.3f} nats a token."
    )

    def draw(axes: Axes, size: str) -> None:
        for dots, look in ((stopped, {"markerfacecolor": "none"}), (ended, {})):
            axes.plot([x for x, _ in dots], [y for _, y in dots], "o", color=TEXTS[0], markersize=4, **look)
        steps = [*best, (minutes, best[-1][1])]
        axes.plot(
            [x for x, _ in steps], [y for _, y in steps], drawstyle="steps-post", color=ANSWERS, linewidth=1.8
        )
        if base is not None:
            axes.axhline(base, color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
            axes.annotate("base", (1.0, base), xycoords=("axes fraction", "data"), ha="right", va="bottom")
        axes.set_xlim(0, minutes)
        axes.set_xlabel("minutes")
        axes.set_ylabel("nats a token, mean over folds")

    return {"svg": drawn("searched", alternative, draw), "alternative": alternative}
