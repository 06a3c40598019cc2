"""Jagged batches: histories back to back, `offsets` between them, no padding anywhere.

Letters: B histories, T events in all of them together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from regard.data.cases import Int64, ranges

if TYPE_CHECKING:
    from regard.data.split import Split
    from regard.data.store import Dataset

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Histories:
    """A jagged batch of histories, oldest event first; row b is `items[offsets[b]:offsets[b + 1]]` and may be empty."""

    items: Tensor  # (T,) int64 item indexes, 0 = unknown
    offsets: Tensor  # (B + 1,) int64
    behaviours: Tensor | None = None  # (T,) int64 indexes into the dataset's behaviours
    times: Tensor | None = None  # (T,) int64 in the dataset's unit
    asked: Tensor | None = None  # (T,) int64 moments: of the next event, after the last event that of the request
    request: Tensor | None = None  # (B, K) int64 codes of context columns at the moment asked about, 0 = not given
    users: Tensor | None = None  # (B,) int64 user indexes, 0 = unknown
    labels: Tensor | None = None  # (T,) float32 as given, nan = not given; where they are read

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """Events of each history, (B,)."""
        return self.offsets.diff()

    def to(self, device: torch.device | str) -> Histories:
        """Return the batch with all tensors on `device`."""
        moved = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def with_request(self, codes: Tensor) -> Histories:
        """Return the histories with other context codes (B, K)."""
        return replace(self, request=codes)

    def kept(self, mask: Tensor) -> Histories:
        """Return the histories with the events of `mask` (T,) only."""
        columns = {name: getattr(self, name) for name in ("items", "behaviours", "times", "asked", "labels")}
        before = functional.pad(mask.cumsum(0), (1, 0))
        fewer = {name: column[mask] for name, column in columns.items() if column is not None}
        return replace(self, offsets=before[self.offsets], **fewer)


@dataclass(frozen=True)
class TrainingBatch:
    """Histories and what came next.

    `targets` (T,) is the item after each event, 0 where that event enters no loss. `first_targets` (B,) is the first
    event of a user, to be predicted from nothing at all, 0 where a window does not begin at the user's first event.
    `contexts` (T, K) and `first_contexts` (B, K) are the context codes of these targets, where a model asks for them.
    """

    histories: Histories
    targets: Tensor
    first_targets: Tensor
    contexts: Tensor | None = None
    first_contexts: Tensor | None = None

    def to(self, device: torch.device | str) -> TrainingBatch:
        """Return the batch with all tensors on `device`."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items() if value is not None})


def gather(dataset: Dataset, events: Int64, offsets: Int64) -> Histories:
    """Return the histories whose events, by index into the dataset, are `events`, cut by `offsets`."""
    return Histories(
        items=torch.from_numpy(dataset.item[events].astype(np.int64)),
        offsets=torch.from_numpy(np.ascontiguousarray(offsets, dtype=np.int64)),
        behaviours=_column(dataset.behaviour, events),
        times=_column(dataset.time, events),
    )


def with_labels(histories: Histories, dataset: Dataset, events: Int64) -> Histories:
    """Return the histories of these events (T,) with the labels that were given."""
    assert dataset.label is not None
    return replace(histories, labels=torch.from_numpy(dataset.label[events]))


def newest(histories: Histories, window: int) -> Histories:
    """Return the newest `window` events of each history."""
    if not len(histories) or int(histories.lengths.max()) <= window:
        return histories
    ends = histories.offsets[1:].repeat_interleave(histories.lengths)
    return histories.kept(torch.arange(len(ends), device=ends.device) >= ends - window)


def asked_at(histories: Histories, moments: Tensor) -> Histories:
    """Return histories that know when they are asked for what comes next: (B,) moments, in the unit of their times."""
    assert histories.times is not None
    asked = histories.times.roll(-1)
    full = histories.lengths > 0
    asked[histories.offsets[1:][full] - 1] = moments[full]
    return replace(histories, asked=asked)


def context_codes(dataset: Dataset, names: Sequence[str], events: Int64) -> Tensor | None:
    """Return the codes (R, K) of K context columns at events (R,); None where no column is asked for."""
    if not names:
        return None
    return torch.from_numpy(np.stack([dataset.context[name][events].astype(np.int64) for name in names], axis=1))


def _column(values: npt.NDArray[np.generic] | None, events: Int64) -> Tensor | None:
    return None if values is None else torch.from_numpy(values[events].astype(np.int64))


