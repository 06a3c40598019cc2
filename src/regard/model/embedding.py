"""What an event is to a model: its item, and optionally its behaviour, its place and the time since the one before."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard.config import ModelSettings
from regard.data.batches import Histories
from regard.model.dropout import Dropout
from regard.model.items import first_scale, vectors

GAP_BUCKETS = 32
FORGOTTEN = 0.05  # share of histories and requests that train without what may be missing later


class EventEmbedding(nn.Module):
    """Sum of the tables that the settings ask for; (T, width) for T events.

    Unknown items share a row of the item table: they have a place, a behaviour and a time, but no identity.
    """

    def __init__(self, n_behaviours: int, settings: ModelSettings, recent: bool = False) -> None:
        """Make the tables; with `recent`, places are counted back from the newest event."""
        super().__init__()
        width, self.recent = settings.width, recent
        scale = first_scale(settings)
        self.position = vectors(settings.window, width, scale) if settings.positions == "learned" else None
        self.behaviour = vectors(n_behaviours + 1, width, scale) if settings.behaviours and n_behaviours > 1 else None
        self.gap = vectors(GAP_BUCKETS, width, scale) if settings.time_gaps else None
        self.wait = vectors(GAP_BUCKETS, width, scale) if settings.request_time else None
        self.dropout = Dropout(settings.dropout)

    def forward(self, histories: Histories, table: Tensor) -> Tensor:
        """Embed every event by the item table (n_items + 1, width); histories hold at most `window` events each."""
        states = functional.embedding(histories.items, table)
        if self.position is not None:
            place = places(histories.offsets)
            if self.recent:
                lengths = histories.lengths
                place = torch.repeat_interleave(lengths - 1, lengths, output_size=len(place)) - place
            states = states + functional.embedding(place, self.position)
        if self.behaviour is not None and histories.behaviours is not None:
            behaviours = histories.behaviours
            if self.training:  # a live history has no behaviours: code 0 must have a meaning too
                told = torch.rand(len(histories), device=behaviours.device) >= FORGOTTEN
                behaviours = behaviours * torch.repeat_interleave(told, histories.lengths, output_size=len(behaviours))
            states = states + functional.embedding(behaviours, self.behaviour)
        if self.gap is not None and histories.times is not None:
            states = states + functional.embedding(gap_buckets(histories.times, histories.offsets), self.gap)
        if self.wait is not None and histories.times is not None and histories.asked is not None:
            states = states + functional.embedding(octaves(histories.asked - histories.times), self.wait)
        dropped: Tensor = self.dropout(states)
        return dropped


class RequestEmbedding(nn.Module):
    """What the moment of a request adds to the state of a history: the sum of one vector per context column.

    In training a share of the requests loses its context, so that code 0 (not given) has a meaning too.
    """

    def __init__(self, context: Mapping[str, int], width: int) -> None:
        super().__init__()
        self.tables = nn.ParameterList([nn.Parameter(torch.zeros(count + 1, width)) for count in context.values()])

    def forward(self, codes: Tensor) -> Tensor:
        """Codes (R, K) -> (R, width)."""
        if self.training:
            codes = codes * (torch.rand(len(codes), 1, device=codes.device) >= FORGOTTEN)
        each = [functional.embedding(codes[:, at], table) for at, table in enumerate(self.tables)]
        return torch.stack(each).sum(0)


def places(offsets: Tensor) -> Tensor:
    """Position of each event inside its history, oldest = 0: (B + 1,) -> (T,)."""
    lengths = offsets.diff()
    total = int(offsets[-1])
    return torch.arange(total, device=offsets.device) - torch.repeat_interleave(
        offsets[:-1], lengths, output_size=total
    )


def gap_buckets(times: Tensor, offsets: Tensor) -> Tensor:
    """Time since the previous event of the history in octaves of seconds: microseconds (T,) -> (T,).

    The first event of a history has bucket 0, gaps of less than two seconds bucket 1, of less than four bucket 2, ….
    """
    buckets = octaves(torch.diff(times, prepend=times[:1]))
    starts = offsets[:-1][offsets.diff() > 0]
    return buckets.index_fill(0, starts, 0)


def octaves(gaps: Tensor) -> Tensor:
    """Microseconds -> 1 for less than two seconds, 2 for less than four, …, `GAP_BUCKETS` - 1 at most."""
    seconds = gaps.clamp_min(0).double() / 1e6
    return (1 + torch.log2(seconds.clamp_min(1.0))).long().clamp_max(GAP_BUCKETS - 1)
