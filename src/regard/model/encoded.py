"""What every encoder is: called with embedded events, it gives the state after each; asked so, after the newest only.

Letters: B rows, T events, Q rows that have events, W width.
"""

from __future__ import annotations

from torch import Tensor, nn

from regard.model.clock import Clock
from regard.model.newest import Newest

Encoded = tuple[Tensor, list[list[Tensor]]]


class Encoder(nn.Module):
    """History -> states; `encoder.ENCODERS` lists them by name."""

    def newest(self, states: Tensor, offsets: Tensor, clock: Clock | None = None) -> Tensor:
        """Embedded events (T, W), (B + 1,) -> (Q, W), the state after the newest event of each history that has any.

        Attending encoders override it: in their last layer the other states need not be made.
        """
        every: Tensor = self(states, offsets, clock)[0]
        return every[Newest.of(offsets).places]
