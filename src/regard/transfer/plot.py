"""The picture of a transfer report: quality by share of the data that trains, one line for each way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from regard.manifest import new_file
from regard.transfer.findings import LOSS, MEANING, NOTHING, OTHER, UNSURE, percent
from regard.transfer.ways import ID_ONLY, POPULAR, RANDOM, RAW, REFERENCES, SHUFFLED, UNIFORM

INK, QUIET = "#222222", "#767676"
COLOURS = {  # Okabe and Ito (2008): told apart by colour-blind eyes too
    ID_ONLY: INK,
    "init": "#E69F00",
    "frozen": "#56B4E9",
    "fuse": "#009E73",
    "gate": "#0072B2",
    SHUFFLED: "#D55E00",
    RANDOM: "#CC79A7",
    RAW: "#767676",
    POPULAR: "#767676",
    UNIFORM: "#767676",
}
DASHES: dict[str, Any] = {SHUFFLED: (4, 2), RANDOM: (4, 2), RAW: (1, 1.5), POPULAR: (6, 1.5, 1, 1.5), UNIFORM: (1, 3)}
TITLES = {
    MEANING: "{best} gains over id-only, from meaning: {most}",
    OTHER: "{best} gains over id-only, but not from meaning: {most}",
    NOTHING: "Nothing is gained: {best} and id-only cannot be told apart",
    LOSS: "Nothing is gained: {best} is behind id-only",
    UNSURE: "Quality by share of users that trains (no intervals)",
}
WHOLE = {
    MEANING: "it gains too, from meaning",
    OTHER: "it gains too, but not from meaning",
    NOTHING: "nothing is gained",
    LOSS: "it is behind id-only",
    UNSURE: "",
}


def draw(body: Mapping[str, Any], path: Path) -> None:
    """Write the picture of a report's body as PNG, whole or not at all."""
    figure = Figure(figsize=(9.6, 5.6), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.085, 0.125, 0.685, 0.69))
    shares = [float(share) for share in body["at"]]
    ends = {way: _line(axes, way, shares, body) for way in reversed(list(_ways(body)))}
    _scales(axes, shares)
    _labels(axes, ends, body["best"]["mode"])
    _words(figure, axes, body)
    with new_file(path) as aside:
        figure.savefig(aside, format="png")


def _ways(body: Mapping[str, Any]) -> Sequence[str]:
    return [ID_ONLY, *body["modes"], SHUFFLED, RANDOM, RAW, POPULAR, UNIFORM]


def _line(axes: Axes, way: str, shares: Sequence[float], body: Mapping[str, Any]) -> float:
    """Draw a way with the interval as a band; return where it ends."""
    numbers = [at["ways"][way]["metrics"][body["metric"]] for at in body["at"].values()]
    values = [number["value"] for number in numbers]
    dashes, heavy = DASHES.get(way), way in (ID_ONLY, body["best"]["mode"])
    trained = way not in REFERENCES
    look: dict[str, Any] = {"color": COLOURS[way], "linewidth": 2.6 if heavy else 1.6, "zorder": 4 if heavy else 3}
    dots: dict[str, Any] = {
        "marker": "o",
        "markersize": 5.5 if heavy else 4,
        "markeredgecolor": "white",
        "markeredgewidth": 0.8,
    }
    bounded = trained and numbers[0]["low"] is not None
    if len(shares) == 1 and not trained:
        axes.axhline(values[0], dashes=dashes, **look)
    elif len(shares) == 1:  # no line to draw: ways stand side by side
        names = [name for name in _ways(body) if name not in REFERENCES]
        place = shares[0] * 1.06 ** (names.index(way) - (len(names) - 1) / 2)
        axes.plot([place], values, **look, **dots)
        if bounded:
            axes.vlines(place, numbers[0]["low"], numbers[0]["high"], **look, linestyles="--" if dashes else "-")
    else:
        axes.plot(shares, values, dashes=dashes or (None, None), clip_on=False, **look, **(dots if trained else {}))
    if bounded and len(shares) > 1:
        low, high = ([number[end] for number in numbers] for end in ("low", "high"))
        axes.fill_between(shares, low, high, color=COLOURS[way], alpha=0.16 if heavy else 0.06, linewidth=0)
    return float(values[-1])


