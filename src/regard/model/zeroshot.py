"""What pretrained vectors say without any training: the items most like those of a history."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from regard.data.batches import Histories
from regard.model.topk import owners


class RawCosine:
    """The cosine between an item's vector and the mean direction of a history's vectors; nothing is learned.

    rows (V + 1, D) are vectors as they were read, known (V + 1,) says which items have one. A history without any
    has the same score for all items.
    """

    name = "raw-cosine"
    window: int | None = None
    training = False

    def __init__(self, rows: Tensor, known: Tensor) -> None:
        self.known = known
        self.directions = functional.normalize(rows.float(), dim=1) * known[:, None]

    def scores(self, histories: Histories) -> Tensor:
        """(B, V + 1) float32."""
        items = self.directions[histories.items]
        sums = torch.zeros(len(histories), self.directions.shape[1], device=items.device)
        sums.index_add_(0, owners(histories.offsets), items)
        return functional.normalize(sums, dim=1) @ self.directions.T

    def train(self, mode: bool = True) -> object:
        """Nothing to switch."""
        return mode
