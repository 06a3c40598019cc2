"""Is one run better than another? The same users, their differences, and a paired bootstrap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from regard.errors import ProtocolError
from regard.evaluate.bootstrap import LEVEL, interval, resampled_means
from regard.evaluate.result import Result

SAME = (
    "dataset",
    "part",
    "split",
    "split_seed",
    "split_cuts",
    "targets",
    "target_behaviours",
    "candidates",
    "seen",
)
"""What must agree in two protocols before their numbers are set against each other."""


def compare(results: Mapping[str, Result], *, bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Set each result against the first, on the same users, by every metric they share.

    Returns:
        `{"base": name, "against": {name: {metric: {"base", "value", "difference", "low", "high", "relative",
        "above_zero"}}}, "protocol": {...}}`, ready for `json`: `difference` is value - base, the mean over users;
        `low` and `high` end its 95 % interval; `relative` is difference / base; `above_zero` is the share of resamples
        in which the difference was positive.

    Raises:
        ProtocolError: fewer than two results, or results of different protocols; the message says what differs.
    """
    if len(results) < 2:
        raise ProtocolError(f"a comparison needs at least two runs; got {len(results)}")
    (base, first), *others = results.items()
    for name, result in others:
        _check(base, first, name, result)
    against = {name: _differences(first, result, bootstrap, seed) for name, result in others}
    stated = {key: first.protocol[key] for key in (*SAME, "users", "cases")}
    stated["interval"] = {
        "level": LEVEL,
        "method": "paired percentile bootstrap over users",
        "resamples": bootstrap,
        "seed": seed,
    }
    return {"base": base, "against": against, "protocol": stated}


ERRORS = ("log_loss", "calibration_error", "rmse", "mae")
"""Metrics of which less is better."""


def verdict(metric: str, numbers: Mapping[str, float | None]) -> str:
    """Return `ahead`, `behind` or `unclear` for one metric of a comparison; unclear = the interval holds zero."""
    low, high = numbers["low"], numbers["high"]
    if low is None or high is None or low <= 0 <= high:
        return "unclear"
    return "ahead" if (low > 0) != (metric.partition("|")[0] in ERRORS) else "behind"


def _check(base: str, first: Result, name: str, other: Result) -> None:
    said = [(key, first.protocol.get(key), other.protocol.get(key)) for key in SAME]
    differ = [f"{key} ({left} / {right})" for key, left, right in said if left != right]
    if differ:
        raise ProtocolError(
            f"{base} and {name} were measured differently: {', '.join(differ)}; evaluate both under one protocol"
        )
    if not np.array_equal(first.users, other.users) or not first.per_user:
        raise ProtocolError(f"{base} and {name} do not hold values of the same users; evaluate both again")


def _differences(first: Result, other: Result, bootstrap: int, seed: int) -> dict[str, dict[str, float | None]]:
    shared = [key for key in first.per_user if key in other.per_user]
    columns = {key: other.per_user[key].astype(np.float64) - first.per_user[key] for key in shared}
    means = resampled_means(columns.values(), bootstrap, seed)
    found: dict[str, dict[str, float | None]] = {}
    for (key, column), resampled in zip(columns.items(), means.T, strict=True):
        there = ~np.isnan(column)
        if not there.any():
            continue
        left, right = (float(np.mean(run.per_user[key][there], dtype=np.float64)) for run in (first, other))
        low, high = interval(resampled)
        found[key] = {
            "base": left,
            "value": right,
            "difference": right - left,
            "low": low,
            "high": high,
            "relative": (right - left) / left if left else None,
            "above_zero": float((resampled > 0).mean()) if len(resampled) else None,
        }
    return found
