"""data.toml, several sources, and columns recognised by their names."""

from __future__ import annotations

import dataclasses

import pyarrow as pa
import pytest

from regard.data.datafile import ColumnsTable, ItemsTable, SourceTable, UsersTable
from regard.data.events import EventLog
from regard.data.items import read_items
from regard.data.sources import Columns, ItemColumns, ItemSource, Source, UserColumns, UserSource
from regard.data.store import Dataset
from regard.errors import InputError, SettingsError

WHOLE = """
time_kind = "order"

[[source]]
path = "logs/view-*.csv"
behaviour = "view"
part = "train"
columns = { user = "visitor", item = "thing", time = "n", label = "stars", context = ["hour", "device"] }

[[source]]
path = ["logs/buy.tsv", "logs/more.tsv"]
part = "test"
separator = "\\t"
encoding = "latin-1"
columns = { user = 1, item = 2, time = 4, behaviour = 3, context = [5] }

[items]
path = "things.csv"
id = "thing"
title = "name"
text = "words"
attributes = ["colour", "price"]
"""


def write(folder):
    (folder / "logs").mkdir()
    (folder / "data.toml").write_text(WHOLE, encoding="utf-8")
    (folder / "logs" / "view-1.csv").write_text("visitor,thing,n,stars,hour,device\na,x,1,5,9,phone\n")
    (folder / "logs" / "view-2.csv").write_text("thing,visitor,n,stars,hour,device\ny,a,2,,10,\n")
    (folder / "logs" / "buy.tsv").write_bytes("b\tx\tbuy\t1\té\n".encode("latin-1"))
    (folder / "logs" / "more.tsv").write_bytes(b"a\tx\tcart\t0\tf\n")
    (folder / "things.csv").write_text("thing,name,words,colour,price\nx,Ex,letter,red,1\nz,Zed,other,,2\n")
    return folder / "data.toml"


def test_a_file_describes_a_dataset(tmp_path):
    recipe = Source.from_toml(write(tmp_path))
    assert [source.path for source in recipe.sources] == [
        [str(tmp_path / "logs/view-*.csv")],
        [str(tmp_path / "logs/buy.tsv"), str(tmp_path / "logs/more.tsv")],
    ]
    assert recipe.sources[1].columns == Columns("1", "2", "4", "3", context=("5",))
    assert (recipe.sources[1].separator, recipe.sources[1].encoding, recipe.sources[1].part) == (
        "\t",
        "latin-1",
        "test",
    )
    assert recipe.items == ItemSource(
        [str(tmp_path / "things.csv")], ItemColumns("thing", "name", "words", ("colour", "price"))
    )
    log = EventLog.read(recipe)
    dataset = Dataset.build(log, None, read_items(recipe.items))
    assert dataset.users.ids([1, 2]) == ["a", "b"]
    assert dataset.offsets.tolist() == [0, 0, 3, 4]
    assert dataset.items.ids(dataset.item) == ["x", "y", "x", "x"]
    assert (dataset.time_kind, dataset.time.tolist()) == ("order", [1, 2, 0, 1])
    assert dataset.part.tolist() == [0, 0, 1, 1]
    assert dataset.behaviours == ("view", "buy", "cart")
    assert dataset.behaviour.tolist() == [1, 1, 3, 2]
    assert dataset.label.tolist()[:1] == [5.0]
    assert list(dataset.context) == ["hour", "device", "5"]
    assert dataset.context["device"].tolist() == [1, 0, 0, 0]
    assert dataset.context_values["5"].ids([1, 2]) == ["é", "f"]
    assert dataset.item_table.to_pydict() == {
        "id": ["x", "y", "z"],
        "title": ["Ex", None, "Zed"],
        "text": ["letter", None, "other"],
        "colour": ["red", None, None],
        "price": ["1", None, "2"],
    }
    made_by = dataset.manifest["made_by"]["sources"]
    assert (made_by[0]["behaviour"], made_by[1]["columns"]["context"]) == ("view", ("5",))


