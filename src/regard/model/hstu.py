"""Pointwise attention: hierarchical sequential transduction units (HSTU), where weights are not made to add up to 1.

Letters: B rows, T events, W width, H heads.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from regard.config import ModelSettings
from regard.model.attend import attend
from regard.model.attention import turned
from regard.model.clock import Clock
from regard.model.dropout import Dropout
from regard.model.encoded import Encoded, Encoder
from regard.model.newest import Newest
from regard.model.positions import Places

EPSILON = 1e-6  # of norms: a mean over many keys is small


class Unit(nn.Module):
    """One layer (Zhai et al. 2024, arXiv 2402.17152, eqs. 1 to 3).

    U, V, Q, K = silu(norm(x) P); A = silu(Q K^T + bias) / number of keys seen; x + (norm(A V) * U) O. So one layer is
    attention, gate and feed-forward in one. The logits are not scaled, and their bias is of distance and of time.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        width, self.heads = settings.width, settings.heads
        self.norm = nn.LayerNorm(width, EPSILON)
        self.project = nn.Linear(width, 4 * width, bias=False)
        self.places = Places(settings, settings.positions in ("learned", "relative"))
        self.after = nn.LayerNorm(width, EPSILON)
        self.dropout = Dropout(settings.dropout)
        self.join = nn.Linear(width, width, bias=False)

    def forward(
        self,
        states: Tensor,
        offsets: Tensor,
        clock: Clock | None = None,
        return_weights: bool = False,
        newest: Newest | None = None,
    ) -> tuple[Tensor, list[Tensor] | None]:
        """(T, W) -> (T, W), or (Q, W) after the newest events alone, and the weights of the attention if asked for.

        These are negative for negative logits.
        """
        gate, *parts = functional.silu(self.project(self.norm(states))).chunk(4, -1)
        values, query, keys = (part.unflatten(-1, (self.heads, -1)) for part in parts)
        for of_queries, of_keys in self.places.turns(offsets, clock):
            query, keys = turned(query, of_queries), turned(keys, of_keys)
        if newest is not None:
            states, gate, query = states[newest.places], gate[newest.places], query[newest.places]
        mixed, weights = attend(
            query,
            keys,
            values,
            query_offsets=offsets if newest is None else newest.offsets,
            key_offsets=offsets,
            causal=newest is None,  # nothing is after the newest
            bias=self.places.bias(clock, newest),
            normalize="silu",
            scale=1.0,
            return_weights=return_weights,
        )
        return states + self.join(self.dropout(self.after(mixed.flatten(1)) * gate)), weights


class Transducer(Encoder):
    """Units one after the other and a last norm; a state depends on its event and earlier ones of its history only."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.units = nn.ModuleList([Unit(settings) for _ in range(settings.blocks)])
        self.norm = nn.LayerNorm(settings.width)

    def forward(
        self, states: Tensor, offsets: Tensor, clock: Clock | None = None, return_weights: bool = False
    ) -> Encoded:
        """(T, W), (B + 1,) -> (T, W), and per unit, per history its weights (events, events, H) if asked for."""
        weights = []
        for unit in self.units:
            states, shares = unit(states, offsets, clock, return_weights)
            weights.append(shares or [])
        return self.norm(states), weights

    def newest(self, states: Tensor, offsets: Tensor, clock: Clock | None = None) -> Tensor:
        """(T, W), (B + 1,) -> (Q, W)."""
        *before, last = self.units
        for unit in before:
            states, _ = unit(states, offsets, clock)
        states, _ = last(states, offsets, clock, newest=Newest.of(offsets))
        normed: Tensor = self.norm(states)
        return normed
