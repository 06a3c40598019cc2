"""The user-item matrix beside a dictionary that a loop fills: duplicates, missing labels, order, splits, mistakes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

import regard
from regard.data.events import EventLog
from regard.data.matrix import user_item_matrix
from regard.data.sources import Columns
from regard.data.split import make_split
from regard.data.store import Dataset
from regard.errors import InputError, SettingsError

EVENTS = [  # user, item, time, label
    ("bo", "tea", 5, 4.0),
    ("al", "ale", 1, 0.0),
    ("bo", "tea", 9, 2.0),
    ("bo", "rum", 2, None),
    ("al", "tea", 7, 3.0),
    ("bo", "tea", 7, None),
    ("al", "rum", 3, 1.0),
    ("al", "rum", 3, 5.0),
]


def log(events: list[tuple[str, str, int, float | None]] = EVENTS, labels: bool = True) -> EventLog:
    columns = dict(zip(("user", "item", "time", "label"), map(list, zip(*events, strict=True)), strict=True))
    named = Columns("user", "item", "time", label="label") if labels else Columns("user", "item", "time")
    return EventLog.read(pa.table(columns), named, time_kind="order")


def entries(found: Any) -> dict[tuple[str, str], float]:
    """What is stored, by raw ids; stored zeros included."""
    matrix, users, items = found
    assert sparse.issparse(matrix)
    assert matrix.format == "csr"
    assert matrix.shape == (len(users), len(items))
    assert matrix.has_canonical_format
    rows = np.repeat(np.arange(len(users)), np.diff(matrix.indptr))
    return {(users[u], items[i]): v for u, i, v in zip(rows, matrix.indices, matrix.data, strict=True)}


@pytest.mark.parametrize("form", ["log", "dataset"])
def test_counts_add_duplicates_up(form: str) -> None:
    events = log() if form == "log" else Dataset.build(log(), None)
    found = user_item_matrix(events)
    assert entries(found) == {
        ("bo", "tea"): 3, ("bo", "rum"): 1, ("al", "ale"): 1, ("al", "tea"): 1, ("al", "rum"): 2
    }  # fmt: skip
    assert (found.users, found.items) == (["bo", "al"], ["tea", "ale", "rum"])
    assert found.matrix.dtype == np.int64


@pytest.mark.parametrize("form", ["log", "dataset"])
def test_of_labels_the_last_one_counts_and_missing_ones_are_none(form: str) -> None:
    events = log() if form == "log" else Dataset.build(log(), None)
    found = user_item_matrix(events, values="label")
    assert entries(found) == {("bo", "tea"): 2.0, ("al", "ale"): 0.0, ("al", "tea"): 3.0, ("al", "rum"): 5.0}
    assert found.matrix.dtype == np.float32


def test_many_events_beside_a_loop() -> None:
    rng = np.random.default_rng(0)
    rows = [
        (f"u{rng.integers(23)}", f"i{rng.integers(17)}", int(rng.integers(50)), float(rng.integers(5)))
        for _ in range(997)
    ]
    rows = [(u, i, t, None if y == 0 else y) for u, i, t, y in rows]
    counts: dict[tuple[str, str], float] = {}
    latest: dict[tuple[str, str], tuple[int, float]] = {}
    for user, item, time, label in rows:
        counts[user, item] = counts.get((user, item), 0) + 1
        if label is not None and time >= latest.get((user, item), (-1, math.nan))[0]:
            latest[user, item] = (time, label)
    for events in (log(rows), Dataset.build(log(rows), None)):
        assert entries(user_item_matrix(events)) == counts
        assert entries(user_item_matrix(events, values="label")) == {key: label for key, (_, label) in latest.items()}


def test_items_that_nobody_has_touched_have_an_empty_column() -> None:
    dataset = Dataset.build(log(), None, pa.table({"id": ["gin", "tea"], "title": ["Gin", "Tea"]}))
    found = user_item_matrix(dataset)
    assert found.items[-1] == "gin"
    assert not found.matrix[:, -1].nnz


def test_a_split_leaves_held_back_events_out() -> None:
    dataset = Dataset.build(log(), None)
    split = make_split(dataset, "leave-one-out")
    found = user_item_matrix(dataset, split=split)
    assert entries(found) == {("bo", "rum"): 1, ("bo", "tea"): 1, ("al", "ale"): 1, ("al", "rum"): 1}
    assert found.matrix.shape == (2, 3)


def test_mistakes_have_one_clear_line() -> None:
    with pytest.raises(SettingsError, match="did you mean 'label'"):
        user_item_matrix(log(), values="labels")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="needs labels"):
        user_item_matrix(log(labels=False), values="label")
    with pytest.raises(InputError, match=r"EventLog.read"):
        user_item_matrix({"user": ["a"]})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a split belongs to a dataset"):
        user_item_matrix(log(), split=make_split(Dataset.build(log(), None), "leave-one-out"))


def test_it_is_public() -> None:
    assert regard.user_item_matrix is user_item_matrix