ONE = "[[source]]\npath = 'x'\n"


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            "[[source]]\npaht = 'x'",
            SettingsError,
            r"unknown key 'source.paht' \(did you mean 'path'\?\); known here: path,",
        ),
        (ONE + "[source.columns]\nuzer = 'u'", SettingsError, r"'source.columns.uzer' \(did you mean 'user'"),
        ("[[sources]]\npath = 'x'", SettingsError, r"unknown key 'sources' \(did you mean 'source'\?\)"),
        (ONE + "[items]\npath = 'y'\ntitel = 'z'", SettingsError, r"'items.titel' \(did you mean 'title'"),
        (ONE + "part = 'validation'", SettingsError, "source.part: input should be 'train' or 'test'; got 'valid"),
        ("time_kind = 'dates'\n" + ONE, SettingsError, "time_kind: input should be 'timestamp', 'order' or 'none'"),
        ("[[source]]\nbehaviour = 'view'", SettingsError, "source.path: field required"),
        ("source = []", SettingsError, "source: tuple should have at least 1 item"),
        ("[[source]]\npath = 7", SettingsError, "source.path"),
        ("[[source", SettingsError, "is not valid TOML"),
        (b"\xff", InputError, "cannot read"),
        (None, InputError, "cannot read .*data.toml: No such file"),
    ],
)
def test_a_wrong_file(text, error, message, tmp_path):
    path = tmp_path / "data.toml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(error, match=message) as caught:
        Source.from_toml(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("user,item", ("user", "item", None)),
        ("userId,movieId,rating,timestamp", ("userId", "movieId", "timestamp")),
        ("visitorid,itemid,event", ("visitorid", "itemid", None)),
        ("SessionId,ItemId,Time", ("SessionId", "ItemId", "Time")),
        ("session_id,user_id,product_id,event_time", ("user_id", "product_id", "event_time")),
        ("reviewerID,asin,unixReviewTime", ("reviewerID", "asin", "unixReviewTime")),
        ("Customer ID,SKU,Date", ("Customer ID", "SKU", "Date")),
    ],
)
def test_columns_are_recognised(names, found):
    table = pa.table({name: ["1511658000"] for name in names.split(",")})
    log = EventLog.read(table)
    assert (log.sources[0].columns.user, log.sources[0].columns.item, log.sources[0].columns.time) == found


def test_what_is_given_is_not_guessed():
    table = pa.table({"user": ["a"], "owner": ["b"], "item": ["x"], "time": ["soon"]})
    log = EventLog.read(table, Columns(user="owner", item="item"))
    assert (log.users.ids([1]), log.time_kind) == (["b"], "none")
    assert log.report["notes"] == ["the table: column 'time' looks like a time and is not used"]
    with pytest.raises(InputError, match="no time can be read"):
        EventLog.read(table, Columns(user="owner"))


def test_ids_that_look_like_missing_values_are_kept_and_noted():
    log = EventLog.read(pa.table({"user": ["nan", "NULL", "a"], "item": ["x", "y", "None"]}))
    assert log.report["notes"] == [
        "user ids include 'nan', 'NULL'; is a missing value written so?",
        "item ids include 'None'; is a missing value written so?",
    ]
    assert log.report["rows_kept"] == 3


def test_a_header_that_was_taken_for_data_is_noted(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id\na,x\n")
    log = EventLog.read(tmp_path / "log.csv", Columns("1", "2"))
    assert log.report["rows_kept"] == 2
    assert "its first line looks like a header" in log.report["notes"][0]


def test_behaviours_of_columns_and_of_sources_meet():
    table = pa.table({"user": ["a", "b"], "item": ["x", "y"], "kind": ["cart", None]})
    sources = [
        Source(table, Columns("user", "item", behaviour="kind"), behaviour="view"),
        Source(table, Columns("user", "item")),
    ]
    dataset = Dataset.build(EventLog.read(sources), None)
    assert dataset.behaviours == ("cart", "view")
    assert dataset.behaviour.tolist() == [1, 0, 2, 0]


def test_the_file_knows_every_field():
    fields = {"path", *(field.name for field in dataclasses.fields(Source))}
    assert set(SourceTable.model_fields) == fields
    assert set(ColumnsTable.model_fields) == {field.name for field in dataclasses.fields(Columns)}
    for table, *kinds in ((ItemsTable, ItemSource, ItemColumns), (UsersTable, UserSource, UserColumns)):
        names = {field.name for kind in kinds for field in dataclasses.fields(kind)}
        assert set(table.model_fields) == names - {"columns"}
