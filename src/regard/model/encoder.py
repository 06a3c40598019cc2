"""History -> states: every way to read a jagged history so that a state knows its event and earlier ones only.

An encoder is built from settings and called with embedded events (T, W) and offsets (B + 1,); it gives states (T, W)
and the weights of its attention. `ENCODERS` lists them by name. Letters: B rows, T events, W width, H heads.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard.config import ModelSettings
from regard.model.attend import attend
from regard.model.clock import Clock
from regard.model.dropout import Dropout
from regard.model.encoded import Encoded, Encoder
from regard.model.hstu import Transducer
from regard.model.newest import Newest
from regard.model.positions import PlacedSelfAttention
from regard.model.recurrent import GatedRecurrent, LongShortTerm, SequenceToSequence


class FeedForward(nn.Module):
    """`plain`: two linear maps around a GELU. `gated`: SwiGLU (Shazeer 2020, arXiv 2002.05202), (silu(a) * b) W."""

    def __init__(self, width: int, hidden: int, gated: bool) -> None:
        super().__init__()
        self.gated = gated
        self.up = nn.Linear(width, 2 * hidden if gated else hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """(T, W) -> (T, W)."""
        raised = self.up(states)
        if self.gated:
            gate, value = raised.chunk(2, -1)
            raised = functional.silu(gate) * value
        else:
            raised = functional.gelu(raised)
        lowered: Tensor = self.down(raised)
        return lowered


class Block(nn.Module):
    """Pre-norm: x + attention(norm(x)), then x + feed-forward(norm(x)).

    With `model.residual=gated`, what is added is first multiplied by sigmoid(A x + b), a gate for each value (LiGR,
    Borisyuk et al. 2025, arXiv 2502.03417): a block can leave alone what it has nothing to say of.
    """

    def __init__(self, settings: ModelSettings, causal: bool = True) -> None:
        super().__init__()
        width = settings.width
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = PlacedSelfAttention(settings, causal)
        self.feed_forward = FeedForward(width, int(settings.expansion * width), settings.feed_forward == "gated")
        self.dropout = Dropout(settings.dropout)
        gated = settings.residual == "gated"
        self.gates = nn.ModuleList([nn.Linear(width, width) for _ in range(2)]) if gated else None

    def forward(
        self,
        states: Tensor,
        offsets: Tensor,
        clock: Clock | None = None,
        return_weights: bool = False,
        newest: Newest | None = None,
    ) -> tuple[Tensor, list[Tensor] | None]:
        """(T, W) -> (T, W), or (Q, W) after the newest events alone, and the weights of the attention if asked for."""
        mixed, weights = self.attention(self.norms[0](states), offsets, clock, return_weights, newest)
        states = states if newest is None else states[newest.places]
        states = states + self._let(0, states, mixed)
        return states + self._let(1, states, self.feed_forward(self.norms[1](states))), weights

    def _let(self, half: int, states: Tensor, made: Tensor) -> Tensor:
        """What a half of the block adds to the states (T, W) of what it made of them (T, W)."""
        dropped: Tensor = self.dropout(made)
        return dropped if self.gates is None else dropped * torch.sigmoid(self.gates[half](states))


class CausalEncoder(Encoder):
    """Blocks one after the other and a last norm; a state depends on its event and earlier ones of its history only."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(settings) for _ in range(settings.blocks)])
        self.norm = nn.LayerNorm(settings.width)

    def forward(
        self, states: Tensor, offsets: Tensor, clock: Clock | None = None, return_weights: bool = False
    ) -> Encoded:
        """(T, W), (B + 1,) -> (T, W), and per block, per history its weights (events, events, H) if asked for."""
        weights = []
        for block in self.blocks:
            states, shares = block(states, offsets, clock, return_weights)
            weights.append(shares or [])
        return self.norm(states), weights

    def newest(self, states: Tensor, offsets: Tensor, clock: Clock | None = None) -> Tensor:
        """(T, W), (B + 1,) -> (Q, W)."""
        *before, last = self.blocks
        for block in before:
            states, _ = block(states, offsets, clock)
        states, _ = last(states, offsets, clock, newest=Newest.of(offsets))
        normed: Tensor = self.norm(states)
        return normed


class PrefixPooling(Encoder):
    """The weighted mean of the events so far, then a norm: softmax over scores that events have on their own.

    Each head scores and pools its own slice of the values, so weights can differ by what a slice says. A score does not
    depend on who asks: state p has the weights softmax(s_1 … s_p).
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.dropout = Dropout(settings.dropout)
        self.norm = nn.LayerNorm(settings.width)

    def scores(self, states: Tensor) -> Tensor:
        """(T, W) -> (T, H)."""
        raise NotImplementedError

    def forward(
        self,
        states: Tensor,
        offsets: Tensor,
        clock: Clock | None = None,  # noqa: ARG002 - one signature for all encoders
        return_weights: bool = False,
    ) -> Encoded:
        """(T, W), (B + 1,) -> (T, W), and per history its weights (events, events, H) if asked for."""
        scores = self.scores(states).to(states.dtype)[..., None]
        pooled, weights = attend(
            scores.new_ones(scores.shape),
            scores,
            states.unflatten(-1, (scores.shape[1], -1)),
            query_offsets=offsets,
            key_offsets=offsets,
            causal=True,
            scale=1.0,
            return_weights=return_weights,
        )
        return self.norm(self.dropout(pooled.flatten(1))), [weights or []]


class PrefixMean(PrefixPooling):
    """All events so far count the same."""

    def scores(self, states: Tensor) -> Tensor:
        """Zeros, (T, 1)."""
        return states.new_zeros(len(states), 1)


class PrefixAdditive(PrefixPooling):
    """Learned scores: linear in the event, or v . tanh(A x + b) with `model.score_hidden` (Yang et al. 2016, HAN)."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        width, hidden, heads = settings.width, settings.score_hidden, settings.heads
        self.scorer: nn.Module = nn.Linear(width, heads, bias=False)  # softmax forgets a bias
        if hidden:
            self.scorer = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, heads, bias=False))

    def scores(self, states: Tensor) -> Tensor:
        """(T, W) -> (T, H)."""
        scored: Tensor = self.scorer(states)
        return scored


ENCODERS: dict[str, Callable[[ModelSettings], Encoder]] = {
    "mean": PrefixMean,
    "gru": GatedRecurrent,
    "lstm": LongShortTerm,
    "additive": PrefixAdditive,
    "self-attention": CausalEncoder,
    "hstu": Transducer,
    "seq2seq": SequenceToSequence,
}
"""Every encoder by name; those in `ATTENDING` compare events with each other, in heads."""

ATTENDING = ("self-attention", "hstu", "seq2seq")
