"""Which events of a split are asked about, and which of them a request may read: positions only, never copies.

Letters: N positions of a split (the order of its events), R requests, M targets.
"""

from __future__ import annotations

import numpy as np

from regard.config import Settings
from regard.data.cases import Bool, Cases, Int64, ranges
from regard.data.labels import resolve_history, resolve_labels
from regard.data.negatives import Negatives
from regard.data.split import Part, Split
from regard.data.store import Dataset
from regard.errors import ProtocolError


class Reading:
    """A dataset and its split as a ranker sees them: labels by `data.labels`, histories by `data.history`.

    Members are the events that may be part of a history at all, numbered in the order of the split.
    """

    def __init__(self, dataset: Dataset, split: Split, settings: Settings) -> None:
        self.dataset, self.split = dataset, split
        self.rule = resolve_labels(dataset, settings.data.labels)
        self.history = resolve_history(self.rule, settings.data.history)
        self.window = settings.model.window
        self._members: Int64 | None = None  # their positions; None = every position is a member
        self._before: Int64 | None = None  # (N + 1,) members in front of a position
        if self.history == "positive":
            allowed = self._in_order(self.rule.positive(dataset))
            self._members = np.flatnonzero(allowed)
            self._before = np.concatenate([[0], np.cumsum(allowed)])

    def rows(self, positions: Int64) -> Int64:
        """Event rows of the dataset at positions of the split."""
        return positions if self.split.order is None else self.split.order[positions]

    def positions(self, members: Int64) -> Int64:
        """Positions of members."""
        return members if self._members is None else self._members[members]

    def members_before(self, positions: Int64) -> Int64:
        """How many members stand in front of positions, which may be N."""
        return positions if self._before is None else self._before[positions]

    def bounds(self, first: Int64, end: Int64) -> tuple[Int64, Int64]:
        """Return the newest `window` members of the positions `first:end` (R,), as ranges of members."""
        low, high = self.members_before(first), self.members_before(end)
        return np.maximum(low, high - self.window), high

    def bounds_around(self, first: Int64, end: Int64, own: Int64) -> tuple[Int64, Int64, Int64]:
        """Return the newest `window` members of `first:end` other than the position `own` (R,).

        As ranges of members that hold one more where `own` is among them; the last array (R,) is that member, or -1.
        """
        low, high = self.members_before(first), self.members_before(end)
        me = self.members_before(own)
        is_member = self.members_before(own + 1) > me
        inside = is_member & (me >= high - self.window)
        return np.maximum(low, high - self.window - inside), high, np.where(inside, me, -1)

    def training_targets(self) -> tuple[Int64, Int64]:
        """Return the training positions that are asked about, (M,), and how many there are of each user.

        Raises:
            ProtocolError: there are none.
        """
        starts, ends = self.split.training(self.dataset)
        places, offsets = ranges(starts, ends)
        asked = self._wanted()[self.rows(places)]
        if not asked.any():
            raise ProtocolError(
                f"split {self.split.rule} leaves no training targets: none of its {len(places):,} training events has "
                f"what data.labels={self.rule} and data.target_behaviours ask for"
            )
        return places[asked], np.diff(np.concatenate([[0], np.cumsum(asked)])[offsets])

    def without_label(self, rows: Int64) -> int:
        """Count the event rows that are no targets as their label is missing."""
        return int((~self.rule.usable(self.dataset)[rows]).sum())

    def training_negatives(self, sampling: str) -> Negatives:
        """Return the sampler that leaves out a user's training items; owners are user indexes."""
        starts, ends = self.split.training(self.dataset)
        places, _ = ranges(starts, ends)
        counts = self.split.training_item_counts(self.dataset)
        weights = counts if sampling == "popularity" else np.ones_like(counts)
        owner = np.repeat(np.arange(len(starts)), ends - starts)
        return Negatives(weights, len(starts), owner, self.dataset.item[self.rows(places)])

    def cases(self, part: Part, targets: str, most: int | None = None) -> tuple[Cases, int]:
        """Return the cases of a held-back part whose targets can be asked about, and how many targets have no label.

        `most`: only so many of the cases, the same ones every time.
        """
        assert targets in ("next", "last", "set"), targets
        cases = self.split.cases(self.dataset, part, targets)  # type: ignore[arg-type]
        if most is not None and len(cases) > most:
            cases = cases.take(np.sort(np.random.default_rng(0).choice(len(cases), most, replace=False)))
        kept = self.rule.usable(self.dataset)[cases.targets]
        if not kept.any():
            raise ProtocolError(f"none of the {len(kept):,} {part} targets has a label (data.labels={self.rule})")
        upto = np.concatenate([[0], np.cumsum(kept)])[cases.target_offsets]
        some = np.diff(upto) > 0
        offsets = np.concatenate([[0], upto[1:][some]])
        start, end = cases.history_start[some], cases.history_end[some]
        asked = Cases(cases.user[some], start, end, offsets, cases.targets[kept], cases.order)
        return asked, int((~kept).sum())

    def places_of(self, rows: Int64) -> Int64:
        """Positions (R,) of event rows."""
        if self.split.order is None:
            return rows
        place = np.empty(len(self.split.order), np.int64)
        place[self.split.order] = np.arange(len(place))
        return place[rows]

    def _wanted(self) -> Bool:
        """Mark the event rows (N,) that may be targets."""
        usable = self.rule.usable(self.dataset)
        allowed = self.split.target_events(self.dataset)
        return usable if allowed is None else usable & allowed

    def _in_order(self, rows: Bool) -> Bool:
        return rows if self.split.order is None else rows[self.split.order]
