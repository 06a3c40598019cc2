"""Item attributes by the type of their column, aligned to the items by id and by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from regard.data.attributes import Attribute, item_attributes
from regard.data.events import EventLog
from regard.data.items import read_items
from regard.data.shape import Form, Shape
from regard.data.store import Dataset
from regard.errors import SettingsError

IDS = ["new", "p", "q", "r"]


def dataset(items: pa.Table | None) -> Dataset:
    log = EventLog.read(pa.table({"user": ["a", "a", "b"], "item": ["q", "p", "q"], "time": [1, 2, 3]}))
    return Dataset.build(log, None, items)


def attribute(values: object, ids: list[str] = IDS) -> tuple[Attribute, list[int]]:
    """The attribute of a column of an item table, and at which rows the ids are."""
    built = dataset(pa.table({"id": ids, "it": values}))
    return item_attributes(built, ["it"])["it"], built.items.index(ids).tolist()


def test_categories_follow_the_items_and_zero_is_not_given() -> None:
    found, rows = attribute(["x", "y", "x", None])
    assert (found.kind, found.size, found.values.dtype, found.values[0]) == ("category", 2, np.int64, 0)
    new, p, q, r = found.values[rows]
    assert new == q != p
    assert {new, p, r} == {0, 1, 2}
    assert r == 0


@pytest.mark.parametrize("values", [[3, 1, 3, None], [True, False, True, None], pd.Categorical(["u", "v", "u", None])])
def test_whole_numbers_flags_and_pandas_categories_are_categories(values: object) -> None:
    column = pa.array(values) if isinstance(values, list) else pa.Array.from_pandas(values)
    found, rows = attribute(column)
    assert (found.kind, found.size) == ("category", 2)
    assert found.values[rows[0]] == found.values[rows[2]] != found.values[rows[1]]
    assert found.values[rows[3]] == 0


numbers = st.floats(-1e6, 1e6, width=32) | st.none()


@settings(max_examples=12)  # each builds datasets
@given(st.lists(numbers, min_size=4, max_size=4), st.sampled_from([pa.float32(), pa.float64()]))
def test_numbers_are_standardised_on_the_catalogue(values: list[float | None], kind: pa.DataType) -> None:
    found, rows = attribute(pa.array(values, kind))
    assert (found.kind, found.size, found.values.shape, found.values.dtype) == ("number", 1, (5, 1), np.float32)
    assert np.isnan(found.values[0, 0])
    plain = np.array([np.nan if value is None else value for value in values])[:, None]
    assert (np.isnan(found.values[rows]) == np.isnan(plain)).all()
    if (~np.isnan(plain)).any() and np.nanstd(plain) > 1e-9 * np.nanmax(np.abs(plain)):
        np.testing.assert_allclose(found.values[rows], StandardScaler().fit_transform(plain), rtol=1e-4, atol=1e-4)
    else:
        assert np.nan_to_num(found.values).max() <= 1e-6


def test_numbers_that_are_none_or_all_alike() -> None:
    found, rows = attribute([0.1, 0.1, 0.1, np.inf])
    np.testing.assert_allclose(found.values[rows], [[0], [0], [0], [np.nan]], atol=1e-6)
    nothing, _ = attribute(pa.array([None] * 4, pa.float64()))
    assert np.isnan(nothing.values).all()


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 3)])
def test_vectors_keep_their_angles(kind: pa.DataType) -> None:
    given = [[3.0, 0.0, 4.0], None, [0.0, 1.0, 0.0], [1.0, None, 1.0]]
    found, rows = attribute(pa.array(given, kind))
    assert (found.kind, found.size, found.values.shape, found.values.dtype) == ("vector", 3, (5, 3), np.float32)
    whole = found.values[[rows[0], rows[2]]]
    np.testing.assert_allclose(whole, np.array([given[0], given[2]]) / (26 / 6) ** 0.5, rtol=1e-6)
    assert np.isnan(found.values[[0, rows[1], rows[3]]]).all()


def test_empty_lists_are_not_given() -> None:
    found, rows = attribute([[], [1, 2], [], None])
    assert found.size == 2
    assert np.isnan(found.values[[rows[0], rows[2], rows[3]]]).all()
    assert attribute(pa.array([None] * 4, pa.list_(pa.float32())))[0].size == 0


def test_what_cannot_be_read_is_told() -> None:
    with pytest.raises(SettingsError, match="'it' holds lists of 1 to 2 numbers; expected vectors of one length"):
        attribute([[1.0], [1.0, 2.0], None, None])
    with pytest.raises(SettingsError, match="'it' holds lists of string"):
        attribute([["a"], ["b"], None, None])
    with pytest.raises(SettingsError, match="'it' holds struct"):
        attribute([{"a": 1}] * 4)
    known = dataset(pa.table({"id": ["p"], "kind": ["x"]}))
    with pytest.raises(SettingsError, match="did you mean 'kind'"):
        item_attributes(known, ["knd"])
    with pytest.raises(SettingsError, match="no item table"):
        item_attributes(dataset(None), ["kind"])


@settings(max_examples=12)  # each builds datasets
@given(st.permutations(range(4)), st.permutations(["shade", "price", "look"]))
def test_neither_the_order_of_items_nor_that_of_columns_matters(order: list[int], names: list[str]) -> None:
    columns = {"shade": ["a", None, "b", "a"], "price": [1.5, 2.5, None, 9.0], "look": [[1.0], [2.0], [3.0], None]}
    plain = dataset(pa.table({"id": IDS, **columns}))
    table = pa.table({"id": IDS, **{name: columns[name] for name in names}}).take(pa.array(order))
    moved = dataset(table)
    moved.item_table = table  # in the file's order, not the catalogue's: ids alone can find their rows
    expected, found = item_attributes(plain, sorted(names)), item_attributes(moved, names)
    assert list(found) == names
    for name in names:
        one, other = expected[name], found[name]
        assert (one.kind, one.size) == (other.kind, other.size)
        ours, theirs = one.values[plain.items.index(IDS)], other.values[moved.items.index(IDS)]
        if one.kind == "category":  # which code a value has may depend on the order of the catalogue
            assert ((ours[:, None] == ours) == (theirs[:, None] == theirs)).all()
            assert ((ours == 0) == (theirs == 0)).all()
        else:
            np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_text_files_are_read_by_what_their_values_look_like(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"id": "p", "year": 1999, "price": 9.5, "size": "1.5 m", "look": [1, 0.5], "tags": ["a", "b"]},
        {"id": "q", "year": 2001, "price": 10, "size": None, "look": None, "tags": None},
    ]
    file = tmp_path / f"items.{suffix}"
    if suffix == "csv":
        cells = [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]
        pd.DataFrame(cells).to_csv(file, index=False)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = list(rows[0])[1:]
    found = item_attributes(dataset(read_items(file, attributes=names)), names)
    kinds = {name: (one.kind, one.size) for name, one in found.items()}
    assert kinds == {
        "year": ("category", 2),
        "price": ("number", 1),
        "size": ("category", 1),
        "look": ("vector", 2),
        "tags": ("category", 1),
    }


def test_a_shape_comes_back_from_json() -> None:
    built = dataset(pa.table({"id": ["p"], "kind": ["x"], "price": [1.5], "look": [[1.0, 2.0]]}))
    shape = Shape.of(built, ["price", "kind", "look"])
    assert shape.attributes == {"price": Form("number", 1), "kind": Form("category", 1), "look": Form("vector", 2)}
    assert (shape.items, shape.users) == (2, 2)
    assert Shape(**json.loads(json.dumps(shape.as_dict()))) == shape
    assert Shape(3, 0, {"kind": 4}) == Shape(3, 0, {"kind": Form("category", 4)})
