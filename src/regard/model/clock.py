"""What attention is told of time: angles that turn queries and keys, and buckets of the time between two events.

Letters: T events of all histories together, b rows of a padded block, q queries and k keys of a row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from regard.config import ModelSettings
from regard.data.batches import Histories
from regard.model.attention import Angles
from regard.model.blocks import Block
from regard.model.newest import Newest

LAG_BUCKETS = 64


class Lags:
    """The time from each key to each query in buckets, made once for all layers of a forward.

    `queries` (T,), or fewer, and `keys` (T,): moments in microseconds.
    """

    def __init__(self, queries: Tensor, keys: Tensor) -> None:
        self.queries, self.keys = queries, keys
        self._made: dict[tuple[int, ...], Tensor] = {}

    def buckets(self, block: Block) -> Tensor:
        """(b, q, k) bytes of a block, which live as long as the forward and its gradients; padding is in any bucket."""
        rows = tuple(block.rows)
        if rows not in self._made:
            query, key = block.queries.lay(self.queries), block.keys.lay(self.keys)
            self._made[rows] = lag_buckets(query[:, :, None] - key[:, None, :])
        return self._made[rows]


@dataclass(frozen=True)
class Clock:
    """What one forward knows of time; None where the settings do not ask for it."""

    angles: Angles | None = None
    lags: Lags | None = None

    def of(self, newest: Newest) -> Clock:
        """The clock of a layer where the newest events alone ask."""
        return replace(self, lags=self.lags and Lags(self.lags.queries[newest.places], self.lags.keys))


class Clocks(nn.Module):
    """Makes the clock of a batch, by `model.time_lags` and `model.time_bias`.

    A key has the time of its event; a query too, or with `model.request_time` the moment it is asked at.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.asked, self.biased = settings.request_time, settings.time_bias
        self.angles = TimeAngles(settings.width // settings.heads) if settings.time_lags else None

    def forward(self, histories: Histories) -> Clock:
        """Histories without times have a clock that says nothing."""
        if histories.times is None or not (self.biased or self.angles):
            return Clock()
        queries = histories.asked if self.asked else histories.times
        assert queries is not None
        angles = None if self.angles is None else self.angles(queries, histories.times, histories.offsets)
        return Clock(angles, Lags(queries, histories.times) if self.biased else None)


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

    def forward(self, queries: Tensor, keys: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Moments (T,), (T,) and (B + 1,) -> cosines and sines for queries and keys, (T, 2, head width / 2) each.

        Time is counted from the first key of each history.
        """
        lengths = offsets.diff()
        filled = lengths > 0
        starts = torch.repeat_interleave(keys[offsets[:-1][filled]], lengths[filled])
        turns = self._turns(keys - starts)
        return (turns if queries is keys else self._turns(queries - starts)), turns

    def _turns(self, elapsed: Tensor) -> Tensor:
        turns = (elapsed.double() / 1e6)[:, None] * self.frequencies
        return torch.stack([turns.cos(), turns.sin()], 1).float()


def lag_buckets(lags: Tensor) -> Tensor:
    """Microseconds (…) -> two buckets for each octave of seconds, uint8; `LAG_BUCKETS` - 1 at most.

    0 is less than a second (or in the future), 1 less than 1.5, 2 less than 2, then 3, 4, 6, 8, 12, …: the exponent
    and the first binary digit of a number in single precision, which cost no logarithm.
    """
    digits = lags.float().div_(1e6).view(torch.int32) >> 22
    return digits.sub_(253).clamp_(0, LAG_BUCKETS - 1).to(torch.uint8)
