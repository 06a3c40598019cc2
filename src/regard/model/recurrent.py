"""Encoders that read a history one event after the other: GRU, LSTM, and an LSTM pair with attention between.

Letters: B rows, T events, W width, b rows of similar length, L the longest of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.config import ModelSettings
from regard.model.attend import attend
from regard.model.blocks import blocks, scatter
from regard.model.clock import Clock
from regard.model.dropout import Dropout
from regard.model.encoded import Encoded, Encoder
from regard.model.positions import PlacedSelfAttention


def run(cell: nn.GRU | nn.LSTM, states: Tensor, offsets: Tensor) -> Tensor:
    """Outputs (T, hidden size) of a recurrent network over jagged rows (T, W), each started from zeros.

    Rows of similar length go through the kernel together, padded at their ends, where no step looks back from: with
    rows packed by `PackedSequence`, PyTorch falls back from its fused LSTM to a step at a time, eleven times slower.
    Never in half precision on a CPU: a step is small, and casting costs more there than it saves.
    """
    pieces: list[tuple[Tensor, Tensor]] = []
    with torch.autocast("cpu", enabled=False):
        exact = states.to(next(cell.parameters()).dtype)[:, None]
        for block in blocks(offsets, offsets):
            padded = block.queries.pad(exact).squeeze(1).transpose(0, 1).contiguous()  # (L, b, W)
            outputs = cell(padded)[0].transpose(0, 1)
            pieces.append((block.queries.slots, block.queries.unpad(outputs[:, None]).squeeze(1)))
    if not pieces:
        return states.new_zeros(0, cell.hidden_size)
    slots, outputs = (torch.cat(one) for one in zip(*pieces, strict=True))
    return scatter(outputs, slots, len(states))


def prefix_sums(values: Tensor, offsets: Tensor) -> Tensor:
    """The sum of each row up to and with every event, (T, W) -> (T, W).

    A running total over all rows would carry the rounding of one history into the next; attention whose weights are
    all one does not. In half precision the last summands of a long history would be lost: never under autocast.
    """
    with torch.autocast(values.device.type, enabled=False):
        exact = values.to(torch.promote_types(values.dtype, torch.float32))
        ones = exact.new_ones(len(values), 1, 1)
        summed = attend(
            ones,
            ones,
            exact[:, None],
            query_offsets=offsets,
            key_offsets=offsets,
            causal=True,
            normalize="none",
            scale=1.0,
        )
    return summed.values.squeeze(1)


class Recurrent(Encoder):
    """A stack of `model.blocks` recurrent layers, then a norm; the state of an event is the network's output there."""

    cell: type[nn.GRU] | type[nn.LSTM]

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.layers = _stack(self.cell, settings)
        self.dropout = Dropout(settings.dropout)
        self.norm = nn.LayerNorm(settings.width)

    def forward(
        self,
        states: Tensor,
        offsets: Tensor,
        clock: Clock | None = None,  # noqa: ARG002 - one signature for all encoders
        return_weights: bool = False,  # noqa: ARG002 - there are none
    ) -> Encoded:
        """(T, W), (B + 1,) -> (T, W); there are no weights to return."""
        return self.norm(self.dropout(run(self.layers, states, offsets))), []


class GatedRecurrent(Recurrent):
    """GRU (Cho et al. 2014, arXiv 1406.1078), over item histories as in Hidasi et al. 2016, arXiv 1511.06939."""

    cell = nn.GRU


class LongShortTerm(Recurrent):
    """LSTM (Hochreiter and Schmidhuber 1997)."""

    cell = nn.LSTM


class SequenceToSequence(Encoder):
    """An LSTM reads the history, a second one started from zeros reads its outputs, attention looks back over that.

    State p = norm(a_1 + … + a_p), where a = causal multi-head self-attention over the decoder's states d,
    d = LSTM of the encoder's outputs e, and e = LSTM of the events. Each step looks back only, so no state sees its
    future. The weights are those of the attention: row q says what went into a_q.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.reader = _stack(nn.LSTM, settings)
        self.writer = _stack(nn.LSTM, settings)
        self.attention = PlacedSelfAttention(settings)
        self.dropout = Dropout(settings.dropout)
        self.norm = nn.LayerNorm(settings.width)

    def forward(
        self, states: Tensor, offsets: Tensor, clock: Clock | None = None, return_weights: bool = False
    ) -> Encoded:
        """(T, W), (B + 1,) -> (T, W), and per history its weights (events, events, heads) if asked for."""
        written = run(self.writer, run(self.reader, states, offsets), offsets)
        mixed, weights = self.attention(written, offsets, clock, return_weights)
        return self.norm(self.dropout(prefix_sums(mixed, offsets))), [weights or []]


def _stack(cell: type[nn.GRU] | type[nn.LSTM], settings: ModelSettings) -> nn.GRU | nn.LSTM:
    """As many layers as blocks, with dropout between them."""
    between = settings.dropout if settings.blocks > 1 else 0.0
    return cell(settings.width, settings.width, num_layers=settings.blocks, dropout=between)
