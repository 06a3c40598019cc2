"""Results of labelled candidates as tables and plain sentences for a terminal of 100 columns."""

from __future__ import annotations

import re
from collections.abc import Mapping

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from regard.evaluate.compare import ERRORS
from regard.evaluate.figures import BY_USER
from regard.evaluate.result import Number, Result


def labelled_report(name: str, result: Result, baselines: Mapping[str, Result] | None = None) -> Group:
    """Return figures with intervals, baselines beside them, the reliability table, and the protocol in words."""
    figures = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    columns = {name: result, **(baselines or {})}
    for at, head in enumerate(("", *(part for each in columns for part in (each, "interval")))):
        figures.add_column(head, justify="right" if at else "left", no_wrap=True)
    for key in result.metrics:
        numbers = [each.metrics[key] for each in columns.values()]
        figures.add_row(key.replace("|", " | "), *(part for one in numbers for part in (_value(one), _interval(one))))
    parts: list[Table | Text] = [figures]
    if result.strata:
        parts.append(reliability(result))
    ahead = [Text(line) for line in _ahead(name, result, baselines or {})]
    return Group(*parts, *ahead, *(Text(line, style="dim") for line in _lines(result)))


def _ahead(name: str, result: Result, baselines: Mapping[str, Result]) -> list[str]:
    """Say every figure in which a baseline is ahead; of errors less is better."""
    lines = []
    for key, number in result.metrics.items():
        sign = -1 if key.partition("|")[0] in ERRORS else 1
        rivals = {label: one.metrics[key] for label, one in baselines.items() if one.metrics[key]["value"] is not None}
        if not rivals or number["value"] is None or key.endswith(f"|{BY_USER}"):
            continue
        leader = max(rivals, key=lambda label: sign * (rivals[label]["value"] or 0))
        if sign * round(rivals[leader]["value"] or 0, 4) > sign * round(number["value"], 4):
            lines.append(f"On {key} a baseline is ahead: {leader} {_value(rivals[leader])}, {name} {_value(number)}.")
    return lines


def reliability(result: Result) -> Table:
    """Return how probable positives were said to be, and how many there were, bin by bin."""
    title = "reliability: what was said, and what came"
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), title=title, title_justify="left")
    for head in ("said on average", "from", "to", "candidates", "positives", "share", "interval"):
        found.add_column(head, justify="right", no_wrap=True)
    for stratum in result.strata.values():
        numbers = stratum["metrics"]
        share = numbers["share_of_positives"]
        said = [f"{numbers[key]['value']:.4f}" for key in ("mean_probability", "lowest", "highest")]
        found.add_row(
            *said, f"{stratum['cases']:,}", f"{stratum['targets']:,}", f"{share['value']:.4f}", _interval(share)
        )
    return found


def _lines(result: Result) -> list[str]:
    said, spent = result.protocol, result.timing
    method, missing = said["interval"], said["targets_without_label"]
    missed = f" {missing:,} targets without a label are left out." if missing else ""
    alone = said["users_without_gauc"]
    one = f" {alone:,} users with one kind of label have no AUC of their own." * bool(alone)
    intervals = f"{100 * method['level']:.0f} % intervals from {method['resamples']:,} bootstrap resamples of users"
    asked = f"{said['cases']:,} requests of {said['users']:,} users, {said['cases_without_history']:,} without history"
    took = f"Scoring took {spent['scoring_seconds']:.1f} s, metrics {spent['metrics_seconds']:.1f} s"
    return [
        f"{said['part'].capitalize()} part of split {said['split']}: {asked}.",
        f"Candidates: {said['candidates']}; {said['candidates_scored']:,} in all.{missed}",
        f"Ties {said['ties']}. Request time {'' if said['request_time_used'] else 'not '}used.{one}",
        f"Weights: {said['weighting']}.",
        f"{intervals if method['resamples'] else 'No intervals were asked for'}.",
        f"{took} on {spent['machine']}, {spent['cores']} cores, device {spent['device']}.",
    ]


def _value(number: Number) -> str:
    return "-" if number["value"] is None else f"{number['value']:.4f}"


def _interval(number: Number) -> str:
    low, high = number["low"], number["high"]
    return "" if low is None or high is None else re.sub(r"(?<!\d)0\.", ".", f"{low:.4f}-{high:.4f}")