def _scales(axes: Axes, shares: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(shares)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([percent(share) for share in shares])
    room = (shares[-1] / shares[0]) ** 0.03 if len(shares) > 1 else 1.25
    axes.set_xlim(shares[0] / room, shares[-1] * (room**0.4 if len(shares) > 1 else room))
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(QUIET)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=QUIET, length=0, labelsize=10)
    axes.tick_params(axis="x", length=4)


def _labels(axes: Axes, ends: Mapping[str, float], best: str) -> None:
    """Name every line at its end; names that would overlap move apart, and a thin line leads to each."""
    low, high = axes.get_ylim()
    names = sorted(ends, key=lambda way: ends[way])
    places = apart([(ends[way] - low) / (high - low) for way in names], 0.052)
    for way, place in zip(names, places, strict=True):
        end = (ends[way] - low) / (high - low)
        x = 1.035
        axes.plot(
            [1.0, x - 0.008], [end, place], transform=axes.transAxes, color=COLOURS[way], linewidth=0.8, clip_on=False
        )
        text = f"{way}  {ends[way]:.4f}"
        heavy = "bold" if way in (best, ID_ONLY) else "normal"
        axes.text(x, place, text, transform=axes.transAxes, color=COLOURS[way], fontsize=10, va="center", weight=heavy)


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Move ascending places so far apart that none is nearer than `gap` to the next, and as little as that takes.

    None goes below 0, nor above 1 as long as there is room.

    Pool-adjacent-violators: groups of names that touch share the middle of where they would like to be.
    """
    groups: list[list[float]] = []  # of each: the sum of where its members would like its start to be, and their number
    for place in places:
        groups.append([place, 1])
        while len(groups) > 1 and _start(groups[-2]) + groups[-2][1] * gap > _start(groups[-1]):
            total, many = groups.pop()
            before = groups[-1]
            before[0] += total - many * before[1] * gap
            before[1] += many
    found: list[float] = []
    for total, many in groups:
        found += [total / many + at * gap for at in range(int(many))]
    above = np.arange(len(found)) * gap
    return list(np.maximum(np.minimum(found, 1 - above[::-1]), above))


def _start(group: Sequence[float]) -> float:
    return group[0] / group[1]


def _words(figure: Figure, axes: Axes, body: Mapping[str, Any]) -> None:
    """The finding as the title, and what is drawn below it."""
    best, metric = body["best"]["mode"], body["metric"]
    share, at = _telling(body)
    relative = at["against_id_only"][best][metric]["relative"]
    most = "" if relative is None else f"{100 * relative:+.0f} % with "
    title = TITLES[at["gain"]].format(best=best, most=f"{most}{percent(float(share))} of users")
    largest = max(body["at"], key=float)
    whole = f"With {percent(float(largest))} of users {WHOLE[body['at'][largest]['gain']]}." * (share != largest)
    said, left = body["protocol"], axes.get_position().x0
    seeds = f"{len(body['seeds'])} seed{'s' * (len(body['seeds']) > 1)}"
    below = f"{metric} of {body['model']} on test, split {said['split']}, {said['users']:,} users, {seeds}; bands: 95 %"
    foot = f"users whose events train (log scale); all are evaluated. Dashed: {best} with vectors that mean nothing"
    figure.text(left, 0.94, title, fontsize=15, weight="bold", color=INK)
    for height, text in zip((0.9, 0.866), filter(None, (whole, below)), strict=False):
        figure.text(left, height, text, fontsize=10, color=QUIET)
    figure.text(left, 0.03, foot, fontsize=10, color=QUIET)


def _telling(body: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The share whose finding is the title: the largest gain from meaning, else another gain, else the whole."""
    best, metric = body["best"]["mode"], body["metric"]
    for kind in (MEANING, OTHER):
        found = [(share, at) for share, at in body["at"].items() if at["gain"] == kind]
        if found:
            return max(found, key=lambda pair: pair[1]["against_id_only"][best][metric]["difference"])
    largest = max(body["at"], key=float)
    return largest, body["at"][largest]
