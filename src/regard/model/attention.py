"""Every form of attention on one page: modules own weights and call `attend`.

Letters: T events of all histories together, W width, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.model.attend import attend

Angles = tuple[Tensor, Tensor]


class SelfAttention(nn.Module):
    """Multi-head scaled dot-product attention within each history (Vaswani et al. 2017, arXiv 1706.03762, eq. 1).

    softmax(Q K^T / sqrt(W / H)) V, with Q, K and V linear in the states, then a linear map of the joined heads.
    """

    def __init__(self, width: int, heads: int, causal: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.join = nn.Linear(width, width, bias=False)

    def forward(
        self, states: Tensor, offsets: Tensor, angles: Angles | None = None, return_weights: bool = False
    ) -> tuple[Tensor, list[Tensor] | None]:
        """(T, W), (B + 1,) -> (T, W) and, if asked for, per history its weights (events, events, H).

        `angles`, each (T, 2, W / H / 2), turn queries and keys, so that logits depend on the difference of two angles.
        """
        query, keys, values = self.project(states).unflatten(-1, (3, self.heads, -1)).unbind(1)
        if angles is not None:
            query, keys = turned(query, angles[0]), turned(keys, angles[1])
        attended = attend(
            query,
            keys,
            values,
            query_offsets=offsets,
            key_offsets=offsets,
            causal=self.causal,
            return_weights=return_weights,
        )
        return self.join(attended.values.flatten(1)), attended.weights


def turned(vectors: Tensor, angles: Tensor) -> Tensor:
    """Turn each pair (i, i + D / 2) of (T, H, D) by its angle; `angles` (T, 2, D / 2) holds cosines and sines."""
    cosine, sine = angles.to(vectors.dtype)[:, :, None].unbind(1)
    first, second = vectors.chunk(2, -1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], -1)
