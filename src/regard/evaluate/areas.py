"""AUC under any weights of users: what a bootstrap over users needs, sorted once and then only sums.

Letters: C candidates, U users, R resamples, D distinct scores of the rarer class.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]


class WeightedAuc:
    """The chance that a positive scores above a negative, ties counted half, as a function of the users' weights.

    The scores of the rarer class part the others into D + 1 segments; which users fall where is a sparse table, so
    each vector of weights costs one sparse product and one running sum.
    """

    def __init__(self, positive: Bool, scores: npt.NDArray[np.floating], user: Int64, users: int) -> None:
        """Sort candidates (C,) of users 0 to `users` - 1."""
        self.flipped = bool(2 * positive.sum() > len(positive))  # then negatives are the rarer class
        rare = ~positive if self.flipped else positive
        marks, mark = np.unique(scores[rare], return_inverse=True)
        depth = len(marks) + 1
        low = np.searchsorted(marks, scores[~rare], side="left")
        tied = marks[np.minimum(low, depth - 2)] == scores[~rare] if len(marks) else low > 0
        place = np.concatenate([low, low[tied] + 1])  # half of a tie here, half one further
        share = np.concatenate([np.where(tied, 0.5, 1.0), np.full(np.count_nonzero(tied), 0.5)])
        owner = np.concatenate([user[~rare], user[~rare][tied]])
        self.others = sparse.coo_array((share, (place, owner)), shape=(depth, users)).tocsr()
        self.rare = sparse.coo_array((np.ones(len(mark)), (mark, user[rare])), shape=(depth, users)).tocsr()

    def __call__(self, weights: Float) -> Float:
        """Return the AUC (R,) under each column of `weights` (U, R); nan where a class has no weight."""
        others, rare = self.others @ weights, self.rare @ weights
        pairs = others.sum(0) * rare.sum(0)
        below = (np.cumsum(others, axis=0, out=others) * rare).sum(0)
        with np.errstate(invalid="ignore"):
            area: Float = below / pairs
        return 1 - area if self.flipped else area


class UserAuc(NamedTuple):
    """Of each user (U,): the AUC among its own candidates, nan where it has one class only, and its candidates."""

    value: Float
    candidates: Int64


def auc_by_user(positive: Bool, scores: npt.NDArray[np.floating], user: Int64, users: int) -> UserAuc:
    """Return the AUC of each of `users`, ties counted half, by ranks (Mann and Whitney, 1947)."""
    order = np.lexsort((scores, user))
    user, scores, positive = user[order], scores[order], positive[order]
    many = np.bincount(user, minlength=users)
    new = np.append(True, (user[1:] != user[:-1]) | (scores[1:] != scores[:-1]))  # begins a run of equal scores
    first = np.flatnonzero(new)
    size = np.diff(np.append(first, len(user)))
    rank = np.repeat(first + (size + 1) / 2, size) - (np.cumsum(many) - many)[user]
    ones = np.bincount(user, weights=positive, minlength=users)
    area = np.bincount(user, weights=rank * positive, minlength=users) - ones * (ones + 1) / 2
    pairs = ones * (many - ones)
    return UserAuc(np.divide(area, pairs, out=np.full(users, np.nan), where=pairs > 0), many)
