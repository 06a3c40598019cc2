"""A log as a sparse matrix of users by items, with the ids of its rows and columns: what other libraries begin with."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from scipy import sparse

from regard.data.cases import Bool, Int64, ranges
from regard.data.events import EventLog
from regard.data.split import Split
from regard.data.sql import table
from regard.data.store import Dataset
from regard.errors import InputError, SettingsError, nearest

Values = Literal["count", "label"]


class UserItemMatrix(NamedTuple):
    """Row r of `matrix` (CSR, users by items) is the user `users[r]`, column c the item `items[c]`, as raw ids."""

    matrix: Any
    users: list[str]
    items: list[str]


def user_item_matrix(
    events: Dataset | EventLog, *, values: Values = "count", split: Split | None = None
) -> UserItemMatrix:
    """Return who did what as a SciPy matrix (users, items) in CSR form, with its user and item ids.

    Rows and columns are in the order of first appearance; items that are only in the item table of a dataset have a
    column too, which is empty.

    Args:
        events: a dataset, or a log that has been read.
        values: `count` (int64): how many events a user has of an item, so that duplicates add up. `label` (float32):
            the label of the pair's last event that has one, so that of duplicates the last one counts (by part, time
            and row; without times, the last row). Pairs without any label have no entry, and a label of 0 is an entry
            that holds 0.
        split: count only the training events of this split of the dataset; users and items stay the same.

    Raises:
        InputError: these are no events, labels are asked for where there are none, or a split of a log.
        SettingsError: `values` is neither of these.
    """
    if values not in get_args(Values):
        known = get_args(Values)
        raise SettingsError(f"values={values!r}: expected {' or '.join(known)}{nearest(str(values), known)}")
    if not isinstance(events, Dataset | EventLog):
        raise InputError(
            f"expected a Dataset or an EventLog; got {type(events).__name__}: read it with EventLog.read(...)"
        )
    if split is not None and not isinstance(events, Dataset):
        raise InputError("a split belongs to a dataset, and this is a log; build it with Dataset.build(log, None)")
    user, item, label = _of_dataset(events, split) if isinstance(events, Dataset) else _of_log(events)
    if values == "label":
        if label is None:
            raise InputError("values='label' needs labels, and these events have none; read them with a label column")
        kept = _last(user, item, ~np.isnan(label))
        user, item, data = user[kept], item[kept], label[kept]
    else:
        data = np.ones(len(user), np.int64)
    users, items = events.users.array.to_pylist(), events.items.array.to_pylist()
    matrix = sparse.csr_matrix((data, (user - 1, item - 1)), shape=(len(users), len(items)))
    matrix.sort_indices()
    return UserItemMatrix(matrix, users, items)


Columns = tuple[Int64, Int64, npt.NDArray[np.float32] | None]


def _of_dataset(dataset: Dataset, split: Split | None) -> Columns:
    """Users, items and labels (N,) of events, those of a user in their order."""
    starts, ends = (dataset.offsets[:-1], dataset.offsets[1:]) if split is None else split.training(dataset)
    rows, offsets = ranges(np.asarray(starts), np.asarray(ends))
    user = np.repeat(np.arange(len(starts)), np.diff(offsets))
    if split is not None and split.order is not None:
        rows = split.order[rows]
    label = None if dataset.label is None else np.asarray(dataset.label[rows])
    return user, dataset.item[rows].astype(np.int64), label


def _of_log(log: EventLog) -> Columns:
    """The same of a log, in the order that a dataset of it would have."""
    query = 'SELECT "user", item, coalesce(label, \'nan\'::FLOAT) AS label FROM events ORDER BY "user", part, time, row'
    found = table(log.connection, query, "the events")
    user, item, label = (found[name].to_numpy() for name in ("user", "item", "label"))
    return user.astype(np.int64), item.astype(np.int64), label if "label" in log.fields else None


def _last(user: Int64, item: Int64, there: Bool) -> Int64:
    """Rows of the last event of every pair of user and item, among those that are `there`."""
    rows = np.flatnonzero(there)[::-1]
    pairs = np.stack([user[rows], item[rows]])
    return np.asarray(rows[np.unique(pairs, axis=1, return_index=True)[1]])
