"""Item-to-item counts: which items stand near which in people's histories. Pure numpy and scipy, item block by block.

Counting pairs of neighbouring events is the sequential-rules baseline of Ludewig and Jannach (2018, arXiv 1803.09587);
the normalisation by powers of popularity that of item-based top-N (Deshpande and Karypis 2004, TOIS 22(1)).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

PAIRS_AT_ONCE = 4_000_000  # bounds memory: about 40 bytes a pair


@dataclass(frozen=True)
class Pairing:
    """Which pairs of a user's events count, and how much.

    Events up to `window` apart make a pair, of weight 1 / distance or, with `by_distance` off, 1. `directed` counts
    only what comes after.
    """

    window: int
    directed: bool
    by_distance: bool = True

    @property
    def steps(self) -> Int64:
        """Signed distances to the other event of a pair."""
        after = np.arange(1, self.window + 1)
        return after if self.directed else np.concatenate([-after[::-1], after])

    @property
    def weights(self) -> Float64:
        """Weight of each step."""
        return 1.0 / np.abs(self.steps) if self.by_distance else np.ones(len(self.steps))


@dataclass(frozen=True)
class Neighbours:
    """Sparse rows: item i has the neighbours `items[offsets[i]:offsets[i + 1]]`, ascending, with positive `weights`."""

    offsets: Int64  # (n_items + 2,)
    items: Int32
    weights: Float32


def neighbours(
    items: Int32, users: Int32, n_items: int, pairing: Pairing, powers: tuple[float, float], most: int
) -> Neighbours:
    """Count pairs and keep the best `most` neighbours of each item.

    The weight of j for i is count(i, j) / (events(i) ** powers[0] * events(j) ** powers[1]): (0.5, 0.5) is the cosine,
    (1, 0) the share of i's events that j is near to. An item may be its own neighbour.

    Args:
        items: (N,) items of events, the events of a user together and in order.
        users: (N,) the user of each event.
        n_items: items are 1..n_items.
        pairing: which pairs count.
        powers: the exponents.
        most: neighbours kept; of equal ones the lower item index.
    """
    popularity = np.bincount(items, minlength=n_items + 1)
    divisor_from, divisor_to = (np.maximum(popularity, 1).astype(np.float64) ** power for power in powers)
    sizes, kept_items, kept_weights = [np.zeros(1, np.int64)], [], []
    for first, counts in _blocks(items, users, popularity, pairing):
        counts.data /= np.repeat(divisor_from[first : first + counts.shape[0]], np.diff(counts.indptr))
        counts.data /= divisor_to[counts.indices]
        weights = counts.data.astype(np.float32)
        keep = _largest(counts.indptr, weights, most)
        kept_items.append(counts.indices[keep].astype(np.int32))
        kept_weights.append(weights[keep])
        sizes.append(np.minimum(np.diff(counts.indptr), most).astype(np.int64))
    offsets = np.cumsum(np.concatenate(sizes))
    return Neighbours(offsets, np.concatenate(kept_items), np.concatenate(kept_weights))


def _blocks(items: Int32, users: Int32, popularity: Int64, pairing: Pairing) -> Iterator[tuple[int, sparse.csr_matrix]]:
    """Yield (first item, counts of its block of items as rows), so that no block has many more than `PAIRS_AT_ONCE`.

    Each row is complete at once, because a block looks at all events of its items: nothing has to be merged later.
    """
    by_item = np.argsort(items, kind="stable")
    ends = np.cumsum(popularity)
    events_at_once = max(1, PAIRS_AT_ONCE // len(pairing.steps))
    first = 0
    while first < len(popularity):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + events_at_once, side="right")))
        yield first, _count(items, users, by_item[before : ends[last - 1]], (first, last), pairing)
        first = last


def _count(items: Int32, users: Int32, events: Int64, block: tuple[int, int], pairing: Pairing) -> sparse.csr_matrix:
    """Count pairs of these events, all those of the items of the block, with their neighbours in time."""
    parts = np.array_split(events, max(1, -(-len(events) * len(pairing.steps) // PAIRS_AT_ONCE)))
    return sum(
        (_counted(items, users, part, block, pairing) for part in parts[1:]),
        start=_counted(items, users, parts[0], block, pairing),
    )


def _counted(items: Int32, users: Int32, events: Int64, block: tuple[int, int], pairing: Pairing) -> sparse.csr_matrix:
    """Count as `_count` does, all at once."""
    partners = events[:, None] + pairing.steps
    inside = (partners >= 0) & (partners < len(items))
    partners = np.where(inside, partners, events[:, None])
    inside &= users[partners] == users[events, None]
    weights = np.broadcast_to(pairing.weights, partners.shape)[inside]
    rows = np.broadcast_to((items[events] - block[0])[:, None], partners.shape)[inside]
    shape = (block[1] - block[0], int(items.max(initial=0)) + 1)
    return sparse.coo_matrix((weights, (rows, items[partners[inside]])), shape=shape).tocsr()  # sums, sorts


def _largest(offsets: npt.NDArray[np.integer], weights: Float32, most: int) -> npt.NDArray[np.bool_]:
    """Mark the `most` largest weights of each row, of equal ones the first."""
    keep = np.ones(len(weights), dtype=bool)
    for row in np.flatnonzero(np.diff(offsets) > most):
        mine = weights[offsets[row] : offsets[row + 1]]
        least = np.partition(mine, len(mine) - most)[len(mine) - most]
        above = mine > least
        equal = np.flatnonzero(mine == least)[: most - int(above.sum())]
        above[equal] = True
        keep[offsets[row] : offsets[row + 1]] = above
    return keep
