"""Where an event stands, told to attention itself: by angles (rotary) or by a learned bias of its logits (relative).

Of two events, a bias may read the distance and the time between them. Letters: T events of all histories together, D
width of a head, H heads, b rows of a padded block, q queries and k keys of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.config import ModelSettings
from regard.model.attend import Bias
from regard.model.attention import Angles, SelfAttention
from regard.model.blocks import Block
from regard.model.clock import LAG_BUCKETS, Clock, Lags
from regard.model.embedding import places
from regard.model.maps import looked_up
from regard.model.newest import Newest

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

    def forward(self, block: Block, dtype: torch.dtype) -> Tensor:
        """(b or 1, H, q, k): the `bias` of `attend`."""
        query, key = block.places
        before = block.keys.lengths - block.queries.lengths  # where fewer events ask, they are the newest
        distance = (query - key)[None] if block.queries is block.keys else query + before[:, None, None] - key
        return looked_up(self.table.to(dtype), distance.abs().clamp_max(FAR - 1))


class LagBias(nn.Module):
    """A learned number for each head and bucket of the time between key and query (Zhai et al. 2024, arXiv 2402.17152).

    Buckets are those of `clock.lag_buckets`: two for each octave of seconds.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(heads, LAG_BUCKETS))

    def forward(self, lags: Lags, block: Block, dtype: torch.dtype) -> Tensor:
        """(b, H, q, k)."""
        return looked_up(self.table.to(dtype), lags.buckets(block))


class Places(nn.Module):
    """All that attention itself is told of where and when events are, as the settings ask."""

    def __init__(self, settings: ModelSettings, distances: bool) -> None:
        """Make the tables; with `distances` there is a bias of them."""
        super().__init__()
        self.rotary = Rotary(settings.width // settings.heads) if settings.positions == "rotary" else None
        self.relative = RelativeBias(settings.heads) if distances else None
        self.lag = LagBias(settings.heads) if settings.time_bias else None

    def turns(self, offsets: Tensor, clock: Clock | None) -> list[Angles]:
        """Angles for queries and for keys, of time and of places."""
        found = [clock.angles] if clock is not None and clock.angles is not None else []
        if self.rotary is not None:
            own = self.rotary(offsets)
            found.append((own, own))
        return found

    def bias(self, clock: Clock | None, newest: Newest | None = None) -> Bias | None:
        """The `bias` of `attend`, where `newest` for queries of those alone; a clock without time adds nothing."""
        clock = clock if clock is None or newest is None else clock.of(newest)
        relative, lag, lags = self.relative, self.lag, None if clock is None else clock.lags
        if lag is None or lags is None:
            return relative

        def summed(block: Block, dtype: torch.dtype) -> Tensor:
            of_time: Tensor = lag(lags, block, dtype)
            return of_time if relative is None else of_time + relative(block, dtype)

        return summed


class PlacedSelfAttention(SelfAttention):
    """Self-attention that knows the distance of two events, or the time between them, where the settings ask for it."""

    def __init__(self, settings: ModelSettings, causal: bool = True) -> None:
        super().__init__(settings.width, settings.heads, causal)
        self.places = Places(settings, settings.positions == "relative")

    def forward(  # type: ignore[override]  # asked with the clock instead of what is made of it
        self,
        states: Tensor,
        offsets: Tensor,
        clock: Clock | None = None,
        return_weights: bool = False,
        newest: Newest | None = None,
    ) -> tuple[Tensor, list[Tensor] | None]:
        """As `SelfAttention`; angles of time add to those of the places."""
        turns, bias = self.places.turns(offsets, clock), self.places.bias(clock, newest)
        return super().forward(states, offsets, turns, bias, return_weights, newest)
