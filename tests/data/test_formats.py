"""One log in every format gives one and the same dataset, and what was detected is reported."""

from __future__ import annotations

import csv
import gzip
import io
import json
from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.data.events import EventLog
from regard.data.sources import Columns, Source
from regard.data.store import Dataset

START = datetime(2024, 2, 28, 23, 59, 58, tzinfo=UTC)
ROWS = [
    ("007", "Ünïcödé ☂", 0, "view"),
    ("7", "a, b; c | d", 3, "cart"),
    ("007", 'she said "no"', 3, "view"),
    ("日本 語", "007", 1, "view"),
    ("-0", " a ", 3, "buy"),
    ("1e3", "'", 86_400, "view"),
    ("7", "Ünïcödé ☂", 3, "view"),
]
NAMES = ("user_id", "item", "when", "event type")
COLUMNS = Columns(*NAMES)
MICROSECONDS = pa.timestamp("us", "UTC")
NUMBERED = Columns("1", "2", "3", "4")
SECONDS = [[user, item, str(int((START + timedelta(seconds=t)).timestamp())), kind] for user, item, t, kind in ROWS]
LATIN = [[user.replace("日本 語", "étå"), item.replace("☂", "ÿ"), time, kind] for user, item, time, kind in SECONDS]


def written(rows, separator=",", header=True, end="\n"):
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=separator, lineterminator=end).writerows([NAMES] * header + rows)
    return out.getvalue()


def joined(rows, separator):
    return "".join(separator.join(row) + "\n" for row in rows)


def json_lines(rows, *, numbers=False):
    rows = [[row[0], row[1], int(row[2]) if numbers else row[2], row[3]] for row in rows]
    return "".join(json.dumps(dict(zip(NAMES, row, strict=True)), ensure_ascii=numbers) + "\n" for row in rows)


def typed_table(rows, time=MICROSECONDS):
    when = [START + timedelta(seconds=t) for _, _, t, _ in rows]
    values = [[row[0] for row in rows], [row[1] for row in rows], pa.array(when, time), [row[3] for row in rows]]
    return pa.table(dict(zip(NAMES, values, strict=True)))


def parquet(table):
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def facts(log):
    return {key: log.report[key] for key in ("format", "encoding", "compression", "separator") if key in log.report}


def content(dataset):
    """Every event, in stored order, in the user's own words."""
    rows = []
    for user in range(1, dataset.n_users + 1):
        for row in range(dataset.offsets[user], dataset.offsets[user + 1]):
            item = dataset.items.id(int(dataset.item[row]))
            behaviour = dataset.behaviours[dataset.behaviour[row] - 1]
            rows.append((dataset.users.id(user), item, int(dataset.time[row]), behaviour))
    return rows


def expected(rows):
    """The slow twin: users in order of appearance, their events by time, ties in place."""
    users = list(dict.fromkeys(row[0] for row in rows))
    ordered = sorted(rows, key=lambda row: (users.index(row[0]), int(row[2])))
    return [(user, item, int(time) * 10**6, kind) for user, item, time, kind in ordered]


