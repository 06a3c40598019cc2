"""The floor: popular, recent-popular, repeat and co-visit: the interface of every other model, learned by counting.

Scores that a rule gives are positive. Every other item has its place by popularity, which is negative, so never above
them: two orders, one below the other, and what is equal stays equal. A history without events gets all by popularity.

Letters: B histories, T events, V items with the unknown one (n_items + 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from regard.data.batches import Histories
from regard.errors import ProtocolError
from regard.model.covisit import Pairing, neighbours
from regard.model.popular import Baseline, Choice, Popular, RecentPopular, training_events
from regard.model.topk import owners

if TYPE_CHECKING:
    from regard.data.split import Split
    from regard.data.store import Dataset

__all__ = ["BASELINES", "Baseline", "Choice", "CoVisit", "Popular", "RecentPopular", "Repeat"]

EVENTS_AT_ONCE = 4_096  # of which neighbours are looked up together


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
        row, weight = _aged(histories, self.decay)
        cell = row * (self.n_items + 1) + histories.items
        own = weight.new_zeros(len(histories) * (self.n_items + 1))
        own = own.scatter_reduce(0, cell, weight, "amax") if self.newest_only else own.index_add(0, cell, weight)
        if not self.decay:
            own[cell] += (self.popularity / (1 + self.popularity.sum()))[histories.items]
        return self._above_popular(own.view(len(histories), -1))


class CoVisit(Baseline):
    """Items that stand near the newest events of a history in the training histories of all; the others by popularity.

    score(j) = sum over the events i of the history of (1 + age(i)) ** -decay * weight(i, j), the weights of
    `covisit.neighbours`. With a log without order all events count alike, and the pairs are drawn: each event is
    paired with the `window` others that follow it in a shuffled history.
    """

    name = "co-visit"
    newest: Tensor
    """How many of the newest events speak, 0 = all."""
    decay: Tensor
    offsets: Tensor
    """int64 (V + 1,): the neighbours of item i are at offsets[i]:offsets[i + 1] of the two below."""
    neighbours: Tensor
    weights: Tensor

    def __init__(self, n_items: int) -> None:
        super().__init__(n_items)
        self.register_buffer("newest", torch.zeros((), dtype=torch.int64))
        self.register_buffer("decay", torch.zeros((), dtype=torch.float64))
        self.register_buffer("offsets", torch.zeros(n_items + 2, dtype=torch.int64))
        self.register_buffer("neighbours", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("weights", torch.zeros(0))

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
    def fit(
        cls,
        dataset: Dataset,
        split: Split,
        *,
        window: int = 20,
        decay: float = 1.0,
        directed: bool = True,
        powers: Sequence[float] = (0.5, 0.25),
        most: int = 200,
        newest: int = 50,
    ) -> Self:
        """Count pairs of training events.

        Args:
            dataset: the log.
            split: which of its events train.
            window: farthest two events of a user may be apart to be a pair.
            decay: how fast the events of a history lose their say.
            directed: only what comes after counts.
            powers: of the popularity of either item in the divisor, see `covisit.neighbours`.
            most: neighbours kept of each item.
            newest: events of a history that speak.

        Raises:
            ProtocolError: the log has no order, and the choice needs one.
        """
        ordered = dataset.time_kind != "none"
        if not ordered and (decay or directed):
            raise ProtocolError(
                f"co-visit with decay {decay} and directed {directed} needs an order of events, but this log has no "
                "time column; use decay 0 and directed false"
            )
        model = super().fit(dataset, split)
        events, users = training_events(dataset, split)
        if not ordered:
            events = events[np.lexsort((np.random.default_rng(0).random(len(events)), users))]
        pairing = Pairing(window, directed, by_distance=ordered)
        power_from, power_to = powers
        found = neighbours(dataset.item[events], users, dataset.n_items, pairing, (power_from, power_to), most)
        model.newest.fill_(newest if ordered else 0)
        model.decay.fill_(decay)
        model.offsets, model.neighbours, model.weights = map(
            torch.from_numpy, (found.offsets, found.items, found.weights)
        )
        return model

    def scores(self, histories: Histories) -> Tensor:
        """See `Baseline.scores`."""
        row, weight = _aged(histories, self.decay)
        items = histories.items
        if self.newest:
            near = torch.arange(len(items), device=items.device) >= (histories.offsets[1:] - self.newest)[row]
            row, weight, items = row[near], weight[near], items[near]
        own = weight.new_zeros(len(histories) * (self.n_items + 1))
        for piece in torch.arange(len(items), device=items.device).split(EVENTS_AT_ONCE):
            event, place = self._pairs(items[piece])
            cell = row[piece][event] * (self.n_items + 1) + self.neighbours[place]
            own.index_add_(0, cell, weight[piece][event] * self.weights[place])
        return self._above_popular(own.view(len(histories), -1))

    def _pairs(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return which event each pair belongs to, and where its neighbour and weight are."""
        first = self.offsets[items]
        sizes = self.offsets[items + 1] - first
        event = torch.repeat_interleave(sizes)
        before = sizes.cumsum(0) - sizes
        return event, torch.arange(len(event), device=items.device) + (first - before)[event]

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Make room for as many pairs as the saved model has."""
        for name in ("neighbours", "weights"):
            if prefix + name in state_dict:
                setattr(self, name, getattr(self, name).new_empty(state_dict[prefix + name].shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)


BASELINES: dict[str, type[Baseline]] = {cls.name: cls for cls in (Popular, RecentPopular, Repeat, CoVisit)}


def _aged(histories: Histories, decay: Tensor) -> tuple[Tensor, Tensor]:
    """Return the row (T,) of each event and its float64 weight (1 + age) ** -decay, age 0 being the newest."""
    row = owners(histories.offsets)
    age = histories.offsets[1:][row] - 1 - torch.arange(len(row), device=row.device)
    return row, (1.0 + age.double()) ** -decay
