"""Bad input to the import: one clear line that says what was expected, what came, where, and what to do."""

from __future__ import annotations

import gzip
import io
import random

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from regard.data.events import EventLog
from regard.data.items import read_items
from regard.data.sources import Columns, Source
from regard.errors import InputError, RegardError


def parquet_bytes():
    out = io.BytesIO()
    pq.write_table(pa.table({"user": ["a"], "item": ["x"]}), out)
    return out.getvalue()


RANDOM = random.Random(0).randbytes(4096)
TWICE = Columns("user", "item", context=("time", "user"))
GOOD = b"user,item,time\na,x,1511658000\n"
FILES = {
    "empty": ("log.csv", b"", None, "log.csv is empty"),
    "blank lines": ("log.csv", b"\n\n  \n", None, "log.csv is empty"),
    "empty gzip": ("log.csv.gz", gzip.compress(b""), None, "log.csv.gz is empty"),
    "header only": ("log.csv", b"user,item,time\n", None, "log.csv: there are no rows, only a header at most"),
    "random csv": ("log.csv", RANDOM, None, "is not a text file; expected CSV, TSV, JSON lines or Parquet"),
    "random small": ("log.csv", bytes(range(1, 9)) * 3, None, "is not a text file"),
    "random parquet": ("log.parquet", RANDOM, None, "log.parquet is not a Parquet file: it does not begin with PAR1"),
    "random gzip": ("log.gz", b"\x1f\x8b" + RANDOM, None, "cannot read .*log.gz"),
    "half gzip": ("log.gz", gzip.compress(RANDOM.hex().encode())[:-900], None, "cannot read .*log.gz"),
    "half parquet": ("log.parquet", parquet_bytes()[:-20], None, "cannot read .*log.parquet"),
    "hurt parquet": ("log.parquet", b"PAR1" + RANDOM + b"PAR1", None, "cannot read .*log.parquet"),
    "zip": ("log.csv", b"PK\x03\x04" + RANDOM, None, "log.csv is a zip archive; unpack it first"),
    "bzip2": ("log.csv", b"BZh91AY" + RANDOM, None, "compress it with gzip instead"),
    "one column": ("log.csv", b"user\na\nb\n", None, "cannot tell what separates its columns"),
    "no such column": (
        "log.csv",
        GOOD,
        Columns("usr", "item"),
        r"no column 'usr' \(did you mean 'user'\?\); columns: 'user', 'i",
    ),
    "no such number": ("log.csv", GOOD, Columns("1", "9"), "there is no column 9; it has 3 columns"),
    "number 0": ("log.csv", GOOD, Columns("0", "1"), "columns are numbered from 1; got 0"),
    "name and number": ("log.csv", GOOD, Columns("1", "item"), "by name or by number, not both; got 1 and 'item'"),
    "one for two": ("log.csv", GOOD, Columns("user", "user"), "column 'user' is given twice, as user and as item"),
    "one for two contexts": ("log.csv", GOOD, TWICE, "given twice, as user and as context"),
    "two of one name": ("log.csv", b"user,item,user\na,x,b\n", Columns("user", "item"), "2 columns are called 'user'"),
    "nothing to guess": (
        "log.csv",
        b"a,b,c\n1,2,3\n",
        None,
        r"which column is the user; name it \(columns found: 'a', 'b', 'c'\)",
    ),
    "two to guess": (
        "log.csv",
        b"user_id,product,sku\n1,2,3\n",
        None,
        "'product' and 'sku' could each be the item column",
    ),
    "no time": (
        "log.csv",
        b"user,item,time\na,x,soon\n",
        None,
        "column 'time': no time can be read; expected unix times",
    ),
    "no user at all": (
        "log.csv",
        b"user,item\n,x\n,y\n",
        None,
        r"none of 2 rows can be used: 2 missing user \(first: 2, 3\)",
    ),
    "nothing useful": (
        "log.csv",
        b"user,item,time\n,x,1\na,,1\na,b,\n",
        None,
        "none of 3 rows can be used: 1 missing item",
    ),
    "times of day": ("log.csv", b"user,item,time\na,x,12:30\n", None, "no time can be read"),
    "all malformed": (
        "log.csv",
        b"user,item\na\nb\n",
        Columns("user", "item"),
        "none of 2 rows can be used: 2 malformed line",
    ),
    "a configuration": ("data.toml", b'[[source]]\npath = "log.csv"\n', None, "give it by --config"),
    "json array": ("log.json", b'[{"user": 1, "item": 2}]', None, "holds a JSON array; expected JSON lines"),
    "one long line": ("log.json", b"[" + b'{"user": 1},' * 10**6, None, "holds a JSON array; expected JSON lines"),
    "json with no object": ("log.jsonl", b"{1}\n", None, "no line is a JSON object"),
    "json without the key": (
        "log.jsonl",
        b'{"user": 1, "itme": 2}\n',
        Columns("user", "item"),
        r"no column 'item' \(did you mean 'itme'\?\)",
    ),
    "not that encoding": ("log.csv", b"user,item\n\xff\xff\xff,x\n", "shift_jis", "is not written in shift_jis"),
    "no encoding of text": ("log.csv", GOOD, "base64", "unknown encoding 'base64'"),
    "no such encoding": ("log.csv", GOOD, "utf-9", "unknown encoding 'utf-9'; for example utf-8, latin-1, cp1252"),
}


def one_line(error: RegardError) -> str:
    text = str(error)
    assert "\n" not in text
    assert len(text) < 400
    assert "Error:" not in text
    return text


