"""Dropout whose random numbers cost little: a byte for each value, eight bytes from one draw."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_STEPS = 256  # of a byte


class Dropout(nn.Module):
    """Zeros a share of the values in training and scales up the rest (Srivastava et al. 2014, JMLR 15).

    On a CPU `nn.Dropout` draws a number for each value, which takes longer than the matrix product before it. Here
    the share is rounded to a multiple of 1/256, and the scale is that of the rounded share. A card has its own way.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, values: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        dropped = min(_STEPS - 1, round(self.share * _STEPS))
        if not self.training or not dropped:
            return values
        if values.device.type != "cpu":
            return functional.dropout(values, self.share)
        draws = torch.empty(-(-values.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        kept = draws.view(torch.uint8)[: values.numel()].view(values.shape) >= dropped
        return values * kept.to(values.dtype).mul_(_STEPS / (_STEPS - dropped))

    def extra_repr(self) -> str:
        """Name the share in the printed model."""
        return f"share={self.share}"
