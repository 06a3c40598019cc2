"""Negatives of a sampled softmax: drawn once for a batch, each with what is added to its logit for it.

How they are drawn changes what they cost and how much they teach, not what is learned: a negative counts by one over
how often it was to be expected, so that all together stand for the whole catalogue (the logQ correction: Bengio and
Senécal 2008, doi 10.1109/TNN.2007.912312). Letters: V items, N targets of a batch, n draws, m distinct negatives.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.config import ModelSettings
from regard.errors import SettingsError


class SharedNegatives(nn.Module):
    """Draws `model.negatives` items for a batch.

        uniform     every item is as likely
        popularity  in proportion to an item's training events
        in-batch    targets of the batch, each at most once: no rows of the table that the batch does not read anyway
        mixed       half in-batch, half uniform (Yang et al. 2020, doi 10.1145/3366424.3386195)

    The correction takes the targets of a batch for independent draws by popularity. Those of one history are not quite
    that: in-batch negatives are the more biased towards a user's own items, the fewer histories a batch has.
    """

    upto: Tensor

    def __init__(self, items: int, settings: ModelSettings) -> None:
        super().__init__()
        self.kind, many = settings.negative_sampling, settings.negatives
        self.inside = {"in-batch": many, "mixed": many // 2}.get(self.kind, 0)
        self.outside = many - self.inside
        counted = items + 1 if self.kind != "uniform" else 0
        self.register_buffer("upto", torch.zeros(counted, dtype=torch.float64), persistent=False)

    def take(self, counts: Tensor, targets: Tensor | None = None) -> None:
        """Read how many training events each item has, (V + 1,), and how many of them are targets (all where None).

        Who is in a batch by targets is counted by them; `uniform` needs none of it.
        """
        if len(self.upto):
            told = counts if targets is None or self.kind == "popularity" else targets
            known = told.to(self.upto, copy=True)
            known[0] = 0
            self.upto = known.cumsum(0) / known.sum().clamp_min(1)

    def forward(self, targets: Tensor, offered: Tensor) -> tuple[Tensor, Tensor]:
        """Draw for targets (N,) among the items that are offered, bool (V + 1,); among all where none is.

        Returns:
            Negatives, int64 (m,) ascending, and what is added to their logits, float32 (m,): the log of how often an
            item was drawn less the log of how often it was to be expected, beside a target that is another item.

        Raises:
            SettingsError: training events were never told, and this way of drawing needs them.
        """
        if len(self.upto) and not bool(self.upto[-1]):
            raise SettingsError(
                f"model.negative_sampling={self.kind} draws by training events: call take(counts) before training"
            )
        inside = min(self.inside, len(targets))
        parts = [targets[torch.randperm(len(targets), device=targets.device)[:inside]]]
        if self.kind == "popularity":
            draws = torch.rand(self.outside, dtype=torch.float64, device=targets.device)
            parts.append(torch.searchsorted(self.upto, draws, right=True))
            by_chance, by_count = 0.0, float(self.outside)
        else:
            places = _places(offered)
            parts.append(places[torch.randint(len(places), (self.outside,), device=targets.device)])
            by_chance, by_count = self.outside / len(places), inside * (1 - 1 / max(2, len(targets)))
        items, times = torch.cat(parts).unique(return_counts=True)
        expected = torch.full_like(items, by_chance, dtype=torch.float64)
        if by_count:
            expected += by_count * (self.upto[items] - self.upto[items - 1])
        return items, (times / expected).log().float()


def _places(offered: Tensor) -> Tensor:
    """The items that are offered, ascending; 0 is none."""
    places = offered[1:].nonzero().squeeze(1) + 1
    return places if len(places) else torch.arange(1, len(offered), device=offered.device)
