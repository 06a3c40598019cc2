"""Splits: cut points per user, never copies of events. A split says what trains, and what each case may see.

`make_split` applies a rule of `cuts.py`; `Split.cases` turns a held-back part into histories and targets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from regard.data.cases import Bool, Cases, Int64, ranges
from regard.data.cuts import FORMS, Note, View, check_time, counts, parsed
from regard.data.store import Dataset
from regard.errors import ProtocolError, SettingsError, nearest

__all__ = ["Cases", "Part", "Split", "Targets", "make_split", "resolve_seen"]

Part = Literal["validation", "test"]
Targets = Literal["next", "last", "set"]
PARTS: tuple[Part, ...] = ("validation", "test")
AUTO = {"timestamp": "time:0.9", "order": "leave-one-out", "none": "random:0.8,0.1,0.1"}
REPEATS = 0.01  # a larger share of repeats in training means that people come back to items


@dataclass(frozen=True)
class Split:
    """Cut points: user `u` trains on positions `start:train_end`, then comes validation, then test up to `end`.

    The four arrays are (n_users + 1,), by user index. Positions are rows of the event arrays, or go through `order`
    (N,) where that is given. Where `rolling` is false, histories stand still at `train_end`. `kept` (n_users + 1,) are
    the users whose events train, None = all; what is held back, and the histories of its cases, do not depend on it.
    """

    rule: str
    order: Int64 | None
    start: Int64
    train_end: Int64
    validation_end: Int64
    end: Int64
    rolling: bool = True
    notes: dict[str, Note] = field(default_factory=dict)
    seed: int = 0
    target_behaviours: tuple[str, ...] = ()
    kept: Bool | None = field(default=None, repr=False)

    def keeping(self, share: float, seed: int = 0) -> Split:
        """The same split with the training events of a share of its users; a larger share has the smaller one's too."""
        if share >= 1:
            return self
        training = np.flatnonzero(self.train_end > self.start)
        many = max(1, round(share * len(training)))
        kept = np.zeros(len(self.start), bool)
        kept[np.random.default_rng(seed).permutation(training)[:many]] = True
        notes = {**self.notes, "users_whose_events_train": int(kept.sum())}
        return replace(self, kept=kept, notes=notes)

    @property
    def fingerprint(self) -> str:
        """A hash of where the cuts are: two splits of a dataset with the same one hold back the same events."""
        digest = hashlib.blake2b(digest_size=16)
        for cuts in (self.train_end, self.validation_end, *([] if self.order is None else [self.order])):
            digest.update(np.ascontiguousarray(cuts).data)
        return digest.hexdigest()

    def training(self, dataset: Dataset) -> tuple[Int64, Int64]:  # noqa: ARG002 - asked like all else here
        """Return starts and ends (n_users + 1,) of the training positions of each user."""
        return self.start, self.train_end if self.kept is None else np.where(self.kept, self.train_end, self.start)

    def training_rows(self, dataset: Dataset) -> Int64:
        """Return the rows of all training events."""
        return self._rows(ranges(*self.training(dataset))[0])

    def target_rows(self, dataset: Dataset, part: Part) -> Int64:
        """Return the rows of all events of a held-back part that may be targets."""
        return self._rows(np.flatnonzero(self._targets(dataset, part)))

    def training_item_counts(self, dataset: Dataset) -> Int64:
        """Return how many training events each item has, (n_items + 1,)."""
        return np.bincount(dataset.item[self.training_rows(dataset)], minlength=dataset.n_items + 1)

    def target_item_counts(self, dataset: Dataset) -> Int64:
        """Return how many training events of each item may be targets, (n_items + 1,)."""
        events, wanted = self.training_rows(dataset), self.target_events(dataset)
        return np.bincount(
            dataset.item[events if wanted is None else events[wanted[events]]], minlength=dataset.n_items + 1
        )

    def cases(self, dataset: Dataset, part: Part, targets: Targets = "next") -> Cases:
        """Return the cases of a held-back part, users ascending, oldest first.

        `next`: every target event is a case and its history rolls up to just before it; `last`: only the last of each
        user; `set`: one case a user, its history ends at the cut, and the distinct items after it are its targets.

        Raises:
            ProtocolError: there is no such case, or `last` is asked of a log without order.
        """
        assert part in PARTS, part
        assert targets in ("next", "last", "set"), targets
        if targets == "last":
            check_time("--targets last", "order", dataset.time_kind, instead="--targets next or set")
        first, last = self.held_back(part)
        wanted = self._targets(dataset, part)
        position = np.flatnonzero(wanted)
        if not len(position):
            raise ProtocolError(self._nothing(part, int((last - first).sum())))
        user = np.repeat(np.arange(len(self.start), dtype=np.int32), counts(wanted, self.start, self.end))
        if targets == "last":
            newest = np.append(user[1:] != user[:-1], True)
            position, user = position[newest], user[newest]
        events = self._rows(position)
        size = np.ones(len(user), np.int64)
        history_end = position
        if targets == "set":
            pair = user.astype(np.int64) * (dataset.n_items + 1) + dataset.item[events]
            distinct = np.sort(np.unique(pair, return_index=True)[1])
            events = events[distinct]
            user, size = np.unique(user[distinct], return_counts=True)
            history_end = first[user]
        if not self.rolling:
            history_end = self.train_end[user]
        offsets = np.concatenate([[0], np.cumsum(size)])
        return Cases(user, self.start[user], history_end, offsets, events, self.order)

    def target_events(self, dataset: Dataset) -> Bool | None:
        """Say of every event row (N,) whether its behaviour may be a target; None = all may."""
        if not self.target_behaviours:
            return None
        assert dataset.behaviour is not None
        codes = [dataset.behaviours.index(name) + 1 for name in self.target_behaviours]
        return np.isin(dataset.behaviour, codes)

    def held_back(self, part: Part) -> tuple[Int64, Int64]:
        """Return starts and ends (n_users + 1,) of the positions of each user in `part`."""
        return (self.train_end, self.validation_end) if part == "validation" else (self.validation_end, self.end)

    def _rows(self, positions: Int64) -> Int64:
        return positions if self.order is None else self.order[positions]

    def _targets(self, dataset: Dataset, part: Part) -> Bool:
        """Mark the positions (N,) that are targets of `part`."""
        starts, ends = self.held_back(part)
        total = dataset.n_events
        step = np.bincount(starts, minlength=total + 1) - np.bincount(ends, minlength=total + 1)
        inside: Bool = np.cumsum(step[:total]) > 0
        allowed = self.target_events(dataset)
        if allowed is not None:
            inside &= allowed if self.order is None else allowed[self.order]
        return inside

    def _nothing(self, part: Part, events: int) -> str:
        if self.rule == "none":
            reason = "it holds nothing back"
        elif events:
            reason = f"none of its {events:,} {part} events is a {' or '.join(self.target_behaviours)}"
        elif self.rule == "leave-one-out":
            reason = "no user has three target events"
        else:
            reason = "no event falls there"
        return f"split {self.rule} leaves no {part} cases: {reason}; train again with another --split ({FORMS})"


