"""Vectors of users whom training never met, solved from their histories in closed form.

A user vector of training is what makes an item's vector times it large for what the user chose, so the vector of
somebody new is found by regression on the items of the history. It is drawn to the mean user, as strongly as users of
training differ little and as single events say little; both are measured while the model learns.

Letters: T events in B histories, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_MEMORY = 100  # steps over which the statistics are averaged
_BLOCK = 256  # histories solved at once
_LEAST = 1e-8  # variance of an event, so that a system can be solved before anything was learned


class FoldIn(nn.Module):
    """Ridge regression towards the mean user.

    With the vectors X (n, W) of a history's items and what they should score, y (n,): the vector is
    c + D (D X'X D + v I)^-1 D X'(y - X c), where c (W,) is the mean user, D the diagonal of the standard deviations of
    users, and v the variance of y around what users score. This is the mean of the posterior of a normal prior (Hoerl
    and Kennard 1970, Technometrics 12(1)).

    Buffers are running means over the last steps of training: `mean` and `power` (W,) of user vectors and their
    squares, `level`: the score of an item that a user has, `noise`: its variance. `steps` counts.
    """

    mean: Tensor
    power: Tensor
    level: Tensor
    noise: Tensor
    steps: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        for name, start in (("mean", torch.zeros(width)), ("power", torch.zeros(width))):
            self.register_buffer(name, start)
        for name in ("level", "noise", "steps"):
            self.register_buffer(name, torch.zeros(()))

    @torch.no_grad()
    def watch(self, users: Tensor, level: Tensor, noise: Tensor) -> None:
        """Read the user vectors (R, W) of a step, the score of what they have, and its variance."""
        self.steps += 1
        share = 1 / self.steps.clamp_max(_MEMORY)
        users = users.detach().to(self.mean)
        for kept, now in (
            (self.mean, users.mean(0)),
            (self.power, users.square().mean(0)),
            (self.level, level),
            (self.noise, noise),
        ):
            kept.lerp_(now.detach().to(kept), share)

    @property
    def spread(self) -> Tensor:
        """Standard deviations of user vectors, (W,)."""
        return (self.power - self.mean.square()).clamp_min(0.0).sqrt()

    @torch.no_grad()
    def forward(self, items: Tensor, wanted: Tensor, offsets: Tensor, centre: Tensor | None = None) -> Tensor:
        """Vectors (B, W) of histories whose items have vectors (T, W), and should score `wanted` (T,).

        Args:
            items: of all histories, back to back, cut by `offsets` (B + 1,).
            wanted: nan where nothing is known but that the user has the item: it stands for `level`.
            offsets: where histories begin and end; without events a history has its centre.
            centre: (B, W), where something is known of users beside their histories; None = the mean user.
        """
        if centre is None:
            centre = self.mean.expand(len(offsets) - 1, -1)
        wanted = torch.where(wanted.isnan(), self.level.to(wanted.dtype), wanted)
        found = [
            self._solved(items, wanted, offsets[at : at + _BLOCK + 1], centre[at : at + _BLOCK])
            for at in range(0, len(offsets) - 1, _BLOCK)
        ]
        return torch.cat(found) if found else centre

    def _solved(self, items: Tensor, wanted: Tensor, offsets: Tensor, centre: Tensor) -> Tensor:
        """One block, in double precision; rows of zeros behind shorter histories add nothing to the sums."""
        lengths, exact = offsets.diff(), centre.double()
        row = torch.repeat_interleave(lengths)
        span = slice(int(offsets[0]), int(offsets[-1]))
        vectors, scale = items[span].double(), self.spread.double()
        rest = wanted[span].double() - (vectors * exact[row]).sum(1)
        place = torch.arange(len(row), device=row.device) - (offsets[:-1] - offsets[0])[row]
        many = int(lengths.max()) if len(row) else 0
        left = vectors.new_zeros(len(lengths), many, vectors.shape[1])
        left[row, place] = vectors * scale
        right = vectors.new_zeros(len(lengths), many)
        right[row, place] = rest
        gram = left.transpose(1, 2) @ left
        gram.diagonal(dim1=1, dim2=2).add_(self.noise.double().clamp_min(_LEAST))
        solved: Tensor = torch.linalg.solve(gram, left.transpose(1, 2) @ right[:, :, None])[:, :, 0]
        answer: Tensor = (exact + scale * solved).to(centre.dtype)
        return answer
