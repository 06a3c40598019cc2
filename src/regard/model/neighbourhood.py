"""What stands near the newest events of a history in the training histories of all: counts, ready to score with.

Counts are a memory of pairs that have been seen; what a model learns is a guess at pairs that have not. The baseline
`co-visit` is this memory by itself, and a retriever adds it to what it has learned (`model.covisit_weight`).

Letters: B histories, T events, V items with the unknown one (n_items + 1), P pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from regard.data.batches import Histories
from regard.errors import ProtocolError
from regard.model.covisit import Neighbours, Pairing, neighbours
from regard.model.popular import training_events
from regard.model.topk import owners

if TYPE_CHECKING:
    from regard.data.split import Split
    from regard.data.store import Dataset

EVENTS_AT_ONCE = 4_096  # of which neighbours are looked up together
MOST, NEWEST = 100, 20
"""Of what a retriever counts: neighbours of an item, and events of a history that speak. More is no better."""


class Neighbourhood(nn.Module):
    """score(j) = sum over the events i of the history of (1 + age(i)) ** -decay * weight(i, j), weights by `covisit`.

    With a log without order all events count alike, and the pairs are drawn: each event is paired with the `window`
    others that follow it in a shuffled history.
    """

    newest: Tensor
    """How many of the newest events speak, 0 = all."""
    decay: Tensor
    offsets: Tensor
    """int64 (V + 1,): the neighbours of item i are at offsets[i]:offsets[i + 1] of the two below."""
    neighbours: Tensor
    weights: Tensor

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.register_buffer("newest", torch.zeros((), dtype=torch.int64))
        self.register_buffer("decay", torch.zeros((), dtype=torch.float64))
        self.register_buffer("offsets", torch.zeros(n_items + 2, dtype=torch.int64))
        self.register_buffer("neighbours", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("weights", torch.zeros(0))

    def count(
        self,
        dataset: Dataset,
        split: Split,
        *,
        window: int = 20,
        decay: float = 1.0,
        directed: bool = True,
        powers: Sequence[float] = (0.5, 0.25),
        most: int = 200,
        newest: int = 50,
    ) -> None:
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
        events, users = training_events(dataset, split)
        if not ordered:
            events = events[np.lexsort((np.random.default_rng(0).random(len(events)), users))]
        power_from, power_to = powers
        pairing = Pairing(window, directed, by_distance=ordered)
        found = neighbours(dataset.item[events], users, dataset.n_items, pairing, (power_from, power_to), most)
        self.newest.fill_(newest if ordered else 0)
        self.decay.fill_(decay)
        self._take(found)

    def forward(self, histories: Histories) -> Tensor:
        """(B, V) float64, 0 where an item is nobody's neighbour."""
        row, weight = aged(histories, self.decay)
        items = histories.items
        if self.newest:
            near = torch.arange(len(items), device=items.device) >= (histories.offsets[1:] - self.newest)[row]
            row, weight, items = row[near], weight[near], items[near]
        size = len(self.offsets) - 1
        sums = weight.new_zeros(len(histories) * size)
        for piece in torch.arange(len(items), device=items.device).split(EVENTS_AT_ONCE):
            event, place = self._pairs(items[piece])
            cell = row[piece][event] * size + self.neighbours[place]
            sums.index_add_(0, cell, weight[piece][event] * self.weights[place])
        return sums.view(len(histories), size)

    def add_to(self, scores: Tensor, histories: Histories, weight: float) -> Tensor:
        """Add to scores (B, V), in place: weight times the root of an item's share of the largest count.

        A share, so that the weight means the same for every history; nothing where nothing was counted.
        """
        counts = self(histories).float()
        return scores.add_((counts / counts.amax(1, keepdim=True).clamp_min(1e-9)).sqrt_(), alpha=weight)

    def grow(self, count: int) -> None:
        """Append items that came after training: nothing was near them."""
        self.offsets = torch.cat([self.offsets, self.offsets[-1:].expand(count)])

    def take_from(self, other: Neighbourhood, places: Tensor) -> None:
        """Take the counts of another catalogue, whose item `places[i]` is item i here; 0 = it is not there."""
        here = torch.zeros(len(other.offsets) - 1, dtype=torch.int64)
        here[places] = torch.arange(len(places))
        here[0] = 0
        event, place = other._pairs(places)
        mine = here[other.neighbours[place].long()]
        kept = (mine > 0) & (places[event] > 0)
        event, mine, weights = event[kept], mine[kept], other.weights[place[kept]]
        order = (event * len(places) + mine).argsort()
        offsets = functional.pad(torch.bincount(event, minlength=len(places)).cumsum(0), (1, 0))
        self.newest.copy_(other.newest)
        self.decay.copy_(other.decay)
        self._take(Neighbours(offsets.numpy(), mine[order].int().numpy(), weights[order].numpy()))

    def _take(self, found: Neighbours) -> None:
        given = (found.offsets, found.items, found.weights)
        self.offsets, self.neighbours, self.weights = (torch.from_numpy(one).to(self.decay.device) for one in given)

    def _pairs(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return which event each pair belongs to, and where its neighbour and weight are: both (P,)."""
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


def aged(histories: Histories, decay: Tensor) -> tuple[Tensor, Tensor]:
    """Return the row (T,) of each event and its float64 weight (1 + age) ** -decay, age 0 being the newest."""
    row = owners(histories.offsets)
    age = histories.offsets[1:][row] - 1 - torch.arange(len(row), device=row.device)
    return row, (1.0 + age.double()) ** -decay
