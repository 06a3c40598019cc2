"""The import doctor: plain numbers, JSON-able, counted by hand."""

from __future__ import annotations

import json

import pyarrow as pa

from regard.data.describe import describe
from regard.data.events import EventLog
from regard.data.sources import Columns, Source
from regard.data.store import Dataset


def test_a_small_log_counted_by_hand(tmp_path):
    (tmp_path / "train.csv").write_text(
        "user,item,time,what,stars,device\n"
        "a,x,2024-01-01T00:00:00Z,view,1,phone\n"
        "a,x,2024-01-01T00:00:00Z,view,,phone\n"  # the same again, but for its label
        "a,y,2024-01-01T00:00:00Z,,3,web\n"
        "b,x,2024-02-01T00:00:00.25Z,buy,5,\n"
        "b,,2024-02-01T00:00:00Z,buy,5,\n"
    )
    (tmp_path / "test.csv").write_text("user,item,time,what,stars,device\nb,x,2024-03-01,buy,5,web\n")
    columns = Columns("user", "item", "time", "what", "stars", ("device",))
    sources = [Source(tmp_path / f"{part}.csv", columns, part=part) for part in ("train", "test")]
    items = pa.table({"id": ["y", "z"], "title": ["Why", None]})
    dataset = Dataset.build(EventLog.read(sources), tmp_path / "shop", items)
    found = json.loads(json.dumps(describe(dataset)))
    assert found["counts"] == {"users": 2, "items": 3, "events": 5}
    assert found["time"] == {
        "kind": "timestamp",
        "unit": "iso",
        "first": "2024-01-01T00:00:00Z",
        "last": "2024-03-01T00:00:00Z",
        "ties": 3,
    }
    assert found["events_per_user"] == {
        "min": 2, "q10": 2, "q25": 2, "median": 2, "q75": 3, "q90": 3, "q99": 3, "max": 3, "mean": 2.5
    }  # fmt: skip
    assert (found["events_per_item"]["min"], found["events_per_item"]["max"]) == (1, 4)
    assert found["repeats"] == {"share": 2 / 5, "exact": 1}
    assert found["behaviours"] == {"view": 2, "buy": 2, "(not given)": 1}
    assert found["context"] == {"device": {"values": 2, "not_given": 1, "top": {"phone": 2, "web": 2}}}
    assert found["parts"] == {"train": 4, "test": 1}
    assert found["label"] == {"not_given": 1, "min": 1.0, "mean": 3.5, "max": 5.0}
    assert found["items"]["columns"] == {"title": 1}
    assert (found["items"]["described"], found["items"]["only_in_table"], found["items"]["only_in_events"]) == (2, 1, 1)
    assert found["import"]["refused"] == {
        "missing item": {"count": 1, "first_rows": [f"{tmp_path / 'train.csv'}:6"]},
    }
    assert (found["import"]["rows_read"], found["import"]["rows_kept"]) == (6, 5)
    assert describe(Dataset.open(tmp_path / "shop")) == found


def test_a_log_of_nothing_but_ids():
    found = describe(Dataset.build(EventLog.read(pa.table({"user": [1, 2], "item": [1, 1]})), None))
    assert found["time"] == {"kind": "none", "unit": ""}
    assert not {"behaviours", "context", "parts", "label", "items"} & set(found)


def test_an_order_has_a_range_of_numbers():
    table = pa.table({"user": [1, 1, 2], "item": [1, 2, 1], "time": [5, 5, -2]})
    found = describe(Dataset.build(EventLog.read(table), None))
    assert found["time"] == {"kind": "order", "unit": "integer", "first": -2, "last": 5, "ties": 2}
