"""Sampled negatives: items that an owner (a user, a case) does not have, drawn exactly and all at once.

The items an owner may get are numbered by tickets, as if the others were cut out of the catalogue. A ticket becomes an
item by two binary searches, so nothing is drawn in vain, however much of the catalogue an owner has.

Letters: V items, R requests, P pairs of owner and item.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from regard.data.cases import Int64

Float32 = npt.NDArray[np.float32]


class Negatives:
    """Draws from items of weights (V + 1,) int64, what an owner has left out; item 0 is never drawn.

    Equal weights (all 1): distinct items, each equally likely. Others: independent draws with replacement, each in
    proportion to its weight. Nobody gets more negatives than there are items left.
    """

    def __init__(self, weights: Int64, owners: int, owner: Int64, item: npt.NDArray[np.integer]) -> None:
        """Leave the pairs `owner` (P,), `item` (P,) out; owners are 0 to `owners` - 1, pairs may repeat."""
        weights = np.asarray(weights, np.int64).copy()
        weights[0] = 0
        self.upto = np.cumsum(weights)  # (V + 1,)
        self.total, self.equal = int(self.upto[-1]), bool((weights[1:] == 1).all())
        stride = len(weights)
        pair = np.unique(owner.astype(np.int64) * stride + item)
        owner, left_out = pair // stride, pair % stride
        owner, left_out = owner[left_out > 0], left_out[left_out > 0]
        mass = weights[left_out]
        count = np.bincount(owner, minlength=owners)
        self.first = np.concatenate([[0], np.cumsum(count)])
        gone = np.concatenate([[0], np.cumsum(mass)])  # (P + 1,) over all owners; differences are an owner's own
        self.gone = gone
        before = self.upto[left_out - 1] - (gone[:-1] - gone[self.first[owner]])  # tickets below an item left out
        self.keys = owner * (self.total + 1) + before
        self.tickets = self.total - np.diff(gone[self.first])  # (owners,)
        there = np.concatenate([[0], np.cumsum(mass > 0)])
        self.left = int((weights > 0).sum()) - np.diff(there[self.first])  # (owners,) items that can be drawn

    def log_rates(self, many: int) -> Float32:
        """Return the log (V + 1,) of how often an item is drawn among `many` negatives, on average.

        It is log(many · weight / sum of weights): a property of the item, which leaves aside that some owners cannot
        get it. -inf where an item is never drawn.
        """
        share = np.diff(self.upto, prepend=0) / max(self.total, 1)
        return np.log(many * share, out=np.full(len(share), -np.inf), where=share > 0).astype(np.float32)

    def draw(self, owners: Int64, many: int, rng: np.random.Generator) -> tuple[Int64, Int64]:
        """Return negatives for each of `owners` (R,), back to back, and how many each got (R,): `many` where it can."""
        counts = np.minimum(self.left[owners], many)
        real = np.arange(many) < counts[:, None]
        if self.equal:
            tickets = _subsets(self.tickets[owners], counts, many, rng)
        else:
            tickets = rng.integers(0, np.maximum(self.tickets[owners], 1)[:, None], (len(owners), many))
        return self._items(np.repeat(owners, counts), tickets[real]), counts

    def _items(self, owner: Int64, ticket: Int64) -> Int64:
        """Skip what the owner has: as many of its items as have no more tickets below them than this one."""
        skipped = np.searchsorted(self.keys, owner * (self.total + 1) + ticket, side="right")
        place = ticket + self.gone[skipped] - self.gone[self.first[owner]]
        return np.asarray(place + 1 if self.equal else np.searchsorted(self.upto, place, side="right"))


def _subsets(size: Int64, counts: Int64, many: int, rng: np.random.Generator) -> Int64:
    """Return (R, many): the first `counts[r]` of row r are a random subset of 0 to `size[r]` - 1 (Floyd, in Bentley and
    Floyd 1987, CACM 30:9), the rest is filler.
    """
    chosen = np.full((len(size), many), -1, np.int64)
    for at in range(many):
        last = np.maximum(size - counts + at, 0)
        drawn = rng.integers(0, last + 1)
        taken = (chosen[:, :at] == drawn[:, None]).any(axis=1)
        chosen[:, at] = np.where(taken, last, drawn)
    return chosen
