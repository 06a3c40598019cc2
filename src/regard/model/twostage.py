"""A retriever finds candidates in the catalogue, a ranker puts them in order; together they score like one model."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard.data.batches import Histories, newest
from regard.model.ranker import Ranker
from regard.model.retriever import Retriever
from regard.model.topk import Jagged, owners

DEPTH = 500


class TwoStage(nn.Module):
    """The retriever's best `depth` items of a history re-ranked, all others below them in the retriever's order.

    With `filter_seen` the items of the history do not count among the `depth`. What may be found is what the retriever
    knows; of these, items that the ranker knows nothing of are the unknown item to it, in histories as well.
    """

    def __init__(self, retriever: Retriever, ranker: Ranker, *, filter_seen: bool, depth: int = DEPTH) -> None:
        super().__init__()
        self.retriever, self.ranker = retriever, ranker
        self.filter_seen, self.depth = filter_seen, depth
        self.excluded: Jagged | None = None
        self.candidates: Tensor | None = None
        self.name, self.known = ranker.name, retriever.known
        self.window = max(retriever.window, ranker.window)
        self.context = tuple(dict.fromkeys([*ranker.context, *retriever.context]))
        self.personal = ranker.personal
        self.request_time = retriever.request_time or ranker.request_time

    @property
    def table(self) -> Tensor:
        """The retriever's item vectors, (n_items + 1, width)."""
        return self.retriever.table

    def scores(self, histories: Histories) -> Tensor:
        """(B, n_items + 1) float32: the ranker's logits, and below them the retriever's scores of all other items."""
        scores = self.retriever.scores(self._for(histories, self.retriever))
        allowed = scores.masked_fill(~self.known, -torch.inf)
        allowed[:, 0] = -torch.inf
        if self.candidates is not None:
            left_out = torch.ones_like(self.known)
            left_out[self.candidates] = False
            allowed.masked_fill_(left_out, -torch.inf)
        if self.filter_seen:
            allowed[owners(histories.offsets), histories.items] = -torch.inf
        if self.excluded is not None:
            allowed[owners(self.excluded[1]), self.excluded[0]] = -torch.inf
        among = int(self.known.sum()) if self.candidates is None else len(self.candidates)
        found = allowed.topk(min(self.depth, among, allowed.shape[1]), 1)
        real = found.values > -torch.inf
        offsets = functional.pad(real.sum(1).cumsum(0), (1, 0))
        logits = self.ranker.rank(self._for(histories, self.ranker), found.indices[real], offsets)
        ranked = torch.full_like(scores[:, : real.shape[1]], torch.inf).masked_scatter(real, logits.to(scores.dtype))
        floor = ranked.amin(1, keepdim=True)
        highest = scores.masked_fill(~self.known, -torch.inf).amax(1, keepdim=True)
        below = scores - highest + floor.where(floor.isfinite(), 0.0) - 1.0
        return below.scatter(1, found.indices, torch.where(real, ranked, below.gather(1, found.indices)))

    def narrowed(self, excluded: Jagged | None, candidates: Tensor | None) -> TwoStage:
        """The same stages, which now re-rank `candidates` (all where None) without the items `excluded` by history."""
        narrow = TwoStage(self.retriever, self.ranker, filter_seen=False, depth=self.depth).train(self.training)
        narrow.excluded, narrow.candidates = excluded, candidates
        return narrow

    def _for(self, histories: Histories, stage: Retriever | Ranker) -> Histories:
        """Histories as a stage reads them: its newest `window` events, its own context columns."""
        read = newest(histories, stage.window)
        if histories.request is None:
            return read
        picked = [self.context.index(name) for name in stage.context]
        return read.with_request(histories.request[:, picked])
