"""History -> states: causal blocks over jagged histories.

A block is pre-norm: x + attention(norm(x)), then x + feed-forward(norm(x)).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from regard.config import ModelSettings
from regard.model.attention import Angles, SelfAttention


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
    """Self-attention and feed-forward, each on normalised states and added to what came in."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        width = settings.width
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = SelfAttention(width, settings.heads)
        self.feed_forward = FeedForward(width, int(settings.expansion * width), settings.feed_forward == "gated")
        self.dropout = nn.Dropout(settings.dropout)

    def forward(
        self, states: Tensor, offsets: Tensor, angles: Angles | None, return_weights: bool
    ) -> tuple[Tensor, list[Tensor] | None]:
        """(T, W) -> (T, W), and the weights of the attention if asked for."""
        mixed, weights = self.attention(self.norms[0](states), offsets, angles, return_weights)
        states = states + self.dropout(mixed)
        return states + self.dropout(self.feed_forward(self.norms[1](states))), weights


class CausalEncoder(nn.Module):
    """Blocks one after the other and a last norm; a state depends on its event and earlier ones of its history only."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(settings) for _ in range(settings.blocks)])
        self.norm = nn.LayerNorm(settings.width)

    def forward(
        self, states: Tensor, offsets: Tensor, angles: Angles | None = None, return_weights: bool = False
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """(T, W), (B + 1,) -> (T, W), and per block, per history its weights (events, events, heads) if asked for."""
        weights = []
        for block in self.blocks:
            states, shares = block(states, offsets, angles, return_weights)
            weights.append(shares or [])
        return self.norm(states), weights
