"""The floor's floor: what is popular, over all of the training part or lately. Here is also what all baselines share.

Baselines stand still at the end of the training part and count its events of every behaviour, target or not. What they
know is in buffers, so that a state dict is all of a fitted baseline.

Letters: B histories, V items with the unknown one (n_items + 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from regard.data.batches import Histories
from regard.data.cases import Int64, ranges
from regard.data.cuts import check_time

if TYPE_CHECKING:
    from regard.data.split import Split
    from regard.data.store import Dataset

Choice = dict[str, Any]
"""Keyword arguments of `fit`, fit for JSON."""

DAY = 86_400_000_000  # microseconds


class Baseline(nn.Module):
    """What the baselines share: the count of training events, which items they know, and the order by popularity.

    `Baseline(n_items)` is empty; `fit` or `load_state_dict` fills it.
    """

    name: str
    window: int | None = None
    """Histories are read whole."""
    known: Tensor
    """bool (V,): items with training events."""
    popularity: Tensor
    """float32 (V,): training events of each item."""
    place: Tensor
    """float32 (V,), all negative: the order by popularity, equal for equal counts; exact up to 16 million items."""

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.n_items = n_items
        self.register_buffer("known", torch.zeros(n_items + 1, dtype=torch.bool))
        self.register_buffer("popularity", torch.zeros(n_items + 1))
        self.register_buffer("place", -torch.ones(n_items + 1))

    @classmethod
    def choices(cls, dataset: Dataset, split: Split) -> list[Choice]:  # noqa: ARG003
        """Return the grid for validation to choose from: keyword arguments of `fit`."""
        return [{}]

    @classmethod
    def fit(cls, dataset: Dataset, split: Split) -> Self:
        """Count the training events."""
        model = cls(dataset.n_items)
        counts = split.training_item_counts(dataset)
        distinct, order = np.unique(counts, return_inverse=True)
        model.known = torch.from_numpy(counts > 0)
        model.known[0] = False
        model.popularity = torch.from_numpy(counts.astype(np.float32))
        model.place = torch.from_numpy((order - len(distinct)).astype(np.float32))
        return model

    def scores(self, histories: Histories) -> Tensor:
        """Return the score of every item as the next one, float32 (B, V), higher is better; column 0 means nothing."""
        raise NotImplementedError

    def _above_popular(self, own: Tensor) -> Tensor:
        """Return own scores where they are positive, and the place by popularity, which is negative, elsewhere."""
        own = own.float()
        return torch.where(own > 0, own, self.place)


class Popular(Baseline):
    """The number of training events: the same list for everybody."""

    name = "popular"

    def scores(self, histories: Histories) -> Tensor:
        """See `Baseline.scores`."""
        return self.popularity.expand(len(histories), -1)


class RecentPopular(Baseline):
    """Training events, each worth half as much for every half-life between it and the last training event.

    The list stands still at the end of training: it does not follow the test part.
    """

    name = "recent-popular"
    recent: Tensor

    def __init__(self, n_items: int) -> None:
        super().__init__(n_items)
        self.register_buffer("recent", torch.zeros(n_items + 1))

    @classmethod
    def choices(cls, dataset: Dataset, split: Split) -> list[Choice]:
        """Half-lives from a quarter of the training span down, each a quarter of the one before."""
        times = _times(dataset)[training_events(dataset, split)[0]]
        days = max(float(times.max() - times.min()) / DAY, 1e-6)
        return [{"half_life_days": days / 4**step} for step in range(1, 7)]

    @classmethod
    def fit(cls, dataset: Dataset, split: Split, *, half_life_days: float = 30.0) -> Self:
        """Count the training events by age.

        Raises:
            ProtocolError: the log has no timestamps.
        """
        times = _times(dataset)
        model = super().fit(dataset, split)
        events, _ = training_events(dataset, split)
        age = (times[events].max(initial=0) - times[events]) / (half_life_days * DAY)
        recent = np.bincount(dataset.item[events], weights=0.5**age, minlength=dataset.n_items + 1)
        model.recent = torch.from_numpy(recent.astype(np.float32))
        return model

    def scores(self, histories: Histories) -> Tensor:
        """See `Baseline.scores`; what is too old to have a weight left comes by popularity."""
        return self._above_popular(self.recent).expand(len(histories), -1)


def training_events(dataset: Dataset, split: Split) -> tuple[Int64, npt.NDArray[np.int32]]:
    """Return the rows of all training events, user after user in their order, and the user of each."""
    starts, ends = split.training(dataset)
    places, _ = ranges(starts, ends)
    users = np.repeat(np.arange(len(starts), dtype=np.int32), ends - starts)
    return places if split.order is None else split.order[places], users


def _times(dataset: Dataset) -> Int64:
    check_time("recent-popular", "timestamp", dataset.time_kind, instead="popular")
    assert dataset.time is not None
    return dataset.time
