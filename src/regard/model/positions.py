"""Where an event stands, told to attention itself: by angles (rotary) or by a learned bias of its logits (relative).

Letters: T events of all histories together, D width of a head, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.config import ModelSettings
from regard.model.attend import attend
from regard.model.attention import Angles, SelfAttention, turned
from regard.model.embedding import places

BASE = 10_000.0
FAR = 128  # distances from here on share a bias


class Rotary(nn.Module):
    """Angles in proportion to the place in the history (Su et al. 2021, arXiv 2104.09864, eq. 15).

    Pair i of a head's D values turns by place * 10000^(-2i / D), so a logit depends on how far two events are apart.
    """

    def __init__(self, head_width: int) -> None:
        super().__init__()
        pairs = head_width // 2
        self.frequencies: Tensor
        powers = torch.arange(pairs, dtype=torch.float64) / max(1, pairs)
        self.register_buffer("frequencies", BASE**-powers, persistent=False)

    def forward(self, offsets: Tensor) -> Tensor:
        """(B + 1,) -> cosines and sines (T, 2, D / 2), as `attention.turned` takes them."""
        angles = places(offsets)[:, None] * self.frequencies
        return torch.stack([angles.cos(), angles.sin()], 1).float()


class RelativeBias(nn.Module):
    """A learned number for each head and distance, added to the logits of attention; distances are clipped.

    The simplest of the relative positions (Shaw et al. 2018, arXiv 1803.02155, clip distances; Raffel et al. 2020,
    arXiv 1910.10683, section 2.1, use one number per head).
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(heads, FAR))

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """Places in the history, (q, 1) and (1, k) -> (H, q, k): the `bias` of `attend`."""
        return self.table[:, (query - key).abs().clamp_max(FAR - 1)]


class PlacedSelfAttention(SelfAttention):
    """Self-attention that knows the distance of two events, where the settings ask for rotary or relative positions."""

    def __init__(self, settings: ModelSettings, causal: bool = True) -> None:
        super().__init__(settings.width, settings.heads, causal)
        self.rotary = Rotary(settings.width // settings.heads) if settings.positions == "rotary" else None
        self.relative = RelativeBias(settings.heads) if settings.positions == "relative" else None

    def forward(
        self, states: Tensor, offsets: Tensor, angles: Angles | None = None, return_weights: bool = False
    ) -> tuple[Tensor, list[Tensor] | None]:
        """As `SelfAttention`; `angles`, of time for example, add to those of the places."""
        query, keys, values = self.project(states).unflatten(-1, (3, self.heads, -1)).unbind(1)
        if angles is not None:
            query, keys = turned(query, angles[0]), turned(keys, angles[1])
        if self.rotary is not None:
            own = self.rotary(offsets)
            query, keys = turned(query, own), turned(keys, own)
        attended = attend(
            query,
            keys,
            values,
            query_offsets=offsets,
            key_offsets=offsets,
            causal=self.causal,
            bias=self.relative,
            return_weights=return_weights,
        )
        return self.join(attended.values.flatten(1)), attended.weights
