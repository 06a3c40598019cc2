"""For whom does it work? Groups of targets by what was known when they were asked for.

A group is a mask over targets. A case counts in a group with the targets it has there; ranks stay what they were, in
the full catalogue.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from regard.data.split import Cases
from regard.evaluate.metrics import BY_CASE, Float, Int64

Bool = npt.NDArray[np.bool_]

HISTORY = {"0": 0, "1-4": 1, "5-19": 5, "20-99": 20, "100+": 100}  # the least events in the history
ACTIVITY = {"0": 0, "1-5": 1, "6-20": 6, ">20": 21}  # the least training events of the target
TRAINED = "trained"


def groups_of(cases: Cases, trained: Int64) -> dict[str, Bool]:
    """Return the masks (T,) of all groups that hold at least one target, and of `trained` in any case.

    `trained` (T,) says how many training events the item of each target has. The names: `trained`; `history 5-19` by
    length of the history; `target events 1-5` by training events of the target.
    """
    length = (cases.history_end - cases.history_start)[cases.case_of_target]
    groups = {TRAINED: trained > 0}
    for name, bands, value in (("history", HISTORY, length), ("target events", ACTIVITY, trained)):
        place = np.searchsorted(list(bands.values()), value, side="right") - 1
        for at, band in enumerate(bands):
            mask = place == at
            if mask.any():
                groups[f"{name} {band}"] = mask
    return groups


def user_means(
    ranks: Int64, cases: Cases, k: tuple[int, ...], catalogue: int, mask: Bool | None = None
) -> dict[str, Float]:
    """Return each metric's mean over the cases of each user: (U,), users ascending, nan where a user has none.

    `ranks` (T,); `mask` (T,) leaves out targets, and cases that have none left. A rank beyond `catalogue` is a miss.
    """
    users, inverse = np.unique(cases.user, return_inverse=True)
    offsets = cases.target_offsets
    if mask is not None:
        kept = np.concatenate([[0], np.cumsum(mask)])[offsets]
        some = np.diff(kept) > 0
        ranks, inverse = ranks[mask], inverse[some]
        offsets = np.concatenate([[0], kept[1:][some]])
    many = np.bincount(inverse, minlength=len(users))
    means = {}
    for cut in k:
        for name, metric in BY_CASE.items():
            total = np.bincount(inverse, weights=metric(ranks, offsets, min(cut, catalogue)), minlength=len(users))
            means[f"{name}@{cut}"] = np.divide(total, many, out=np.full(len(users), np.nan), where=many > 0)
    return means
