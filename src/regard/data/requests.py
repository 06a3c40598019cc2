"""Requests for a ranker: every training target once per epoch, and the held-back ones in blocks.

A history ends before the event that it explains: every batch that leaves this module has been checked for it.

Letters: T events in B rows, R requests, C candidates, M targets.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from regard.config import Settings
from regard.data.asked import Candidates, Requests, Writer, check
from regard.data.batches import WindowLoader
from regard.data.cases import Int64, ranges
from regard.data.labels import LabelRule, resolve_labels
from regard.data.negatives import Float32, Negatives
from regard.data.reading import Reading
from regard.data.split import Part, Split
from regard.data.store import Dataset

__all__ = [
    "EvaluationRequests",
    "LabelRule",
    "RequestBatches",
    "Requests",
    "check",
    "evaluation_requests",
    "resolve_labels",
]

EVENTS_PER_TARGET = 16  # so many events read for a target take as much of the budget of a batch as the target
CHUNK = 4096  # cases whose negatives are drawn together, whatever the blocks
BLOCK = 2**18  # pairs of candidate and event in a block of evaluation


class RequestBatches(WindowLoader[Requests]):
    """Every training target once per epoch, as a request; the loop's protocol is that of `WindowLoader`.

    Histories that roll: targets of a user lie together in a row, at most `model.window` of them, and each reads the
    newest `model.window` events before itself, those before the row's first target included. Histories that stand
    still: each target has a row of its own, with the user's other training events.

    Negatives depend on seed, epoch and step only. `notes` counts what a reader should know.
    """

    def __init__(self, dataset: Dataset, split: Split, settings: Settings) -> None:
        self.reading = Reading(dataset, split, settings)
        self.rule, self.many = self.reading.rule, settings.data.negatives
        self.places, per_user = self.reading.training_targets()
        self.users = np.flatnonzero(per_user)
        self.first = (np.cumsum(per_user) - per_user)[self.users]
        self.starts, self.ends = (bound[self.users] for bound in split.training(dataset))
        self.negatives: Negatives | None = None
        self.log_rates: Float32 | None = None
        short = 0
        if self.rule.sampled:
            self.negatives = self.reading.training_negatives(settings.data.sampling)
            self.log_rates = self.negatives.log_rates(self.many)
            short = int((per_user * np.maximum(self.many - self.negatives.left, 0)).sum())
        self.notes = {
            "labels": str(self.rule),
            "history": self.reading.history,
            "targets": len(self.places),
            "targets_without_label": self._unlabelled(),
            "negatives_not_drawn": short,
        }
        self.targets_per_epoch = len(self.places)
        self._writer = Writer(self.reading, settings.model.context)
        window = settings.model.window if split.rolling else 1
        super().__init__(
            per_user[self.users], window=window, budget=settings.train.batch_tokens, seed=settings.train.seed
        )

    def _unlabelled(self) -> int:
        places = ranges(*self.reading.split.training(self.reading.dataset))[0]
        return self.reading.without_label(self.reading.rows(places))

    def _cost(self, rows: Int64, starts: Int64, ends: Int64) -> Int64:
        """Targets of a window, or the events read for them where these weigh more."""
        low, high = self._bounds(rows, self.first[rows] + starts, self.first[rows] + ends)
        return np.asarray(np.maximum(ends - starts, (high - low) // EVENTS_PER_TARGET))

    def _bounds(self, rows: Int64, starts: Int64, ends: Int64) -> tuple[Int64, Int64]:
        """Members that the targets `starts:ends` of each row read together."""
        if not self.reading.split.rolling:
            return self.reading.bounds(self.starts[rows], self.ends[rows])
        low, _ = self.reading.bounds(self.starts[rows], self.places[starts])
        return low, self.reading.members_before(self.places[ends - 1])

    def _batch(self, rows: Int64, starts: Int64, ends: Int64) -> Requests:
        starts, ends = self.first[rows] + starts, self.first[rows] + ends
        targets, row_offsets = ranges(starts, ends)
        row = np.repeat(rows, ends - starts)
        places, users = self.places[targets], self.users[row]
        if self.reading.split.rolling:
            members, spans = self._rolling(rows, starts, ends, places)
        else:
            members, spans = self._standing(row, places)
        candidates = self._candidates(places, users)
        return self._writer.write(members, row_offsets, spans, users, places, candidates, self.log_rates)

    def _rolling(self, rows: Int64, starts: Int64, ends: Int64, places: Int64) -> tuple[tuple[Int64, Int64], Int64]:
        low, high = self._bounds(rows, starts, ends)
        many = ends - starts
        spans = np.stack(self.reading.bounds(np.repeat(self.starts[rows], many), places), axis=1)
        return ranges(low, high), spans - np.repeat(low, many)[:, None]

    def _standing(self, rows: Int64, places: Int64) -> tuple[tuple[Int64, Int64], Int64]:
        low, high, own = self.reading.bounds_around(self.starts[rows], self.ends[rows], places)
        members, _ = ranges(low, high)
        lengths = high - low
        members = members[members != np.repeat(own, lengths)]
        lengths = lengths - (own >= 0)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return (members, offsets), np.stack([np.zeros_like(lengths), lengths], axis=1)

    def _candidates(self, places: Int64, users: Int64) -> Candidates:
        asked = self.reading.rows(places)
        items = self.reading.dataset.item[asked].astype(np.int64)
        own = Candidates(items, self.rule.targets(self.reading.dataset, asked), np.arange(len(items) + 1))
        if self.negatives is None:
            return own
        rng = np.random.default_rng([self.seed, self.epoch, self.step, 1])  # the plan's has two numbers
        return own.with_negatives(*self.negatives.draw(users, self.many, rng))


class EvaluationRequests:
    """The requests of a held-back part, in blocks; iterate as often as wanted, they are the same every time.

    One request a case, with a row of its own. Candidates: the case's targets with their labels; where labels are
    sampled, also `negatives` items, uniform among those that are neither in the user's history nor targets of the case.
    """

    def __init__(
        self, reading: Reading, part: Part, settings: Settings, negatives: int, seed: int, most: int | None = None
    ) -> None:
        self.reading, self.rule, self.part, self.seed = reading, reading.rule, part, seed
        self.targets = settings.evaluate.targets
        self.negatives = negatives if self.rule.sampled else 0
        self.cases, self.without_label = reading.cases(part, self.targets, most)
        self.places = reading.places_of(self.cases.targets[self.cases.target_offsets[:-1]])
        self.writer = Writer(reading, settings.model.context)

    def __len__(self) -> int:
        """Requests in all blocks."""
        return len(self.cases)

    def __iter__(self) -> Iterator[Requests]:
        """Yield blocks of about `BLOCK` pairs of candidate and event; the users of requests ascend."""
        for number, start in enumerate(range(0, len(self), CHUNK)):
            picked = np.arange(start, min(start + CHUNK, len(self)))
            candidates, log_rates = self._candidates(picked, number)
            cases = self.cases
            low, high = self.reading.bounds(cases.history_start[picked], cases.history_end[picked])
            spent = np.cumsum((high - low + 1) * np.diff(candidates.offsets)) // BLOCK
            bounds = [0, *(np.flatnonzero(np.diff(spent)) + 1).tolist(), len(picked)]
            for first, last in itertools.pairwise(bounds):
                members = ranges(low[first:last], high[first:last])
                lengths = np.diff(members[1])
                written = self.writer.write(
                    members,
                    np.arange(len(lengths) + 1),
                    np.stack([np.zeros_like(lengths), lengths], axis=1),
                    cases.user[picked[first:last]].astype(np.int64),
                    self.places[picked[first:last]],
                    candidates.part(first, last),
                    log_rates,
                )
                if written.context is not None:  # several targets have no moment in common
                    alone = np.diff(cases.target_offsets)[picked[first:last]] == 1
                    written = replace(written, context=written.context * torch.from_numpy(alone)[:, None])
                yield written

    def _candidates(self, picked: Int64, number: int) -> tuple[Candidates, Float32 | None]:
        """Candidates of the cases at `picked`; negatives depend on seed and chunk, never on the window."""
        dataset, cases = self.reading.dataset, self.cases.take(picked)
        own = Candidates(
            dataset.item[cases.targets].astype(np.int64),
            self.rule.targets(dataset, cases.targets),
            cases.target_offsets,
        )
        if not self.negatives:
            return own, None
        events, offsets = cases.events(np.arange(len(cases)))
        owner = np.concatenate([np.repeat(np.arange(len(cases)), np.diff(offsets)), cases.case_of_target])
        left_out = dataset.item[np.concatenate([events, cases.targets])]
        sampler = Negatives(np.ones(dataset.n_items + 1, np.int64), len(cases), owner, left_out)
        drawn = sampler.draw(np.arange(len(cases)), self.negatives, np.random.default_rng([self.seed, number]))
        return own.with_negatives(*drawn), sampler.log_rates(self.negatives)


def evaluation_requests(
    dataset: Dataset,
    split: Split,
    part: Part,
    settings: Settings,
    *,
    negatives: int,
    seed: int = 0,
    most: int | None = None,
) -> EvaluationRequests:
    """Return the requests of a held-back part; `most` limits the cases, the same ones every time.

    Raises:
        ProtocolError: the split leaves no case, or no target with a label.
    """
    reading = Reading(dataset, split, settings)
    return EvaluationRequests(reading, part, settings, negatives, seed, most)
