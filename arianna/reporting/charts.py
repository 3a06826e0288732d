"""The report's drawings: SVG inside the page, in the page's own colours (CSS variables) and fonts."""

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
MOST = 300  # points of a line; if there are more, neighbours are averaged
INK, FAINT, TRAINING, ANSWERS = "#0000a1", "#0000a2", "#0000a3", "#0000a4"
TEXTS = ("#0000a5", "#0000a6")  # base texts
# the colours that a drawing is made with, and the page's variables that take their place
COLOURS = {INK: "ink", FAINT: "faint", TRAINING: "training", ANSWERS: "answers"}
COLOURS |= {TEXTS[0]: "text-1", TEXTS[1]: "text-2"}
DASHED = {"linewidth": 0.8, "linestyle": (0, (2, 2))}

Line = tuple[str, str, Sequence[int], Sequence[float]]  # name, colour, iterations, losses


def drawn(name: str, alternative: str, draw: Callable[[Axes, str], None]) -> str:
    """Both sizes of a drawing as SVG elements. The same arguments give the same bytes."""
    return "\n".join(to_svg(f"{name}-{size}", size, alternative, draw) for size in SIZES)


def to_svg(name: str, size: str, alternative: str, draw: Callable[[Axes, str], None]) -> str:
    """A drawing of one size as an SVG element."""
    width, height = SIZES[size]
    colours = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK)
    colours |= dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), FAINT)
    style = {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "DejaVu Sans"}
    style |= {"font.size": 11.5 if size == "wide" else 10.5, "axes.grid": True, "axes.axisbelow": True}
    style |= dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left"), False)
    style |= {"xtick.major.size": 3, "ytick.major.size": 0, "axes.linewidth": 0.8, "grid.linewidth": 0.5}
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **style, **colours}):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        draw(figure.add_subplot(), size)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    label = f'role="img" aria-label="{escape(alternative)}"'
    return f'<svg class="{size}" viewBox="0 0 {width} {height}" {label}>{inside(file.getvalue(), name)}'


