"""What a request is: which candidates are asked about, at which moment, and which events may be read for an answer.

A history ends before the event that it explains: spans say so, and `check` refuses anything else.

Letters: T events in B rows, R requests, C candidates, K context columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from regard.data.batches import Histories, context_codes, gather, with_labels
from regard.data.cases import Bool, Int64, ranges
from regard.data.negatives import Float32
from regard.data.reading import Reading
from regard.errors import ProtocolError

Order = Literal["time", "place", "none"]


@dataclass(frozen=True)
class Requests:
    """A jagged batch of requests: request r reads the events `spans[r]` of its row and asks about its candidates.

    `log_rates` says how often, on average, a candidate's item is drawn as a negative of one request (its log); None
    where nothing was sampled. `places` and `event_places` say where requests and events stand in the split.
    """

    histories: Histories
    row_offsets: Tensor  # (B + 1,) int64 requests of each row
    spans: Tensor  # (R, 2) int64, counted from the first event of the row
    candidates: Tensor  # (C,) int64 item indexes
    offsets: Tensor  # (R + 1,) int64 candidates of each request
    labels: Tensor  # (C,) float32
    log_rates: Tensor | None  # (C,) float32
    context: Tensor | None  # (R, K) int64 codes, 0 = not given
    users: Tensor  # (R,) int64 user indexes, 0 = unknown
    moments: Tensor | None  # (R,) int64 in the dataset's unit
    places: Tensor | None = None  # (R,) int64
    event_places: Tensor | None = None  # (T,) int64

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def row_of_request(self) -> Tensor:
        """The row (R,) that each request reads."""
        return _owners(self.row_offsets)

    @property
    def request_of_candidate(self) -> Tensor:
        """The request (C,) that each candidate belongs to."""
        return _owners(self.offsets)

    @property
    def candidate_row_offsets(self) -> Tensor:
        """Candidates of each row, (B + 1,)."""
        return self.offsets[self.row_offsets]

    @property
    def candidate_spans(self) -> Tensor:
        """What each candidate may read, (C, 2)."""
        return self.spans.repeat_interleave(self.offsets.diff(), 0)

    def to(self, device: torch.device | str) -> Requests:
        """Return the requests with all tensors on `device`."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items() if value is not None})

    def separate(self) -> Requests:
        """Return the same requests with a row each, which holds what it reads and nothing else."""
        beginning = self.histories.offsets[:-1][self.row_of_request]
        lengths = self.spans[:, 1] - self.spans[:, 0]
        offsets = functional.pad(lengths.cumsum(0), (1, 0))
        owner = torch.repeat_interleave(lengths)
        events = (beginning + self.spans[:, 0] - offsets[:-1])[owner] + torch.arange(len(owner), device=offsets.device)
        columns = {name: getattr(self.histories, name) for name in ("items", "behaviours", "times", "labels")}
        copied = {name: column[events] for name, column in columns.items() if column is not None}
        return replace(
            self,
            histories=replace(self.histories, offsets=offsets, users=self.users, request=None, asked=None, **copied),
            row_offsets=torch.arange(len(self) + 1, device=offsets.device),
            spans=torch.stack([torch.zeros_like(lengths), lengths], 1),
            event_places=None if self.event_places is None else self.event_places[events],
        )

    def reading(self, behaviours: Sequence[int], length: int) -> Requests:
        """Return requests that read only events of these behaviour codes, the newest `length` of what they read now."""
        assert self.histories.behaviours is not None
        codes = torch.as_tensor(behaviours, device=self.spans.device)
        mask = torch.isin(self.histories.behaviours, codes)
        before = functional.pad(mask.cumsum(0), (1, 0))
        beginning = self.histories.offsets[:-1][self.row_of_request][:, None]
        spans = before[beginning + self.spans] - before[beginning]
        spans[:, 0] = torch.maximum(spans[:, 0], spans[:, 1] - length)
        places = None if self.event_places is None else self.event_places[mask]
        return replace(self, histories=self.histories.kept(mask), spans=spans, event_places=places)


