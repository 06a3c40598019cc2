"""A case is one history and its target(s): which events a scorer may read, and which it has to find.

Cases hold positions and never event data; `events` says which rows of the dataset a batch of histories is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


def ranges(starts: Int64, ends: Int64) -> tuple[Int64, Int64]:
    """Lay the ranges `starts[i]:ends[i]` (R,) back to back; return their members and offsets (R+1,)."""
    lengths = ends - starts
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths), offsets


@dataclass(frozen=True)
class Cases:
    """C cases. A history is the range `history_start:history_end` of `order`; every case has at least one target.

    `user` (C,) is a user index; `targets` (T,) are rows of the dataset's event arrays, those of case `i` being
    `targets[target_offsets[i]:target_offsets[i + 1]]`; `order` (N,) maps a position to a row, None = the same.
    """

    user: Int32
    history_start: Int64
    history_end: Int64
    target_offsets: Int64
    targets: Int64
    order: Int64 | None = None

    def __len__(self) -> int:
        """Return C."""
        return len(self.user)

    @property
    def case_of_target(self) -> Int64:
        """The case (T,) that each target belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.target_offsets))

    def take(self, rows: npt.ArrayLike) -> Cases:
        """Return the cases at `rows` (indexes, a slice's range or a mask), in that order."""
        picked = np.arange(len(self))[np.asarray(rows)]
        targets, offsets = ranges(self.target_offsets[picked], self.target_offsets[picked + 1])
        return Cases(
            self.user[picked],
            self.history_start[picked],
            self.history_end[picked],
            offsets,
            self.targets[targets],
            self.order,
        )

    def events(self, rows: npt.ArrayLike, window: int | None = None) -> tuple[Int64, Int64]:
        """Return the histories of the cases at `rows`: event rows, oldest first, and offsets (len(rows)+1,).

        With `window`, only the newest `window` events of each.
        """
        picked = np.asarray(rows)
        starts, ends = self.history_start[picked], self.history_end[picked]
        if window is not None:
            starts = np.maximum(starts, ends - window)
        positions, offsets = ranges(starts, ends)
        return (positions if self.order is None else self.order[positions]), offsets

    def in_history(self, item: npt.NDArray[np.integer]) -> Bool:
        """Say of every target (T,) whether its item is already in its history; `item` (N,) is the dataset's.

        A history is the beginning of its user's events, so one look at where an item first occurs is enough.
        """
        users, inverse = np.unique(self.user, return_inverse=True)
        starts, ends = np.zeros((2, len(users)), np.int64)
        starts[inverse] = self.history_start
        assert (starts[inverse] == self.history_start).all(), "histories of a user begin at the same event"
        np.maximum.at(ends, inverse, self.history_end)
        positions, offsets = ranges(starts, ends)
        if not len(positions) or not len(self.targets):
            return np.zeros(len(self.targets), bool)
        events = positions if self.order is None else self.order[positions]
        width = int(item.max()) + 1
        owner = np.repeat(np.arange(len(users)), np.diff(offsets))
        pairs, first = np.unique(owner * width + item[events], return_index=True)
        case = self.case_of_target
        wanted = inverse[case] * width + item[self.targets]
        at = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
        return np.asarray((pairs[at] == wanted) & (positions[first[at]] < self.history_end[case]))
