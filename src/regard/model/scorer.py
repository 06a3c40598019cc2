"""A model meets cases: blocks of histories are scored over the whole catalogue, and only ranks and short lists remain.

Letters: C cases, B histories of one block, V items with the unknown one (n_items + 1), k length of a list.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from regard.data.batches import Histories, asked_at, context_codes, gather
from regard.data.cases import Int64, ranges
from regard.data.requests import Requests
from regard.data.split import Cases
from regard.data.store import Dataset
from regard.model import topk
from regard.model.topk import Jagged

BLOCK_TOKENS = 16_384  # events that are read at once: what the caches of two cores hold best


class CatalogueModel(Protocol):
    """What scores the whole catalogue: baselines and retrievers alike."""

    name: str
    known: Tensor
    """bool (V,): the items it knows something of."""
    training: bool

    def scores(self, histories: Histories) -> Tensor:
        """Return the score of every item as the next one, (B, V), higher is better; column 0 is ignored."""
        ...

    def train(self, mode: bool = True) -> object:
        """Switch dropout and the like on or off."""
        ...


class CandidateModel(Protocol):
    """What says how probable labelled candidates are: rankers, and factorisation of labels."""

    request_time: bool
    training: bool

    def predict(self, requests: Requests) -> Tensor:
        """Return the probability (C,) of each candidate, or its value."""
        ...

    def train(self, mode: bool = True) -> object:
        """Switch dropout and the like on or off."""
        ...


def packed(lengths: Int64, rows: int, tokens: int = BLOCK_TOKENS) -> Iterator[slice]:
    """Cut histories of `lengths` (B,) into blocks, in order: at most `rows`, and `tokens` events or one of them."""
    ends = np.concatenate([[0], np.cumsum(lengths)])
    start = 0
    while start < len(lengths):
        fitting = int(np.searchsorted(ends, ends[start] + tokens, side="right")) - 1
        stop = min(max(fitting, start + 1), start + rows)
        yield slice(start, stop)
        start = stop


class CatalogueScorer:
    """Ranks the targets of cases in the whole catalogue; what `evaluate` sees of a model.

    The model reads the newest `window` events of a history (None: all of them). `precision` runs it under autocast,
    for example in `torch.bfloat16`; ranks are always taken from float32. A block holds at most `block_tokens` events,
    unless one history is longer, and at most `topk.BLOCK_BYTES` of scores. `among` (V,), for a diagnosis, are the items
    that compete: all others stand below them.
    """

    def __init__(
        self,
        model: CatalogueModel,
        dataset: Dataset,
        device: torch.device | str = "cpu",
        window: int | None = None,
        *,
        precision: torch.dtype | None = None,
        block_tokens: int = BLOCK_TOKENS,
        among: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        self.model, self.dataset, self.device = model, dataset, torch.device(device)
        self.window, self.precision, self.block_tokens = window, precision, block_tokens
        self.among = None if among is None else torch.from_numpy(among)
        self.context: Sequence[str] = getattr(model, "context", ())
        self.uses_request_time = bool(getattr(model, "request_time", False))

    def rank(self, cases: Cases, *, k: int, filter_seen: bool) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """Rank every target of every case, and list the best `k` items of each case.

        `filter_seen` leaves out all items of the case's visible history, also of the part before the window. Ranks
        follow the rules of `topk.rank_and_top`; several targets of one case do not leave each other out.

        Returns:
            ranks: (targets,), aligned with `cases.targets`.
            top: (C, k), best first, 0 where there are fewer candidates.

        Raises:
            DivergenceError: the model gives scores that are not finite.
        """
        ranks = np.empty(len(cases.targets), dtype=np.int64)
        top = np.empty((len(cases), k), dtype=np.int32)
        known = self.model.known.to(self.device)
        if self.among is not None:
            known = known & self.among.to(self.device)
        with _scoring(self.model, self.device, self.precision):
            for rows in self._blocks(cases):
                places, offsets = ranges(cases.target_offsets[rows], cases.target_offsets[rows + 1])
                targets = self._items(cases.targets[places], offsets)
                seen = self._seen(cases, rows) if filter_seen else None
                found = topk.rank_and_top(self._scores(cases, rows), targets, seen, known, k)
                ranks[places] = found[0].cpu().numpy()
                top[rows] = found[1].cpu().numpy()
        return ranks, top

    def _blocks(self, cases: Cases) -> Iterator[Int64]:
        """Yield rows of cases, shortest histories first and equal ones together, within the limits of a block."""
        lengths = cases.history_end - cases.history_start
        if self.window is not None:
            lengths = np.minimum(lengths, self.window)
        order = np.lexsort((cases.history_end, lengths))
        own = np.where(_repeats(cases, order), 0, lengths[order])
        for part in packed(own, topk.rows_per_block(len(self.model.known)), self.block_tokens):
            yield order[part]

    def _scores(self, cases: Cases, rows: Int64) -> Tensor:
        """Score cases (B, V), each distinct history once: where histories stand still, a user's cases share one.

        Items the model knows nothing of are read as the unknown one, and a case with one target is asked about at the
        moment of that target.
        """
        alike = not (self.context or self.uses_request_time or getattr(self.model, "personal", False))
        fresh = ~_repeats(cases, rows) if alike else np.full(len(rows), True)
        histories = gather(self.dataset, *cases.events(rows[fresh], self.window))
        readable = histories.items.where(self.model.known.cpu()[histories.items], 0)
        users = torch.from_numpy(cases.user[rows[fresh]].astype(np.int64))
        request = self._request(cases, rows)
        histories = replace(histories, items=readable, request=request, users=users).to(self.device)
        if self.uses_request_time:
            assert self.dataset.time is not None
            moments = self.dataset.time[cases.targets[cases.target_offsets[rows]]].astype(np.int64)
            histories = asked_at(histories, torch.from_numpy(moments).to(self.device))
        scores = self.model.scores(histories).float()
        if fresh.all():
            return scores
        return scores[torch.from_numpy(np.cumsum(fresh) - 1).to(self.device)]

    def _request(self, cases: Cases, rows: Int64) -> Tensor | None:
        first = cases.target_offsets[rows]
        codes = context_codes(self.dataset, self.context, cases.targets[first])
        one = torch.from_numpy(cases.target_offsets[rows + 1] - first == 1)
        return None if codes is None else codes * one[:, None]

    def _seen(self, cases: Cases, rows: Int64) -> Jagged:
        events, offsets = cases.events(rows, None)
        return self._items(events, offsets)

    def _items(self, events: Int64, offsets: Int64) -> Jagged:
        items = self.dataset.item[events].astype(np.int64)
        return torch.from_numpy(items).to(self.device), torch.from_numpy(offsets).to(self.device)


def top_for(
    model: CatalogueModel,
    histories: Histories,
    k: int,
    excluded: Jagged | None = None,
    candidates: Tensor | None = None,
    *,
    precision: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (scores float32 (B, k), item indexes int64 (B, k)) of the best `k` items for each history, best first.

    The caller blocks. `excluded` names items per history, `candidates` (int64) restricts all histories to these items.
    Items the model knows nothing of come last, with `topk.UNKNOWN_SCORE`; (-inf, 0) pads where there are too few.
    """
    with _scoring(model, histories.items.device, precision):
        scores = model.scores(histories).float()
        return topk.top_of(scores, k, model.known, excluded, candidates)


def _repeats(cases: Cases, rows: Int64) -> npt.NDArray[np.bool_]:
    """Mark the rows whose history is that of the row before; all empty histories are the same."""
    start, end = cases.history_start[rows], cases.history_end[rows]
    same = (start[1:] == start[:-1]) & (end[1:] == end[:-1])
    empty = start == end
    return np.concatenate([[False], same | (empty[1:] & empty[:-1])])[: len(rows)]


@contextmanager
def _scoring(model: CatalogueModel, device: torch.device, precision: torch.dtype | None) -> Iterator[None]:
    """Score without gradients and dropout; the model is left as it was."""
    training = model.training
    model.train(False)
    try:
        with (
            torch.inference_mode(),
            torch.autocast(device.type, dtype=precision or torch.bfloat16, enabled=precision is not None),
        ):
            yield
    finally:
        model.train(training)
