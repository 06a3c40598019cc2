"""The newest event of each history: where only its state is wanted, the last layer has one query for each history.

Letters: B rows, T events, Q rows that have events.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Newest:
    """The newest event of each history that has one."""

    places: Tensor  # (Q,) where they stand among the T
    offsets: Tensor  # (B + 1,): none or one a history

    @classmethod
    def of(cls, offsets: Tensor) -> Newest:
        """Find them by the offsets (B + 1,) of histories."""
        full = offsets.diff() > 0
        return cls(offsets[1:][full] - 1, torch.cat([offsets.new_zeros(1), full.cumsum(0)]))
