"""Marks of events: what a run has learned from, small enough to keep, and found again in any other log.

A mark is a hash of raw user id, raw item id and time, so it means the same in every dataset; equal events of one user
are numbered. Where the log has no timestamps, places in it may be numbered anew when it grows: there the mark is of the
n-th time that a user meets an item. Of many marks the smallest are kept: a sample that is the same for all logs.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from regard.data.cases import Bool, Int64
from regard.data.store import Dataset
from regard.data.vocabulary import Vocabulary

Marks = npt.NDArray[np.uint64]
MOST = 1 << 20  # marks that are kept, of eight bytes each
_ALL = np.uint64(np.iinfo(np.uint64).max)


def marks_of(dataset: Dataset, rows: Int64) -> Marks:
    """Return the marks of events, sorted; of more than `MOST` the smallest."""
    groups = _groups(dataset)
    limit = _ALL if len(rows) <= MOST else np.partition(groups[rows], MOST - 1)[MOST - 1]
    places, marks = _numbered(groups, limit)
    wanted = np.zeros(len(groups), bool)
    wanted[rows] = True
    return np.sort(marks[wanted[places]])


def joined(marks: Marks, others: Marks) -> Marks:
    """Return the marks that are in either, as far as both have all that there are."""
    both = np.union1d(marks, others)
    return both[both <= min(_limit(marks), _limit(others))][:MOST]


def found(marks: Marks, dataset: Dataset) -> tuple[Bool, Bool]:
    """Say of every event row (N,) whether it is in the sample that `marks` are of, and whether it is among them."""
    groups = _groups(dataset)
    limit = _limit(marks)
    places, own = _numbered(groups, limit)
    met = np.zeros(len(groups), bool)
    met[places] = np.isin(own, marks)
    return groups <= limit, met


def _limit(marks: Marks) -> np.uint64:
    """What is beyond it was left out."""
    return _ALL if len(marks) < MOST else marks[-1]


def _groups(dataset: Dataset) -> Marks:
    """Hash user, item and time of every event (N,)."""
    users, items = _hashed(dataset.users), _hashed(dataset.items)
    pairs = _mixed(np.repeat(_mixed(users), np.diff(dataset.offsets)) + items[dataset.item])
    if dataset.time_kind != "timestamp":
        return pairs
    assert dataset.time is not None
    return _mixed(pairs + dataset.time.astype(np.uint64))


def _numbered(groups: Marks, limit: np.uint64) -> tuple[Int64, Marks]:
    """Return rows whose group is at most `limit`, and their marks: the group plus how many of it came before."""
    places = np.flatnonzero(groups <= limit)
    places = places[np.argsort(groups[places], kind="stable")]
    marks = groups[places]
    first = np.flatnonzero(np.diff(marks, prepend=marks[:1] + np.uint64(1)))
    before = np.arange(len(marks)) - np.repeat(first, np.diff(first, append=len(marks)))
    return places, marks + before.astype(np.uint64)


def _hashed(ids: Vocabulary) -> Marks:
    """64 bits of BLAKE2b (RFC 7693) of each raw id, (n + 1,); 0 for the unknown one."""
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in ids.array.to_pylist())
    return np.concatenate([np.zeros(1, np.uint64), np.frombuffer(digests, "<u8")])


def _mixed(values: Marks) -> Marks:
    """Spread bits, one to one (SplitMix64: Steele, Lea and Flood 2014, doi 10.1145/2660193.2660195)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