def inside(svg: str, name: str) -> str:
    """A drawing without its first tag and all links to elsewhere; its ids are made unique in the page."""
    svg = svg[svg.index(">", svg.index("<svg")) + 1 :]
    svg = re.sub(r"<(metadata|style)[ >].*?</\1>\s*|<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'id="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(|xlink:href=")#', rf"\1#{name}-", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    for colour, variable in COLOURS.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg.strip()


def thinned(steps: Sequence[int], losses: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most MOST points, each the mean of neighbours."""
    size = -(-len(steps) // MOST)
    slices = [slice(i, i + size) for i in range(0, len(steps), max(size, 1))]
    means = [[sum(values[s]) / len(values[s]) for s in slices] for values in (steps, losses)]
    return means[0], means[1]


def label_line(axes: Axes, x: float, label: str, to_the_left: bool) -> None:
    """Write a label beside the upper end of a vertical line."""
    place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    place |= {"xytext": (-5 if to_the_left else 5, 1), "ha": "right" if to_the_left else "left"}
    axes.annotate(label, (x, 1.0), **place, va="bottom", annotation_clip=False)


# ---- the curves ----


def text_name(name: str) -> str:
    """A base text as people call it."""
    return {"val_samples": "base's own text", "val_text": "base text"}.get(name, name.removeprefix("val_"))


def lines_of(training: Mapping[int, float], points: Sequence[Point]) -> list[Line]:
    """The lines to draw over the iterations; base texts beyond the first two are left out."""
    steps = [p.step for p in points]
    lines = [("training", TRAINING, list(training), list(training.values()))] if training else []
    lines.append(("held-out answers", ANSWERS, steps, [p.answer_loss for p in points]))
    names = [n for n in sorted(points[0].base_text, reverse=True) if all(n in p.base_text for p in points)]
    for name, colour in zip(names, TEXTS, strict=False):
        lines.append((text_name(name), colour, steps, [p.base_text[name] for p in points]))
    return lines


def curves(training: Mapping[int, float], points: Sequence[Point], choice: Choice) -> dict[str, Any]:
    """Losses by iteration, the chosen one marked: {svg, alternative, legend}."""
    lines, used = lines_of(training, points), choice.used
    changes = "; ".join(f"{name} from {losses[0]:.2f} to {losses[-1]:.2f}" for name, _, _, losses in lines)
    beginning = f"Losses in nats a token over {points[-1].step} iterations"
    alternative = f"{beginning}: {changes}. Chosen: iteration {used.step}."

    def draw(axes: Axes, size: str) -> None:
        for name, colour, steps, losses in lines:
            look = {"linewidth": 1.0 if name == "training" else 1.8}
            look |= {"linestyle": "--" if colour == TEXTS[1] else "-"}
            if name != "training" and len(steps) <= 40:
                look |= {"marker": "o", "markersize": 2.6}
            axes.plot(*thinned(steps, losses), color=colour, **look)
        axes.axvline(used.step, color=INK, **DASHED)
        ring = {"markersize": 8, "markerfacecolor": "none", "markeredgewidth": 1.6}
        axes.plot([used.step], [used.answer_loss], "o", color=ANSWERS, clip_on=False, **ring)
        label = f"iteration {used.step}" + ("" if used.blend == 1 else f", blended {used.blend:.0%}")
        label_line(axes, used.step, label, to_the_left=used.step > 0.6 * points[-1].step)
        axes.set_xlim(0, points[-1].step)
        axes.set_xlabel("iteration")
        axes.set_ylabel("nats a token")

    legend = [{"name": name, "colour": COLOURS[colour]} for name, colour, _, _ in lines]
    return {"svg": drawn("curves", alternative, draw), "alternative": alternative, "legend": legend}


# ---- the frontier ----


def frontier(points: Sequence[Point], choice: Choice, name: str, max_forgetting: float) -> dict[str, Any]:
    """Answer loss over the loss on base text `name`, for base, checkpoints and blends: {svg, alternative}."""
    base, used = choice.base, choice.used
    checkpoints = [p for p in points[1:] if name in p.base_text]
    blends = [p for p in choice.tried if name in p.base_text]
    alternative = (
        f"Held-out answer loss against the loss on {text_name(name)}: "
        f"base {base.answer_loss:.2f} and {base.base_text[name]:.2f}, "
        f"used {used.answer_loss:.2f} and {used.base_text[name]:.2f}; "
        f"{len(checkpoints)} checkpoints, {len(blends)} blends."
    )

    def draw(axes: Axes, size: str) -> None:
        def plot(points: list[Point], look: str, color: str, **options: Any) -> None:
            x, y = [p.base_text[name] for p in points], [p.answer_loss for p in points]
            axes.plot(x, y, look, color=color, **options)

        plot([base, *checkpoints], "-", ANSWERS, linewidth=1)
        plot(checkpoints, "o", ANSWERS, markersize=4 if len(checkpoints) <= 40 else 2)
        plot(blends, "D", TEXTS[0], markersize=4.5, mfc="none")
        plot([base], "s", INK, markersize=6)
        plot([used], "o", INK, markersize=11, markerfacecolor="none", markeredgewidth=1.6)
        limit = base.base_text[name] + max_forgetting
        axes.axvline(limit, color=INK, **DASHED)
        label_line(axes, limit, "allowed", to_the_left=limit > sum(axes.get_xlim()) / 2)
        for label, p in (("base", base), ("used", used)):
            place = (p.base_text[name], p.answer_loss)
            axes.annotate(label, place, textcoords="offset points", xytext=(9, 4))
        axes.margins(x=0.12, y=0.1)
        axes.set_xlabel(f"loss on {text_name(name)}, nats a token")
        axes.set_ylabel("held-out answers, nats a token")

    return {"svg": drawn("frontier", alternative, draw), "alternative": alternative, "text": text_name(name)}


# ---- the search ----


Dots = Sequence[tuple[float, float]]  # minute, nats a token


def searched(ended: Dots, stopped: Dots, best: Dots, base: float | None, minutes: float) -> dict[str, Any]:
    """Each trial by the minute of its end, or of its stop, and the best so far: {svg, alternative}."""
    alternative = (
        f"{len(ended)} trials that came to their end and {len(stopped)} stopped early, "
        f"over {minutes:.0f} minutes; "
        f"the best value so far falls from {best[0][1]:.3f} to {best[-1][1]:.3f} nats a token."
    )

    def draw(axes: Axes, size: str) -> None:
        for dots, look in ((stopped, {"markerfacecolor": "none"}), (ended, {})):
            axes.plot([x for x, _ in dots], [y for _, y in dots], "o", color=TEXTS[0], markersize=4, **look)
        x, y = zip(*best, (minutes, best[-1][1]), strict=True)
        axes.plot(x, y, drawstyle="steps-post", color=ANSWERS, linewidth=1.8)
        if base is not None:
            axes.axhline(base, color=INK, **DASHED)
            axes.annotate("base", (1.0, base), xycoords=("axes fraction", "data"), ha="right", va="bottom")
        axes.set_xlim(0, minutes)
        axes.set_xlabel("minutes")
        axes.set_ylabel("nats a token, mean over folds")

    return {"svg": drawn("searched", alternative, draw), "alternative": alternative}
