"""Events that repeat one another: in time, exactly, or an item that a user already had. Pure counting on arrays."""

from __future__ import annotations

import numpy as np


def count_ties(offsets: np.ndarray, time: np.ndarray) -> int:
    """Count events that share their time with another event of the same user; only file order tells them apart."""
    return int(np.count_nonzero(_tied(_groups(offsets, time))))


def count_repeats(
    offsets: np.ndarray, item: np.ndarray, time: np.ndarray | None = None, behaviour: np.ndarray | None = None
) -> int:
    """Count events for which the same user has an earlier one of the same item, time and behaviour (those given).

    `offsets` (U+2,) cuts the events by user; `item`, `time`, `behaviour` are (N,), times sorted within users and parts.
    """
    starts = _groups(offsets, time)
    tied = _tied(starts)
    group = np.cumsum(starts)[tied].astype(np.int64)
    key = group * (int(item.max(initial=0)) + 1) + item[tied]
    if behaviour is not None:
        key = key * 256 + behaviour[tied]
    key.sort()
    return int(np.count_nonzero(key[1:] == key[:-1]))


def _groups(offsets: np.ndarray, time: np.ndarray | None) -> np.ndarray:
    """Mark the first event of every user, and of every time of theirs: bool (N,)."""
    total = int(offsets[-1])
    starts = np.zeros(total, bool)
    starts[offsets[:-1][np.diff(offsets) > 0]] = True
    if time is not None and total:
        starts[1:] |= time[1:] != time[:-1]
    return starts


def _tied(starts: np.ndarray) -> np.ndarray:
    """Mark events in groups of two or more."""
    tied: np.ndarray = ~(starts & np.append(starts[1:], True))
    return tied[: len(starts)]
