"""What the pretrained vectors of an item and of a history have in common, added to the score of items few have met.

A learned score says little of an item with a handful of training events, and its pretrained vector says the same of it
as of any other. So a retriever's score is

    score(history, item) + weight · m / (n + m) · cos(sum over events of decay^age · vector of the event's item, vector)

with n training events of the item. It is added when items are scored, not in training, where each target has been met.
Adding a content score by how few know an item is an old idea (Burke 2002, "Hybrid recommender systems: survey and
experiments", UMUAI 12, calls it switching and weighting); the form and the figures here are ours: docs/transfer.md.

Letters: V items, K values of a vector, B histories of T events together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard.data.batches import Histories
from regard.model.topk import owners

DECAY = 0.5
"""How much less an event counts than the one after it."""
EVENTS = 5.0
"""m: an item with so many training events has half of the weight."""


class Content(nn.Module):
    """Directions of items and how much each counts; both in buffers, so that saved weights need no file of vectors.

    `rows` (V + 1, K) have length 1, or 0 where nothing is told; `gate` (V + 1,) is m / (n + m).
    """

    rows: Tensor
    gate: Tensor

    def __init__(self, items: int, size: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.register_buffer("rows", torch.zeros(items + 1, size))
        self.register_buffer("gate", torch.ones(items + 1))

    def take(self, rows: Tensor, counts: Tensor) -> None:
        """Read vectors (V + 1, K), centred, 0 where nothing is told, and training events of items (V + 1,)."""
        self.rows.copy_(functional.normalize(rows, dim=1))
        self.weigh(counts)

    def weigh(self, counts: Tensor) -> None:
        """Say how many training events items have, (V + 1,)."""
        self.gate.copy_(EVENTS / (counts + EVENTS))

    def grow(self, rows: Tensor) -> None:
        """Append items that came after training, (n, K), which nobody has met."""
        self.rows = torch.cat([self.rows, functional.normalize(rows, dim=1).to(self.rows)])
        self.gate = torch.cat([self.gate, self.gate.new_ones(len(rows))])

    def add_to(self, scores: Tensor, histories: Histories) -> Tensor:
        """Add to scores (B, V + 1), in place; no rows of a large table are copied."""
        return scores.addcmul_(self.lately(histories) @ self.rows.T, self.gate, value=self.weight)

    def lately(self, histories: Histories) -> Tensor:
        """What histories have been about lately: directions (B, K), 0 where nothing is told of any of their items."""
        owner = owners(histories.offsets)
        age = histories.offsets[1:][owner] - 1 - torch.arange(len(owner), device=owner.device)
        sums = self.rows.new_zeros(len(histories), self.rows.shape[1])
        sums.index_add_(0, owner, self.rows[histories.items] * (DECAY**age)[:, None])
        return functional.normalize(sums, dim=1)