def make_split(dataset: Dataset, rule: str, seed: int = 0, target_behaviours: Sequence[str] = ()) -> Split:
    """Split a dataset by `rule`; `auto` = the given parts, else what the log's time allows.

    `seed` decides `random`, `users` and the validation users of `parts`. `target_behaviours` (empty = all) decides
    where leave-one-out cuts, and which events become targets of cases.

    Raises:
        SettingsError: the rule or a behaviour is not known.
        ProtocolError: the log cannot be split so, or nothing is left to train on.
    """
    if rule.strip() == "auto":
        rule = AUTO[dataset.time_kind] if dataset.part is None else "parts"
    way, numbers = parsed(rule)
    rule = rule.strip()
    check_time(f"split {rule}", way.needs, dataset.time_kind)
    if not dataset.n_events:
        raise ProtocolError(f"split {rule}: the dataset holds no events")
    behaviours = _checked(dataset, target_behaviours)
    start, end = np.asarray(dataset.offsets[:-1]), np.asarray(dataset.offsets[1:])
    whole = Split(rule, None, start, end, end, end, seed=seed, target_behaviours=behaviours)
    base = None if way.form == "parts" else _chronological(dataset, start, end)
    cuts = way.cut(_view(whole, dataset, base, numbers))
    order = base if cuts.order is None else cuts.order if base is None else base[cuts.order]
    train_end, validation_end = cuts.train_end, cuts.validation_end
    split = replace(whole, order=order, train_end=train_end, validation_end=validation_end, rolling=cuts.rolling)
    if not (split.train_end > split.start).any():
        raise ProtocolError(f"split {rule} leaves nothing to train on; choose another ({FORMS})")
    return replace(split, notes={**_counted(split, dataset), **cuts.notes})


