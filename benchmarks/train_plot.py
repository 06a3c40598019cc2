"""The picture of the comparison of training: validation quality by seconds of learning, one line for each side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from regard.manifest import new_file
from regard.transfer.plot import INK, QUIET, apart
from train_log import KEY
from train_page import Chapter, Curve
from train_sides import FREE, OURS, TARGETS

COLOURS = {OURS: "#0072B2", "rectools": "#D55E00", "replay": "#009E73", "recbole": "#CC79A7"}  # Okabe and Ito (2008)
TITLES = {"rectools": "RecTools", "replay": "RePlay", "recbole": "RecBole"}


def draw(chapter: Chapter, path: Path) -> None:
    """Write the picture of a log as PNG, whole or not at all."""
    figure = Figure(figsize=(9.6, 5.6), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.085, 0.125, 0.62, 0.715))
    for curve in reversed(chapter.curves):
        _line(axes, curve)
    _scales(axes)
    if target := TARGETS.get(chapter.name):
        _target(axes, chapter, target)
    _labels(axes, chapter.curves)
    left = axes.get_position().x0
    figure.text(left, 0.935, _title(chapter), fontsize=14, weight="bold", color=INK)
    below = f"{KEY} on validation, leave-one-out, {chapter.name}; a dot is a look, its seconds are of learning alone"
    figure.text(left, 0.89, below, fontsize=10, color=QUIET)
    figure.text(left, 0.03, "seconds of learning (log scale), validation left out", fontsize=10, color=QUIET)
    with new_file(path) as aside:
        figure.savefig(aside, format="png")


def _title(chapter: Chapter) -> str:
    """The finding: how many times sooner ours are there, if everybody gets there."""
    target = TARGETS.get(chapter.name)
    ours = [curve.reached(target) for curve in chapter.free] if target else []
    theirs = [reached for curve in chapter.peers if (reached := curve.reached(target))] if target else []
    whole = [reached for reached in ours if reached]
    if theirs and whole and len(whole) == len(ours):
        times = min(theirs)[0] / max(reached[0] for reached in whole)
        return f"{OURS} {FREE} reaches {target:.3f} in 1/{times:,.1f} of the seconds of the first peer"
    return "Quality by seconds of learning"


def _side(curve: Curve) -> str:
    return curve.label.partition(",")[0]


def _line(axes: Axes, curve: Curve) -> None:
    side = _side(curve)
    width, order = (2.6, 4) if side == OURS else (1.8, 3)
    dots: dict[str, Any] = {"marker": "o", "markersize": 4.5, "markeredgecolor": "white", "markeredgewidth": 0.7}
    dots["linestyle"] = "--" if FREE in curve.label else "-"
    axes.plot(curve.seconds, curve.quality, color=COLOURS[side], linewidth=width, zorder=order, **dots, clip_on=False)


def _scales(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g} s"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(QUIET)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.grid(axis="x", color="#f1f1f1", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=QUIET, length=0, labelsize=10)
    axes.tick_params(axis="x", length=4)


def _target(axes: Axes, chapter: Chapter, target: float) -> None:
    """A line at the quality whose seconds are asked for, and when each side was there."""
    axes.axhline(target, color=QUIET, linewidth=0.9, dashes=(4, 3), zorder=2)
    for curve in chapter.curves:
        if reached := curve.reached(target):
            colour = COLOURS[_side(curve)]
            axes.plot([reached[0]] * 2, [0, target], color=colour, linewidth=0.9, dashes=(1, 2), zorder=2)
            axes.text(reached[0], 0, f" {reached[0]:,.0f} s", color=colour, fontsize=9, va="bottom")


def _labels(axes: Axes, curves: Sequence[Curve]) -> None:
    """Name every line beside the picture with the best it reached; a thin line leads to its end."""
    low, high = axes.get_ylim()
    sides = {curve.label: curve for curve in curves}
    ends = {label: (float(curve.quality[-1]) - low) / (high - low) for label, curve in sides.items()}
    names = sorted(ends, key=ends.__getitem__)
    for label, place in zip(names, apart([ends[name] for name in names], 0.06), strict=True):
        curve = sides[label]
        side = _side(curve)
        name = label.removeprefix(f"{OURS}, ") if FREE in label else label
        text = f"{TITLES.get(side, name)}  {curve.quality.max():.4f}"
        weight = "bold" if side == OURS else "normal"
        axes.annotate(
            text,
            (curve.seconds[-1], curve.quality[-1]),
            (1.035, place),
            textcoords="axes fraction",
            color=COLOURS[side],
            fontsize=10.5,
            va="center",
            weight=weight,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": COLOURS[side],
                "linewidth": 0.6,
                "alpha": 0.6,
                "shrinkA": 2,
                "shrinkB": 4,
            },
        )