CSV, JSON = written(SECONDS), json_lines(SECONDS)
COMMA = {"format": "delimited text", "encoding": "utf-8", "separator": ","}
LINES = {"format": "JSON lines", "encoding": "utf-8"}
ONE_BY_ONE = b"".join(gzip.compress(line.encode()) for line in CSV.splitlines(keepends=True))
FILES = {
    "csv": (CSV.encode(), COLUMNS, COMMA),
    "csv-crlf": (written(SECONDS, end="\r\n").encode(), COLUMNS, COMMA),
    "csv-cr": (written(SECONDS, end="\r").encode(), COLUMNS, COMMA),
    "csv-bom": (CSV.encode("utf-8-sig"), COLUMNS, COMMA),
    "csv-bom-bare": (written(SECONDS, header=False).encode("utf-8-sig"), NUMBERED, COMMA),
    "csv-mixed-ends": (CSV.replace("\n", "\r\n", 2).encode(), COLUMNS, COMMA),
    "csv-utf-16": (CSV.encode("utf-16"), COLUMNS, COMMA | {"encoding": "utf-16"}),
    "csv-blank-first": (b"\n\n" + CSV.encode(), COLUMNS, COMMA),
    "csv-no-end": (CSV.rstrip("\n").encode(), COLUMNS, COMMA),
    "csv-gz": (gzip.compress(CSV.encode()), COLUMNS, COMMA | {"compression": "gzip"}),
    "csv-gz-members": (ONE_BY_ONE, COLUMNS, COMMA | {"compression": "gzip"}),
    "csv-zst": (pa.compress(CSV.encode(), "zstd", asbytes=True), COLUMNS, COMMA | {"compression": "zstd"}),
    "semicolon": (written(SECONDS, ";").encode(), COLUMNS, COMMA | {"separator": ";"}),
    "tsv": (joined([NAMES, *SECONDS], "\t").encode(), COLUMNS, COMMA | {"separator": "tab"}),
    "tsv-bare": (joined(SECONDS, "\t").encode(), NUMBERED, COMMA | {"separator": "tab"}),
    "colons": (joined([NAMES, *SECONDS], "::").encode(), COLUMNS, COMMA | {"separator": "::"}),
    "colons-bare": (joined(SECONDS, "::").encode(), NUMBERED, COMMA | {"separator": "::"}),
    "ctrl-a": (joined(SECONDS, "\x01").encode(), NUMBERED, COMMA | {"separator": "\\x01"}),
    "json": (JSON.encode(), COLUMNS, LINES),
    "json-numbers": (json_lines(SECONDS, numbers=True).encode(), COLUMNS, LINES),
    "json-gz": (gzip.compress(JSON.encode()), COLUMNS, LINES | {"compression": "gzip"}),
    "json-crlf": (JSON.replace("\n", "\r\n").encode(), COLUMNS, LINES),
    "json-blank-lines": (JSON.replace("\n", "\n\n  \n").encode(), COLUMNS, LINES),
    "parquet": (parquet(typed_table(ROWS)), COLUMNS, {"format": "Parquet"}),
}


@pytest.mark.parametrize("kind", FILES)
def test_every_format_gives_the_same_log(kind, tmp_path):
    data, columns, found = FILES[kind]
    path = tmp_path / "log.any"
    path.write_bytes(data)
    log = EventLog.read(path, columns)
    assert facts(log) == found
    assert log.time_kind == "timestamp"
    assert log.report["refused"] == {}
    assert content(Dataset.build(log, None)) == expected(SECONDS)


@pytest.mark.parametrize(
    ("encoding", "given", "found"),
    [("latin-1", None, "latin-1"), ("latin-1", "latin-1", "latin-1"), ("cp1252", "windows-1252", "cp1252")],
)
def test_single_byte_encodings(encoding, given, found, tmp_path):
    path = tmp_path / "log.dat"
    path.write_bytes(joined(LATIN, "|").encode(encoding).replace(b"|d", b"d").replace(b"a, b; c | d", b"abc"))
    log = EventLog.read(path, NUMBERED, encoding=given)
    assert log.report["encoding"] == found
    rows = [[user, item.replace("a, b; c | d", "abc"), time, kind] for user, item, time, kind in LATIN]
    assert content(Dataset.build(log, None)) == expected(rows)


