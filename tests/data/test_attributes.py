"""Item attributes as codes, aligned to the vocabulary."""

from __future__ import annotations

import pyarrow as pa
import pytest

from regard.data.attributes import attribute_codes
from regard.data.events import EventLog
from regard.data.store import Dataset
from regard.errors import SettingsError


def dataset(items: pa.Table | None) -> Dataset:
    log = EventLog.read(pa.table({"user": ["a", "a", "b"], "item": ["q", "p", "q"], "time": [1, 2, 3]}))
    return Dataset.build(log, None, items)


def test_codes_follow_the_items_whatever_the_order_of_the_table() -> None:
    table = pa.table({"id": ["new", "p", "q"], "kind": ["x", "y", "x"], "shade": [None, "light", None]})
    built = dataset(table)
    found = attribute_codes(built, ["kind", "shade"])
    kind, shade = found["kind"], found["shade"]
    at = {name: int(built.items.index([name])[0]) for name in ("new", "p", "q")}
    assert kind[0] == shade[0] == 0
    assert kind[at["new"]] == kind[at["q"]] != kind[at["p"]]
    assert kind[at["new"]] > 0
    assert shade[at["q"]] == 0
    assert shade[at["p"]] == 1


def test_an_attribute_that_is_not_there_is_told() -> None:
    with pytest.raises(SettingsError, match="did you mean 'kind'"):
        attribute_codes(dataset(pa.table({"id": ["p"], "kind": ["x"]})), ["knd"])
    with pytest.raises(SettingsError, match="no item table"):
        attribute_codes(dataset(None), ["kind"])