def check(requests: Requests, order: Order = "time") -> Requests:
    """Return the requests, or refuse them where one reads an event at or after itself.

    Args:
        requests: on the CPU.
        order: `time`: a request reads earlier places only, and no later moments; `place`: earlier places only; `none`,
            for a log whose parts are drawn by chance: anything but itself.

    Raises:
        ProtocolError: a request reads what it may not; the message says which, and of which user.
    """
    row, spans = requests.row_of_request.numpy(), requests.spans.numpy()
    offsets = requests.histories.offsets.numpy()
    bad = (spans[:, 0] < 0) | (spans[:, 0] > spans[:, 1]) | (spans[:, 1] > np.diff(offsets)[row])
    _refuse(requests, bad, "reads outside of its row")
    beginning = offsets[:-1][row]
    if requests.places is not None and requests.event_places is not None:
        places, own = requests.event_places.numpy(), requests.places.numpy()
        if order == "none":
            events, upto = ranges(beginning + spans[:, 0], beginning + spans[:, 1])
            reads = np.repeat(np.arange(len(own)), np.diff(upto))
            _refuse(requests, np.bincount(reads[places[events] == own[reads]], minlength=len(own)) > 0, "reads itself")
            return requests
        back = np.flatnonzero(np.diff(places) <= 0) + 1
        _refuse(requests, np.isin(row, _rows_of(back, offsets)), "reads events out of order")
        _refuse(requests, _newest(places, beginning, spans) >= own, "reads an event at or after itself")
    if order == "time" and requests.moments is not None and requests.histories.times is not None:
        newest = _newest(requests.histories.times.numpy(), beginning, spans)
        _refuse(requests, newest > requests.moments.numpy(), "reads an event of a later time")
    return requests


def _newest(values: Int64, beginning: Int64, spans: Int64) -> Int64:
    """Value (R,) of the last event that each request reads; the least number where it reads none."""
    none = np.iinfo(np.int64).min
    last = np.append(values, none)[beginning + spans[:, 1] - 1]
    return np.where(spans[:, 1] > spans[:, 0], last, none)


def _rows_of(events: Int64, offsets: Int64) -> Int64:
    """Rows of events that are not the first of their row."""
    return np.searchsorted(offsets, events[~np.isin(events, offsets)], side="right") - 1


def _refuse(requests: Requests, bad: Bool, why: str) -> None:
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        user = int(requests.users[at])
        raise ProtocolError(f"request {at} of user {user} {why}; a history must end before what it explains")


def _owners(offsets: Tensor) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(offsets) - 1, device=offsets.device), offsets.diff())


@dataclass(frozen=True)
class Candidates:
    """Items (C,) with labels, of requests cut by `offsets` (R + 1,)."""

    items: Int64
    labels: Float32
    offsets: Int64

    def part(self, start: int, end: int) -> Candidates:
        """Return the candidates of the requests `start:end`."""
        first, last = self.offsets[start], self.offsets[end]
        return Candidates(self.items[first:last], self.labels[first:last], self.offsets[start : end + 1] - first)

    def with_negatives(self, negatives: Int64, counts: Int64) -> Candidates:
        """Append negatives, back to back, `counts` (R,) of them to each request."""
        many = np.diff(self.offsets)
        offsets = np.concatenate([[0], np.cumsum(many + counts)])
        given = ranges(offsets[:-1], offsets[:-1] + many)[0]
        drawn = ranges(offsets[:-1] + many, offsets[1:])[0]
        items, labels = np.empty(offsets[-1], np.int64), np.zeros(offsets[-1], np.float32)
        items[given], items[drawn], labels[given] = self.items, negatives, self.labels
        return Candidates(items, labels, offsets)


class Writer:
    """Writes positions of a split down as requests, and checks them."""

    def __init__(self, reading: Reading, context: Sequence[str]) -> None:
        self.reading, self.context = reading, context
        split = reading.split
        given = split.rule == "parts" or reading.dataset.time is None
        self.order: Order = "none" if not split.rolling else "place" if given else "time"

    def write(
        self,
        members: tuple[Int64, Int64],
        row_offsets: Int64,
        spans: Int64,
        users: Int64,
        places: Int64,
        candidates: Candidates,
        log_rates: Float32 | None,
    ) -> Requests:
        """Return checked requests at `places` (R,) of `users` (R,) whose rows are `members` (T,), cut by offsets."""
        dataset, event_places = self.reading.dataset, self.reading.positions(members[0])
        events = self.reading.rows(event_places)
        histories = gather(dataset, events, members[1])
        if not self.reading.rule.binary:
            histories = with_labels(histories, dataset, events)
        asked = self.reading.rows(places)
        owners = torch.from_numpy(users.astype(np.int64))
        requests = Requests(
            histories=replace(histories, users=owners[torch.from_numpy(row_offsets[:-1])]),
            row_offsets=torch.from_numpy(row_offsets),
            spans=torch.from_numpy(spans),
            candidates=torch.from_numpy(candidates.items.astype(np.int64)),
            offsets=torch.from_numpy(candidates.offsets),
            labels=torch.from_numpy(candidates.labels),
            log_rates=None if log_rates is None else torch.from_numpy(log_rates[candidates.items]),
            context=context_codes(dataset, self.context, asked),
            users=owners,
            moments=None if dataset.time is None else torch.from_numpy(dataset.time[asked].astype(np.int64)),
            places=torch.from_numpy(places),
            event_places=torch.from_numpy(event_places),
        )
        return check(requests, self.order)