def test_bytes_of_windows_are_read_as_windows_wrote_them(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes("user,item\n“a”,€\n".encode("cp1252") + b"\x81,b\n")
    log = EventLog.read(path)
    assert log.report["encoding"] == "cp1252"
    assert log.users.ids([1, 2]) == ["“a”", "\x81"]


def test_a_few_broken_bytes_do_not_make_a_file_latin(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes("user,item\né,è\nü,ö\n".encode() + b"\xff,x\n")
    log = EventLog.read(path)
    assert log.report["encoding"] == "utf-8"
    assert log.report["refused"] == {"malformed line": {"count": 1, "first_rows": [4]}}


def test_an_encoding_that_is_asked_for(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes("user,item\n日本,語\n".encode("shift_jis"))
    assert EventLog.read(path, encoding="shift_jis").users.ids([1]) == ["日本"]


def recast(column, kind):
    table = typed_table(ROWS)
    return table.set_column(table.column_names.index(column), column, table[column].cast(kind))


WHOLE = typed_table(ROWS)
FRAME = WHOLE.to_pandas()
TABLES = {
    "arrow": WHOLE,
    "arrow-naive": typed_table(ROWS, pa.timestamp("us")),
    "arrow-seconds": typed_table(ROWS, pa.timestamp("s")),
    "arrow-nanoseconds": typed_table(ROWS, pa.timestamp("ns")),
    "arrow-zone": typed_table(ROWS, pa.timestamp("ms", "America/New_York")),
    "arrow-dictionary": recast("item", pa.dictionary(pa.int32(), pa.string())),
    "arrow-large": recast("user_id", pa.large_string()),
    "arrow-view": recast("user_id", pa.string_view()),
    "arrow-binary": recast("user_id", pa.binary()),
    "arrow-chunks": pa.concat_tables([WHOLE.slice(0, 3), WHOLE.slice(3)]),
    "pandas": FRAME,
    "pandas-objects": FRAME.astype({"user_id": object, "item": object}),
    "pandas-category": FRAME.astype({"event type": "category"}),
    "pandas-index": FRAME.set_index(np.arange(len(FRAME))[::-1]),
    "polars": pl.from_arrow(WHOLE),
    "polars-category": pl.from_arrow(WHOLE).with_columns(pl.col("item").cast(pl.Categorical)),
}


@pytest.mark.parametrize("kind", TABLES)
def test_every_table_gives_the_same_log(kind):
    log = EventLog.read(TABLES[kind], COLUMNS)
    assert (log.time_kind, log.report["time_unit"]) == ("timestamp", "iso")
    assert content(Dataset.build(log, None)) == expected(SECONDS)


def test_streams_that_can_be_read_once():
    for stream in (WHOLE.to_reader(2), duckdb.from_arrow(WHOLE)):
        assert content(Dataset.build(EventLog.read(stream, COLUMNS), None)) == expected(SECONDS)


@pytest.mark.parametrize(("given", "used"), [("\\t", "\t"), ("~", "~"), ("§", "§"), ("-|-", "-|-"), (" ", " ")])
def test_any_separator(given, used, tmp_path):
    (tmp_path / "log.txt").write_text(joined([["user", "item"], ["a", "x"], ["b,c", "y;z"]], used), encoding="utf-8")
    log = EventLog.read(tmp_path / "log.txt", separator=given)
    assert (log.users.ids([1, 2]), log.items.ids([1, 2])) == (["a", "b,c"], ["x", "y;z"])


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters='\n\t"\x85'), min_size=1, max_size=5)
words = texts.filter(lambda text: text.strip(" "))


@settings(max_examples=20)
@given(st.lists(st.tuples(words, words), min_size=1, max_size=12), st.sampled_from([",", ";", "json"]))
def test_ids_of_any_script_come_back_as_given(tmp_path_factory, rows, kind):
    path = tmp_path_factory.mktemp("log") / "log"
    out = io.StringIO(newline="")
    if kind == "json":
        out.writelines(json.dumps({"user": user, "item": item}) + "\n" for user, item in rows)
    else:
        csv.writer(out, delimiter=kind, lineterminator="\n").writerows([("user", "item"), *rows])
    path.write_bytes(out.getvalue().encode())
    log = EventLog.read(path, Columns("user", "item"))
    found = log.connection.execute('SELECT "user", item FROM events ORDER BY row').fetchall()
    assert [(log.users.id(user), log.items.id(item)) for user, item in found] == rows
    assert log.report["refused"] == {}


def test_globs_lists_and_mixtures_make_one_log(tmp_path):
    for part in range(3):
        rows = SECONDS[part * 2 : part * 2 + 2] if part < 2 else SECONDS[4:]
        (tmp_path / f"part-{part}.csv").write_text(written(rows), encoding="utf-8")
    (tmp_path / "part-3.csv").touch()  # engines leave empty parts behind
    whole = content(Dataset.build(EventLog.read(str(tmp_path / "part-*.csv"), COLUMNS), None))
    assert whole == expected(SECONDS)
    paths = sorted(tmp_path.glob("part-[012].csv"))
    assert content(Dataset.build(EventLog.read(paths, COLUMNS), None)) == whole
    (tmp_path / "rest.jsonl").write_text(json_lines(SECONDS[4:]), encoding="utf-8")
    mixed = [*paths[:2], Source(tmp_path / "rest.jsonl", COLUMNS)]
    assert content(Dataset.build(EventLog.read(mixed, COLUMNS), None)) == whole
    tables = [typed_table(ROWS[:4]), typed_table(ROWS[4:])]
    assert content(Dataset.build(EventLog.read(tables, COLUMNS), None)) == whole


def test_rows_keep_the_order_in_which_sources_are_given(tmp_path):
    (tmp_path / "1.csv").write_text("user,item\na,x\n")
    (tmp_path / "2.csv").write_text("user,item\nc,x\n")
    table = pa.table({"user": ["b"], "item": ["x"]})
    log = EventLog.read([tmp_path / "1.csv", table, tmp_path / "2.csv"])
    assert log.users.ids([1, 2, 3]) == ["a", "b", "c"]


def test_what_is_said_for_all_sources_holds_where_one_says_nothing(tmp_path):
    (tmp_path / "1.txt").write_bytes("é~x\n".encode("utf-16-le"))
    (tmp_path / "2.txt").write_bytes("é!x\n".encode("latin-1"))
    sources = [Source(tmp_path / "1.txt"), Source(tmp_path / "2.txt", separator="!", encoding="latin-1")]
    log = EventLog.read(sources, Columns("1", "2"), separator="~", encoding="utf-16-le")
    assert (log.users.ids([1]), log.items.ids([1]), len(log.users)) == (["é"], ["x"], 1)


def test_names_that_differ_in_case_only():
    table = pa.table([["a"], ["b"], ["x"], ["y"]], ["User", "user", "item", "ITEM"])
    log = EventLog.read(table, Columns("user", "ITEM"))
    assert (log.users.ids([1]), log.items.ids([1])) == (["b"], ["y"])


def test_blank_behaviours_and_contexts_are_not_given():
    table = pa.table({"user": ["a"] * 3, "item": ["x"] * 3, "kind": ["view", " ", ""], "hour": ["", "9", None]})
    dataset = Dataset.build(EventLog.read(table, Columns("user", "item", behaviour="kind", context=("hour",))), None)
    assert (dataset.behaviours, dataset.behaviour.tolist()) == (("view",), [1, 0, 0])
    assert (dataset.context["hour"].tolist(), dataset.context_values["hour"].ids([1])) == ([0, 1, 0], ["9"])


def test_columns_may_stand_in_another_order_in_each_file(tmp_path):
    (tmp_path / "1.csv").write_text("user,item\na,x\n")
    (tmp_path / "2.csv").write_text("item;more;user\ny;;b\n")
    log = EventLog.read(str(tmp_path / "*.csv"))
    assert (log.users.ids([1, 2]), log.items.ids([1, 2])) == (["a", "b"], ["x", "y"])


def test_a_name_with_wildcards_is_a_name(tmp_path):
    for odd in ("log[1].csv", "it's.csv", "a*b.csv"):
        (tmp_path / odd).write_text("user,item\na,x\n")
        assert EventLog.read(tmp_path / odd).report["rows_kept"] == 1


def test_numbers_in_tables_become_the_text_a_person_would_write():
    table = pa.table(
        {
            "user": pa.array([7.0, None, 2.0**53, 0.5, float("nan")]),
            "item": pa.array([2**63 - 1, 1, -5, 0, 4]),
        }
    )
    log = EventLog.read(table, Columns("user", "item"))
    assert log.users.ids([1, 2, 3]) == ["7", "9007199254740992", "0.5"]
    assert log.items.ids([1, 2, 3]) == ["9223372036854775807", "-5", "0"]
    assert log.report["floats_read_as_integers"] == "user"
    assert log.report["refused"] == {"missing user": {"count": 2, "first_rows": [2, 5]}}


@pytest.mark.parametrize(
    ("kind", "values", "texts"),
    [
        (pa.uint64(), [2**64 - 1], ["18446744073709551615"]),
        (pa.decimal128(30, 0), [10**29 - 1], ["9" * 29]),
        (pa.decimal128(5, 2), [7, None], ["7"]),
        (pa.bool_(), [True, False], ["true", "false"]),
        (pa.date32(), [0], ["1970-01-01"]),
    ],
)
def test_ids_of_other_types(kind, values, texts):
    log = EventLog.read(pa.table({"user": pa.array(values, kind), "item": ["x"] * len(values)}))
    assert log.users.ids(range(1, len(texts) + 1)) == texts


def test_pandas_with_missing_values_and_numbers_as_names():
    frame = pd.DataFrame({0: [1, None, 3], 1: ["x", "y", None], 2: ["2024-01-01", "2024-01-02", None]})
    log = EventLog.read(frame, Columns("0", "1", "2"))
    assert log.users.ids([1]) == ["1"]
    assert log.report["rows_kept"] == 1


def test_json_values_that_are_not_text(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(
        '{"u/x": 7, "i~": "007", "t": 1.5e9, "n": {"a": 1}}\n'
        '{"i~": 12345678901234567890, "u/x": "\\u65e5", "t": "1500000001.25"}\n'
        '{"u/x": null, "i~": 1, "t": 1}\n[1, 2]\n{"u/x": 1, "i~"\n'
    )
    log = EventLog.read(path, Columns("u/x", "i~", "t"))
    assert log.users.ids([1, 2]) == ["7", "日"]
    assert log.items.ids([1, 2]) == ["007", "12345678901234567890"]
    assert Dataset.build(log, None).time.tolist() == [1_500_000_000_000_000, 1_500_000_001_250_000]
    assert log.report["refused"] == {
        "malformed line": {"count": 2, "first_rows": [4, 5]},
        "missing user": {"count": 1, "first_rows": [3]},
    }
