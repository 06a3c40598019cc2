"""Figures of labelled predictions under any weights of users, so that a bootstrap over users is a few matrix products.

A resample of users (Efron, 1979) gives each user a weight, the number of times it was drawn; every figure here is a
function of sums over users.

Letters: C candidates, U users, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from regard.evaluate.areas import WeightedAuc, auc_by_user
from regard.evaluate.bootstrap import interval
from regard.evaluate.result import Number

Float = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Figure = Callable[[Float], Float]
"""A figure (R,) under the weights (U, R) of users."""

BINS = 15
BLOCK = 2**21  # numbers of a block of resamples in memory at once
FLOOR = 1e-7  # probabilities are kept so far away from 0 and 1
BY_USER = "by-user"


@dataclass(frozen=True)
class Labelled:
    """Candidates (C,) with labels and predictions; `user` (C,) points into `users` (U,), which ascend."""

    labels: Float
    predictions: Float
    user: Int64
    users: Int64
    requests: int
    empty: int  # requests without history

    def sums(self, values: Float) -> Float:
        """Sum values (C,) by user, (U,)."""
        return np.bincount(self.user, weights=values, minlength=len(self.users)).astype(np.float64)


def figures_of(data: Labelled, binary: bool, which: Int64) -> tuple[dict[str, Figure], dict[str, Float]]:
    """Return figures by name, and the values by user (U,) of those that have such; nan where a user has none."""
    labels, predicted, users = data.labels, data.predictions, len(data.users)
    many = data.sums(np.ones_like(labels))
    if not binary:
        squared, absolute = data.sums((predicted - labels) ** 2), data.sums(np.abs(predicted - labels))
        root = ratio(squared, many)
        figures: dict[str, Figure] = {"rmse": lambda weights: np.sqrt(root(weights)), "mae": ratio(absolute, many)}
        by_user = {"mae": absolute / many}
    else:
        positive = labels > 0
        chance = np.clip(predicted, FLOOR, 1 - FLOOR)
        lost = data.sums(-np.where(positive, np.log(chance), np.log1p(-chance)))
        area = auc_by_user(positive, predicted, data.user, users).value
        figures = {
            "auc": WeightedAuc(positive, predicted, data.user, users),
            "gauc": ratio(np.nan_to_num(area) * many, np.where(np.isnan(area), 0, many)),
            "log_loss": ratio(lost, many),
            "calibration_error": _calibration(data, which, many),
        }
        by_user = {"gauc": area, "log_loss": lost / many}
    means = {f"{name}|{BY_USER}": ratio(np.nan_to_num(own), 1.0 - np.isnan(own)) for name, own in by_user.items()}
    return figures | means, by_user


def ratio(above: Float, below: Float) -> Figure:
    """A sum over users (U,) as a share of another one; nan where that is 0."""

    def figure(weights: Float) -> Float:
        with np.errstate(invalid="ignore"):
            return np.asarray((above @ weights) / (below @ weights))

    return figure


def equal_mass(predictions: Float, bins: int) -> Int64:
    """The bin (C,) of each prediction: equal mass as far as ties allow, which are never parted."""
    inner = np.quantile(predictions, np.arange(1, bins) / bins, method="inverted_cdf")
    return np.searchsorted(np.unique(inner), predictions, side="left")


def table(data: Labelled, which: Int64, values: Float) -> Float:
    """Sum values (C,) by bin and user, (bins, U)."""
    users, bins = len(data.users), int(which.max()) + 1
    flat = np.bincount(which * users + data.user, weights=values, minlength=bins * users)
    return flat.astype(np.float64).reshape(bins, users)


def _calibration(data: Labelled, which: Int64, many: Float) -> Figure:
    """Expected calibration error (Nguyen and O'Connor, 2015); bins stay where they are."""
    gap = table(data, which, data.predictions - data.labels)
    return lambda weights: np.abs(gap @ weights).sum(0) / (many @ weights)


def differences(
    base: Labelled, other: Labelled, *, binary: bool = True, bootstrap: int = 1000, seed: int = 0
) -> dict[str, Number]:
    """Return other - base in every figure, with the interval of a paired bootstrap: both see the same resamples.

    Unlike `compare`, which pairs values of users, this covers figures that are no means over users, such as AUC.
    """
    assert np.array_equal(base.users, other.users), "both must have been asked the same"
    assert np.array_equal(base.labels, other.labels), "both must have been asked the same"
    assert np.array_equal(base.user, other.user), "both must have been asked the same"
    sides = [figures_of(data, binary, equal_mass(data.predictions, BINS))[0] for data in (base, other)]
    paired = {name: _difference(sides[0][name], sides[1][name]) for name in sides[0]}
    return numbers(paired, base, bootstrap, seed)


def _difference(base: Figure, other: Figure) -> Figure:
    return lambda weights: other(weights) - base(weights)


def numbers(figures: Mapping[str, Figure], data: Labelled, resamples: int, seed: int) -> dict[str, Number]:
    """Return each figure with its interval; None where it has no value."""
    users = len(data.users)
    once = np.ones((users, 1))
    drawn: dict[str, list[Float]] = {name: [] for name in figures}
    ones = int((data.labels > 0).sum())
    tallest = max(users, min(ones, len(data.labels) - ones) + 1)  # rows of the products of `WeightedAuc`
    for weights in _resamples(users, resamples, seed, tallest):
        for name, figure in figures.items():
            drawn[name].append(figure(weights))
    found: dict[str, Number] = {}
    for name, figure in figures.items():
        value = float(figure(once)[0])
        low, high = interval(np.concatenate([np.zeros(0), *drawn[name]]))
        found[name] = {"value": value if np.isfinite(value) else None, "low": low, "high": high}
    return found


def _resamples(users: int, resamples: int, seed: int, tallest: int) -> Iterator[Float]:
    """Yield blocks (U, r) of how often each user is drawn; the same draws however tall the products are."""
    rng = np.random.default_rng(seed)
    step = max(BLOCK // tallest, 1)
    for start in range(0, resamples, step):
        block = np.empty((min(step, resamples - start), users))
        for row in block:
            row[:] = np.bincount(rng.integers(0, users, users), minlength=users)
        yield np.ascontiguousarray(block.T)
