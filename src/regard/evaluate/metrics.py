"""Metrics as pure functions: ranks of targets to one value a case, and scores of labelled candidates to one value.

Letters: C cases, T targets, k length of a list. A rank is 1 for the best candidate; a rank larger than k is a miss. The
targets of case `i` have the ranks `ranks[offsets[i]:offsets[i + 1]]`, and every case has at least one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Float = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


def recall(ranks: Int64, offsets: Int64, k: int) -> Float:
    """Return the share (C,) of a case's targets that are among the first k."""
    return _found(ranks, offsets, k) / np.diff(offsets)


def hit_rate(ranks: Int64, offsets: Int64, k: int) -> Float:
    """Return 1 (C,) where at least one target is among the first k, else 0."""
    return (_found(ranks, offsets, k) > 0).astype(np.float64)


def ndcg(ranks: Int64, offsets: Int64, k: int) -> Float:
    """Return the normalised discounted cumulative gain (C,) of the first k (Järvelin and Kekäläinen, 2002).

    A target at rank r gains 1 / log2(1 + r); the ideal is the gain of the best order, targets at ranks 1, 2, …
    """
    gain = np.where(ranks <= k, 1 / np.log2(1.0 + ranks), 0.0)
    ideal = np.cumsum(1 / np.log2(np.arange(2, k + 2)))
    best: Float = ideal[np.minimum(np.diff(offsets), k) - 1]
    return _sums(gain, offsets) / best


def mrr(ranks: Int64, offsets: Int64, k: int) -> Float:
    """Return 1 / rank (C,) of the best target where it is among the first k, else 0."""
    return _best(np.where(ranks <= k, 1.0 / ranks, 0.0), offsets)


BY_CASE: dict[str, Callable[[Int64, Int64, int], Float]] = {
    "ndcg": ndcg,
    "hit_rate": hit_rate,
    "recall": recall,
    "mrr": mrr,
}


def coverage(top: npt.NDArray[np.integer], k: int, catalogue: int) -> float:
    """Return the share of the catalogue that appears in any of the lists `top` (C, >= k); 0 is an empty place."""
    shown = np.zeros(catalogue + 1, bool)
    shown[top[:, :k]] = True
    return float(shown[1:].sum() / catalogue)


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Return the chance that a positive scores above a negative, ties counted half; nan where one class is missing."""
    positive = np.asarray(labels) > 0
    many = int(positive.sum())
    pairs = many * (len(positive) - many)
    if not pairs:
        return float("nan")
    return float((rankdata(scores)[positive].sum() - many * (many + 1) / 2) / pairs)


class GroupedAuc(NamedTuple):
    """The mean AUC inside groups, how many groups have one, and how many were skipped as they hold one class only."""

    value: float
    groups: int
    skipped: int


def gauc(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    groups: npt.ArrayLike,
    weighting: Literal["impressions", "uniform"] = "impressions",
) -> GroupedAuc:
    """Return the mean of the AUC of each group (user), weighted by its rows or uniformly (Zhu et al., 2017, OCPC)."""
    assert weighting in ("impressions", "uniform"), weighting
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    score, positive = np.asarray(scores), np.asarray(labels) > 0
    order = np.lexsort((score, group))
    group, score, positive = group[order], score[order], positive[order]
    rows = np.bincount(group)
    start = np.cumsum(rows) - rows
    new = np.append(True, (group[1:] != group[:-1]) | (score[1:] != score[:-1]))  # begins a run of equal scores
    run = np.cumsum(new) - 1
    first = np.flatnonzero(new)
    size = np.diff(np.append(first, len(group)))
    rank = (first + (size + 1) / 2)[run] - start[group]
    ones = np.bincount(group, weights=positive)
    pairs = ones * (rows - ones)
    area = np.bincount(group, weights=rank * positive) - ones * (ones + 1) / 2
    both = pairs > 0
    skipped = int((~both).sum())
    if not both.any():
        return GroupedAuc(float("nan"), 0, skipped)
    weights = rows[both] if weighting == "impressions" else np.ones(both.sum())
    return GroupedAuc(float(np.average(area[both] / pairs[both], weights=weights)), int(both.sum()), skipped)


def log_loss(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Return the mean negative log-likelihood of binary labels; probabilities are kept 1e-7 away from 0 and 1."""
    positive = np.asarray(labels) > 0
    chance = np.clip(np.asarray(probabilities, np.float64), 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(positive, np.log(chance), np.log1p(-chance))))


def calibration_error(labels: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = 15) -> float:
    """Return the expected calibration error over equal-mass bins (Nguyen and O'Connor, 2015).

    Bins hold as nearly the same number of rows as ties allow: equal probabilities are never parted. The error is the
    mean over rows of |mean probability - share of positives| of their bin.
    """
    chance = np.asarray(probabilities, np.float64)
    positive = np.asarray(labels) > 0
    inner = np.quantile(chance, np.arange(1, bins) / bins, method="inverted_cdf")
    which = np.searchsorted(inner, chance, side="left")
    gap = np.bincount(which, weights=chance) - np.bincount(which, weights=positive)
    return float(np.abs(gap).sum() / len(chance))


def _sums(values: Float, offsets: Int64) -> Float:
    return np.add.reduceat(values, offsets[:-1]) if len(offsets) > 1 else np.zeros(0)


def _best(values: Float, offsets: Int64) -> Float:
    return np.maximum.reduceat(values, offsets[:-1]) if len(offsets) > 1 else np.zeros(0)


def _found(ranks: Int64, offsets: Int64, k: int) -> Float:
    return _sums((ranks <= k).astype(np.float64), offsets)
