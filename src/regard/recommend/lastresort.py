"""What is recommended where nothing of a history is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from regard.data.batches import Histories


class LastResort:
    """The most popular items, from what a run remembers of its training events."""

    name = "popular"
    training = False

    def __init__(self, counts: npt.NDArray[np.int64]) -> None:
        self.counts = torch.from_numpy(counts).float()
        self.known = self.counts > 0

    def scores(self, histories: Histories) -> Tensor:
        """(B, V)."""
        return self.counts.expand(len(histories), -1)

    def train(self, mode: bool = True) -> object:
        """Nothing to switch."""
        return mode
