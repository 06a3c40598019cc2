"""What an event is to a model: its item, and optionally its behaviour, its place and the time since the one before."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard.config import ModelSettings
from regard.data.batches import Histories

GAP_BUCKETS = 32


class ItemTable(nn.Module):
    """Item vectors: a row per item plus the rows of its attribute values, so that what is alike shares what is learned.

    Row 0 belongs to unknown items, value 0 to items without that attribute.
    """

    def __init__(self, n_items: int, width: int, attributes: Mapping[str, int]) -> None:
        super().__init__()
        self.item = _table(n_items + 1, width)
        self.values = nn.ParameterList([_table(count + 1, width) for count in attributes.values()])
        self.codes: Tensor
        self.register_buffer("codes", torch.zeros(len(attributes), n_items + 1, dtype=torch.int64))

    def forward(self) -> Tensor:
        """(n_items + 1, width)."""
        table: Tensor = self.item
        for values, codes in zip(self.values, self.codes, strict=True):
            table = table + functional.embedding(codes, values)
        return table


class EventEmbedding(nn.Module):
    """Sum of the tables that the settings ask for; (T, width) for T events.

    Unknown items share a row of the item table: they have a place, a behaviour and a time, but no identity.
    """

    def __init__(self, n_behaviours: int, settings: ModelSettings) -> None:
        super().__init__()
        width = settings.width
        self.position = _table(settings.window, width) if settings.positions == "learned" else None
        self.behaviour = _table(n_behaviours + 1, width) if settings.behaviours and n_behaviours > 1 else None
        self.gap = _table(GAP_BUCKETS, width) if settings.time_gaps else None
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, histories: Histories, table: Tensor) -> Tensor:
        """Embed every event by the item table (n_items + 1, width); histories hold at most `window` events each."""
        states = functional.embedding(histories.items, table)
        if self.position is not None:
            states = states + functional.embedding(places(histories.offsets), self.position)
        if self.behaviour is not None and histories.behaviours is not None:
            states = states + functional.embedding(histories.behaviours, self.behaviour)
        if self.gap is not None and histories.times is not None:
            states = states + functional.embedding(gap_buckets(histories.times, histories.offsets), self.gap)
        dropped: Tensor = self.dropout(states)
        return dropped


class TimeAngles(nn.Module):
    """Angles by which rotary attention turns queries and keys: what two events have between them is their time lag.

    Rotary embedding (Su et al. 2021, arXiv 2104.09864) with elapsed time in the place of the position; periods run
    geometrically from an hour to about two years, one for each pair of values of a head.
    """

    def __init__(self, head_width: int) -> None:
        super().__init__()
        pairs = head_width // 2
        periods = 3600.0 * (20_000.0 ** (torch.arange(pairs, dtype=torch.float64) / max(1, pairs - 1)))
        self.frequencies: Tensor
        self.register_buffer("frequencies", 2 * torch.pi / periods, persistent=False)

    def forward(self, histories: Histories) -> Tensor:
        """Cosine and sine of every event's angles, (T, 2, head width / 2), from the start of its history."""
        assert histories.times is not None
        lengths = histories.lengths
        filled = lengths > 0
        starts = torch.repeat_interleave(histories.times[histories.offsets[:-1][filled]], lengths[filled])
        turns = ((histories.times - starts).double() / 1e6)[:, None] * self.frequencies
        return torch.stack([turns.cos(), turns.sin()], 1).float()


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
    gaps = torch.diff(times, prepend=times[:1]).clamp_min(0).double() / 1e6
    buckets = (1 + torch.log2(gaps.clamp_min(1.0))).long().clamp_max(GAP_BUCKETS - 1)
    starts = offsets[:-1][offsets.diff() > 0]
    return buckets.index_fill(0, starts, 0)


def _table(rows: int, width: int) -> nn.Parameter:
    """Rows of length about one: with the final norm, logits then start near zero mean and unit spread."""
    return nn.Parameter(torch.randn(rows, width) * width**-0.5)