def resolve_seen(dataset: Dataset, split: Split, seen: str) -> tuple[Literal["filter", "keep"], float]:
    """Decide whether items of a history are candidates, and return the share of training events behind it.

    The share is of training events that repeat an earlier item of the same user; `auto` keeps seen items above 1 %.
    """
    if seen not in ("auto", "filter", "keep"):
        raise SettingsError(f"evaluate.seen: expected auto, filter or keep; got {seen!r}")
    length = split.train_end - split.start  # of all users, also of those whose events are not kept for training
    events = split._rows(ranges(split.start, split.train_end)[0])
    pair = np.repeat(np.arange(len(length)) * (dataset.n_items + 1), length) + dataset.item[events]
    pair.sort()
    share = float(np.count_nonzero(pair[1:] == pair[:-1]) / max(len(pair), 1))
    if seen == "auto":
        return ("keep" if share > REPEATS else "filter"), share
    return ("keep" if seen == "keep" else "filter"), share


def _chronological(dataset: Dataset, start: Int64, end: Int64) -> Int64 | None:
    """Return the time order of each user's events where the stored one (part before time) is another."""
    if dataset.part is None or dataset.time is None:
        return None
    back = dataset.time[1:] < dataset.time[:-1]
    back[start[(start > 0) & (start < dataset.n_events)] - 1] = False  # from one user to the next
    if not back.any():
        return None
    user = np.repeat(np.arange(len(start)), end - start)
    return np.lexsort((dataset.time, user))


def _view(whole: Split, dataset: Dataset, order: Int64 | None, numbers: tuple[float, ...]) -> View:
    target, time = whole.target_events(dataset), dataset.time
    if order is not None:
        target, time = (None if values is None else values[order] for values in (target, time))
    chance = np.random.default_rng(whole.seed)
    return View(whole.start, whole.end, time, target, dataset.part, dataset.time_kind, numbers, chance)


def _checked(dataset: Dataset, target_behaviours: Sequence[str]) -> tuple[str, ...]:
    known = dataset.behaviours
    for name in target_behaviours:
        if name not in known:
            there = f"this dataset has {', '.join(known)}" if known else "this dataset has no behaviour column"
            raise SettingsError(f"data.target_behaviours: {name!r} is not known{nearest(name, known)}; {there}")
    return tuple(target_behaviours)


def _counted(split: Split, dataset: Dataset) -> dict[str, Note]:
    """Count what a reader of the numbers should know about the split."""
    some = split.end > split.start
    trained = split.train_end > split.start
    notes: dict[str, Note] = {
        "users": int(some.sum()),
        "users_only_training": int((some & (split.train_end == split.end)).sum()),
        "training_events": int((split.train_end - split.start).sum()),
    }
    seen = split.training_item_counts(dataset)
    for part in PARTS:
        starts, ends = split.held_back(part)
        wanted = split._targets(dataset, part)
        mine = counts(wanted, split.start, split.end) > 0
        target_items = dataset.item[split._rows(np.flatnonzero(wanted))]
        notes[f"{part}_events"] = int((ends - starts).sum())
        notes[f"{part}_targets"] = len(target_items)
        notes[f"{part}_targets_never_trained"] = int((seen[target_items] == 0).sum())
        notes[f"{part}_users"] = int(mine.sum())
        notes[f"{part}_users_never_trained"] = int((mine & ~trained).sum())
    return notes
