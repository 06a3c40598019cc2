"""Percentile bootstrap over users (Efron, 1979): how far a mean would move with other users of the same kind.

All columns of a table share the users of a resample, so one pass serves every metric, every group and every paired
difference. Letters: U users, M columns, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]

LEVEL = 0.95
BLOCK = 2**24  # counts in memory at once


def resampled_means(columns: Iterable[npt.NDArray[np.floating]], resamples: int, seed: int) -> Float:
    """Return the means (R, M) of `resamples` draws of U users with replacement from each column (U,).

    nan = this user has no value in this column and does not count there; the mean of nobody is nan.
    """
    table: dict[bytes, int] = {}  # columns repeat (recall is hit rate where a case has one target): each is summed once
    rows: list[Float] = []
    summed: list[int] = []
    counted: list[int] = []
    for column in columns:
        present = ~np.isnan(column)
        for values, places in ((np.where(present, column, 0), summed), (present, counted)):
            row = values.astype(np.float64)
            places.append(table.setdefault(row.tobytes(), len(table)))
            if places[-1] == len(rows):
                rows.append(row)
    totals = _resampled_sums(np.stack(rows, axis=1), resamples, np.random.default_rng(seed))
    with np.errstate(invalid="ignore"):
        means: Float = totals[:, np.array(summed)] / totals[:, np.array(counted)]
    return means


def interval(means: Float, level: float = LEVEL) -> tuple[float | None, float | None]:
    """Return the percentile interval of resampled means (R,), or a pair of None where there are none."""
    finite = means[np.isfinite(means)]
    if not len(finite):
        return None, None
    low, high = np.percentile(finite, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def _resampled_sums(columns: Float, resamples: int, draw: np.random.Generator) -> Float:
    """Return the column sums (R, M) of `columns` (U, M) over the users of each resample, as often as they are drawn."""
    users = len(columns)
    sums = np.empty((resamples, columns.shape[1]))
    step = min(max(BLOCK // users, 1), max(resamples, 1))
    times = np.empty((step, users))
    for start in range(0, resamples, step):
        many = min(step, resamples - start)
        for at in range(many):
            times[at] = np.bincount(draw.integers(0, users, users), minlength=users)
        sums[start : start + many] = times[:many] @ columns
    return sums
