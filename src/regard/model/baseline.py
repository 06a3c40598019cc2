"""The floor: popular, recent-popular, repeat and co-visit: the interface of every other model, learned by counting.

Scores that a rule gives are positive. Every other item has its place by popularity, which is negative, so never above
them: two orders, one below the other, and what is equal stays equal. A history without events gets all by popularity.

Letters: B histories, T events, V items with the unknown one (n_items + 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from regard.data.batches import Histories
from regard.errors import ProtocolError
from regard.model.neighbourhood import Neighbourhood, aged
from regard.model.popular import Baseline, Choice, Popular, RecentPopular

if TYPE_CHECKING:
    from regard.data.split import Split
    from regard.data.store import Dataset

__all__ = ["BASELINES", "Baseline", "Choice", "CoVisit", "Popular", "RecentPopular", "Repeat"]


class Repeat(Baseline):
    """A person's own past items, by how often and how lately; the others below, by popularity.

    The event `age` events before the last counts (1 + age) ** -decay, after the power law of forgetting (Anderson and
    Schooler 1991): decay 0 is most frequent, and `newest_only`, which counts only the last time of each item, is most
    recent. Items of equal frequency stand by popularity: an item's share of all training events, below 1, is added to
    its count.
    """

    name = "repeat"
    decay: Tensor
    newest_only: Tensor

    def __init__(self, n_items: int) -> None:
        super().__init__(n_items)
        self.register_buffer("decay", torch.zeros((), dtype=torch.float64))
        self.register_buffer("newest_only", torch.zeros((), dtype=torch.bool))

    @classmethod
    def choices(cls, dataset: Dataset, split: Split) -> list[Choice]:  # noqa: ARG003
        """From most frequent to most recent; only the former where the log has no order."""
        if dataset.time_kind == "none":
            return [{"decay": 0.0}]
        return [*({"decay": decay} for decay in (0.0, 0.5, 1.0, 2.0)), {"decay": 1.0, "newest_only": True}]

    @classmethod
    def fit(cls, dataset: Dataset, split: Split, *, decay: float = 1.0, newest_only: bool = False) -> Self:
        """Count the training events, for the items that are nobody's own.

        Raises:
            ProtocolError: the log has no order, and the choice needs one.
        """
        if dataset.time_kind == "none" and (decay or newest_only):
            raise ProtocolError(
                f"repeat with decay {decay} needs an order of events, but this log has no time column; use decay 0"
            )
        model = super().fit(dataset, split)
        model.decay.fill_(decay)
        model.newest_only.fill_(newest_only)
        return model

    def scores(self, histories: Histories) -> Tensor:
        """See `Baseline.scores`."""
        row, weight = aged(histories, self.decay)
        cell = row * (self.n_items + 1) + histories.items
        own = weight.new_zeros(len(histories) * (self.n_items + 1))
        own = own.scatter_reduce(0, cell, weight, "amax") if self.newest_only else own.index_add(0, cell, weight)
        if not self.decay:
            own[cell] += (self.popularity / (1 + self.popularity.sum()))[histories.items]
        return self._above_popular(own.view(len(histories), -1))


class CoVisit(Baseline):
    """Items that stand near the newest events of a history (`Neighbourhood`); the others by popularity."""

    name = "co-visit"

    def __init__(self, n_items: int) -> None:
        super().__init__(n_items)
        self.near = Neighbourhood(n_items)

    @classmethod
    def choices(cls, dataset: Dataset, split: Split) -> list[Choice]:  # noqa: ARG003
        """Reach (window and decay together), direction, and normalisation."""
        if dataset.time_kind == "none":
            return [
                {"window": window, "decay": 0.0, "directed": False, "powers": powers}
                for window in (10, 50)
                for powers in ((1.0, 0.25), (0.5, 0.25), (0.5, 0.5))
            ]
        return [
            {"window": window, "decay": decay, "directed": directed, "powers": powers}
            for window, decay in ((5, 2.0), (10, 1.0), (20, 1.0))
            for directed in (True, False)
            for powers in ((0.5, 0.25), (1.0, 0.25))
        ]

    @classmethod
    def fit(cls, dataset: Dataset, split: Split, **choice: Any) -> Self:
        """Count pairs of training events, as `Neighbourhood.count` does."""
        model = super().fit(dataset, split)
        model.near.count(dataset, split, **choice)
        return model

    def scores(self, histories: Histories) -> Tensor:
        """See `Baseline.scores`."""
        return self._above_popular(self.near(histories))


BASELINES: dict[str, type[Baseline]] = {cls.name: cls for cls in (Popular, RecentPopular, Repeat, CoVisit)}