@pytest.mark.parametrize("kind", FILES)
def test_bad_files(kind, tmp_path):
    name, data, given, message = FILES[kind]
    (tmp_path / name).write_bytes(data)
    asked = {"encoding": given} if isinstance(given, str) else {"columns": given}
    with pytest.raises(InputError, match=message) as caught:
        EventLog.read(tmp_path / name, **asked, workspace=tmp_path / "space")
    assert str(tmp_path / name) in one_line(caught.value) or kind in (
        "number 0",
        "name and number",
        "one for two",
        "one for two contexts",
    )
    assert list((tmp_path / "space").iterdir()) == []


def test_bad_paths(tmp_path):
    (tmp_path / "ratings.csv").write_bytes(GOOD)
    for path, message in {
        tmp_path: r"is a folder; give its files, for example '.*/\*\.csv'",
        tmp_path / "rating.csv": r"there is no file .*rating\.csv \(did you mean 'ratings\.csv'\?\)",
        tmp_path / "no" / "where.csv": "there is no file",
        tmp_path / "*.json": r"no file matches .*\*\.json",
        "a" * 5000: "cannot look for 'a{80}': File name too long",
        "a" * 5000 + "*": "cannot look for 'a{80}': File name too long",
        " ": "an empty path was given",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            EventLog.read(str(path))
        one_line(caught.value)
    with pytest.raises(InputError, match="no source given"):
        EventLog.read([])


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "log.csv"
    path.write_bytes(GOOD)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(InputError, match=r"cannot read .*log\.csv: Permission denied"):
        EventLog.read(path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (pl.DataFrame({"user": ["a"], "item": ["x"]}).lazy(), r"got LazyFrame; call \.collect\(\) first"),
        (42, r"expected a path, a glob or a table \(Arrow, pandas, polars\); got int"),
        (pd.DataFrame({"user": ["a", 1], "item": ["x", "y"]}), "this DataFrame cannot become an Arrow table"),
        (pa.table({"user": [["a"]], "item": ["x"]}), r"column 'user' holds VARCHAR\[\] values; expected text"),
        (pa.table({"user": [{"a": 1}], "item": ["x"]}), "column 'user' holds STRUCT"),
        (pa.table({"user": pa.array([], pa.string()), "item": pa.array([], pa.string())}), "there are no rows"),
        (pa.table({"user": pa.nulls(2), "item": ["x", "y"]}), "none of 2 rows can be used: 2 missing user"),
        (
            pa.table({"user": ["a"], "item": ["x"], "h": pa.array([1], pa.decimal256(50))}),
            "leave out columns of unusual",
        ),
        (pa.table([["a"], ["b"]], ["user", "user"]), "'user' and 'user' could each be the user column"),
        (Source([pa.table({"user": ["a"]})]), "expected paths in a source; got Table"),
        (pa.table({"user_name": ["a"], "item": ["x"]}), r"cannot tell which column is the user"),
    ],
)
def test_bad_tables(given, message):
    with pytest.raises(InputError, match=message) as caught:
        EventLog.read(given)
    one_line(caught.value)


@pytest.mark.parametrize("separator", ["::::::", "\n", 'a"'])
def test_bad_separator(separator, tmp_path):
    (tmp_path / "log.csv").write_bytes(GOOD)
    with pytest.raises(InputError, match="expected a separator of one to four bytes"):
        EventLog.read(tmp_path / "log.csv", separator=separator)


def test_sources_that_do_not_go_together(tmp_path):
    table = pa.table({"user": ["a"], "item": ["x"], "time": [1_511_658_000], "n": [1]})
    timed, bare = Columns("user", "item", "time"), Columns("user", "item")
    ordered = Columns("user", "item", "n")
    for sources, message in [
        ([Source(table, timed), Source(table, bare)], "no time column is given, while other sources have one"),
        ([Source(table, timed), Source(table, ordered)], "times of kind 'timestamp'.*of kind 'order'"),
        ([Source(table, bare, part="train"), Source(table, bare)], "say it for all or none"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            EventLog.read(sources)
        one_line(caught.value)


def test_a_column_of_ids_is_no_behaviour():
    table = pa.table({"user": ["a"] * 300, "item": ["x"] * 300, "kind": [str(n) for n in range(300)]})
    with pytest.raises(
        InputError, match=r"300 different values \('0', '1', '2', …\); expected event types, at most 255"
    ):
        EventLog.read(table, Columns("user", "item", behaviour="kind"))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("dates", "unknown time kind 'dates'.*known: timestamp, order, none"),
        ("timestamp", "but no time column is given"),
    ],
)
def test_bad_time_kind(kind, message):
    with pytest.raises(InputError, match=message):
        EventLog.read(pa.table({"user": ["a"], "item": ["x"]}), time_kind=kind)


@pytest.mark.parametrize(
    ("data", "given", "message"),
    [
        (b"", {}, "is empty"),
        (b"id,title\n", {}, "there are no rows"),
        (b"id,title\n,x\n,y\n", {}, "no row has an item id"),
        (b"id,title\n1,x\n", {"id": "item"}, "there is no column 'item'"),
        (b"name,text\n1,x\n", {}, "cannot tell which column is the id"),
        (b"id,title\n1,x\n", {"id": "id", "title": "id"}, "given twice, as id and as title"),
        (b"id,title\n1,x\n", {"id": "id", "attributes": ["title"]}, "an attribute cannot be called 'title'"),
    ],
)
def test_bad_item_tables(data, given, message, tmp_path):
    (tmp_path / "items.csv").write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        read_items(tmp_path / "items.csv", **given)
    one_line(caught.value)