class WindowLoader(Generic[Batch]):
    """Rows of several lengths cut into windows, shuffled anew each epoch and packed into batches of a budget.

    A row longer than `window` is cut at places that move every epoch, so no position of a window is special to a part
    of the row. The order is a function of seed and epoch: `state` is two numbers, and a restored loader goes on exactly
    where it was. A subclass says what a window costs and makes a batch of windows.
    """

    def __init__(self, lengths: Int64, *, window: int, budget: int, seed: int) -> None:
        """Cut rows of `lengths` (U,); a row of length 0 is a window too."""
        self.lengths, self.window, self.budget, self.seed = lengths, window, budget, seed
        self.epoch = 0
        self.step = 0
        self._steps = len(self._plan(0))

    def steps_per_epoch(self) -> int:
        """Batches of the first epoch; windows move, so others differ by a step or so."""
        return self._steps

    def state(self) -> dict[str, int]:
        """Where the next batch will come from."""
        return {"epoch": self.epoch, "step": self.step}

    def restore(self, state: dict[str, int]) -> None:
        """Go on from a `state`."""
        self.epoch, self.step = state["epoch"], state["step"]

    def __iter__(self) -> Iterator[Batch]:
        """Yield what is left of the current epoch, then move to the next."""
        batches = self._plan(self.epoch)
        while self.step < len(batches):
            batch = self._batch(*batches[self.step])
            self.step += 1
            yield batch
        self.epoch, self.step = self.epoch + 1, 0

    def _plan(self, epoch: int) -> list[tuple[Int64, Int64, Int64]]:
        """Return batches as (rows, starts, ends) of windows, counted from the beginning of their rows."""
        rng = np.random.default_rng([self.seed, epoch])
        many, window = len(self.lengths), self.window
        phase = np.where(self.lengths > window, rng.integers(1, window + 1, many), window)
        count = 1 + np.maximum(0, -(-(self.lengths - phase) // window))
        row = np.repeat(np.arange(many), count)
        nth = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        start = np.where(nth == 0, 0, phase[row] + (nth - 1) * window)
        end = np.minimum(phase[row] + nth * window, self.lengths[row])
        shuffled = rng.permutation(len(row))
        spent = np.cumsum(self._cost(row, start, end)[shuffled])
        cuts = np.searchsorted(spent, np.arange(self.budget, spent[-1], self.budget))
        plan = []
        for mine in np.split(shuffled, np.unique(cuts[cuts > 0])):
            mine = mine[np.argsort(start[mine] - end[mine], kind="stable")]  # longest first: equal lengths lie together
            plan.append((row[mine], start[mine], end[mine]))
        return plan

    def _cost(self, rows: Int64, starts: Int64, ends: Int64) -> Int64:
        """What windows take of the budget."""
        raise NotImplementedError

    def _batch(self, rows: Int64, starts: Int64, ends: Int64) -> Batch:
        raise NotImplementedError


class TrainingBatches(WindowLoader[TrainingBatch]):
    """Training windows, in batches of about `batch_tokens` events: every training event is a target once per epoch."""

    def __init__(
        self,
        dataset: Dataset,
        split: Split,
        *,
        window: int,
        batch_tokens: int,
        seed: int,
        context: Sequence[str] = (),
        request_time: bool = False,
    ) -> None:
        self.dataset, self.context, self.request_time = dataset, context, request_time
        self.order = split.order
        starts, ends = split.training(dataset)
        trained = np.flatnonzero(ends > starts)
        self.starts, self.ends = starts[trained], ends[trained]
        self.wanted = split.target_events(dataset)
        self.targets_per_epoch = self._count_targets()
        inputs = self.ends - self.starts - 1  # the last training event is only a target
        super().__init__(inputs, window=window, budget=batch_tokens, seed=seed)

    def _count_targets(self) -> int:
        """Events that enter the loss in one epoch: each training event that may be a target, once."""
        if self.wanted is None:
            return int((self.ends - self.starts).sum())
        return int(self.wanted[self._events(ranges(self.starts, self.ends)[0])].sum())

    def _cost(self, rows: Int64, starts: Int64, ends: Int64) -> Int64:  # noqa: ARG002 - every row costs alike
        return ends - starts + 1

    def _batch(self, rows: Int64, starts: Int64, ends: Int64) -> TrainingBatch:
        beginning = self.starts[rows]
        starts, ends = beginning + starts, beginning + ends
        places, offsets = ranges(starts, ends)
        first = self._target(starts)
        first[starts > beginning] = 0
        histories = gather(self.dataset, self._events(places), offsets)
        if self.request_time:
            assert self.dataset.time is not None
            histories = asked_at(histories, torch.from_numpy(self.dataset.time[self._events(ends)].astype(np.int64)))
        return TrainingBatch(
            histories=histories,
            targets=torch.from_numpy(self._target(places + 1)),
            first_targets=torch.from_numpy(first),
            contexts=context_codes(self.dataset, self.context, self._events(places + 1)),
            first_contexts=context_codes(self.dataset, self.context, self._events(starts)),
        )

    def _events(self, places: Int64) -> Int64:
        return places if self.order is None else self.order[places]

    def _target(self, places: Int64) -> Int64:
        events = self._events(places)
        items = self.dataset.item[events].astype(np.int64)
        if self.wanted is not None:
            items[~self.wanted[events]] = 0
        return items
