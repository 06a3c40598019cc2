"""Item tables: from any file or table, ids as given, each item once."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from regard.cli import app
from regard.data.items import checked_items, item_report, read_items
from regard.data.sources import ItemColumns, ItemSource
from regard.errors import InputError

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)


@settings(max_examples=20)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=20))
def test_each_item_once_the_first_counts(rows):
    table = pa.table({"id": [row[0] for row in rows], "title": [row[1] for row in rows]})
    kept = {}
    for name, title in rows:
        if name.strip(" "):
            kept.setdefault(name, title)
    if not kept:
        return
    items = read_items(table)
    assert items.to_pydict() == {"id": list(kept), "title": list(kept.values())}
    report = item_report(items)
    missing = sum(not name.strip(" ") for name, _ in rows)
    assert (report["rows_read"], report["missing_ids"]) == (len(rows), missing)
    assert report["duplicate_ids"] == len(rows) - missing - len(kept)


@pytest.mark.parametrize("header", ["id", "Item_ID", '"sku"'])
def test_ids_alone_are_a_table(header, tmp_path):
    (tmp_path / "i.csv").write_text(f"{header}\n007\na b\nc d\n")
    assert read_items(tmp_path / "i.csv").to_pydict() == {"id": ["007", "a b", "c d"]}


def test_one_column_of_another_name_is_a_table_where_it_is_named(tmp_path):
    (tmp_path / "i.csv").write_text("code\n007\n008\n")
    with pytest.raises(InputError, match="cannot tell what separates its columns"):
        read_items(tmp_path / "i.csv")
    assert read_items(tmp_path / "i.csv", id="code").to_pydict() == {"id": ["007", "008"]}


def test_formats_give_one_table(tmp_path):
    rows = {"id": ["007", "a b"], "title": ["Bönd", None], "text": ["x, y", "z"], "colour": ["red", None]}
    (tmp_path / "i.csv").write_text('id,title,text,colour\n007,Bönd,"x, y",red\na b,,z,\n', encoding="utf-8")
    (tmp_path / "i.dat").write_bytes("007::Bönd::x, y::red\na b::::z::\n".encode("latin-1"))
    (tmp_path / "i.jsonl").write_text(
        '{"id": "007", "title": "B\\u00f6nd", "text": "x, y", "colour": "red"}\n{"id": "a b", "text": "z"}\n'
    )
    pq.write_table(pa.table(rows), tmp_path / "i.parquet")
    named = ItemColumns("id", "title", "text", ("colour",))
    for source in ("i.csv", "i.jsonl", "i.parquet"):
        assert read_items(ItemSource(tmp_path / source, named)).to_pydict() == rows
    assert read_items(pd.DataFrame(rows), "id", "title", "text", ["colour"]).to_pydict() == rows
    found = read_items(tmp_path / "i.dat", id="1", title="2", text="3", attributes=["4"])
    assert found.rename_columns(list(rows)).to_pydict() == rows


def test_columns_are_recognised(tmp_path):
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n1,Heat,Crime\n")
    assert read_items(tmp_path / "movies.csv").to_pydict() == {"id": ["1"], "title": ["Heat"]}
    assert read_items(pa.table({"id": [1], "name": ["One"]})).to_pydict() == {"id": ["1"], "title": ["One"]}
    assert read_items(pa.table({"id": [1], "name": ["One"]}), id="id").to_pydict() == {"id": ["1"]}


def test_attributes_of_tables_keep_their_types():
    table = pa.table({"id": [1, 2], "price": [1.5, None], "tags": [["a", "b"], []], "new": [True, False]})
    items = read_items(table, id="id", attributes=["price", "tags", "new"])
    assert items.select(["price", "tags", "new"]).to_pydict() == table.drop_columns("id").to_pydict()
    assert items.schema.field("tags").type.value_type in (pa.string(), pa.large_string())
    assert checked_items(items) is items
    assert checked_items(table.to_pandas()).column_names == ["id", "price", "tags", "new"]
    odd = pa.table({"id": [1], "broken": ["yes"], "Title": ["t"], "a0": [7]})
    assert read_items(odd, id="id", attributes=["broken", "Title", "a0"]).to_pydict() == odd.to_pydict() | {"id": ["1"]}
    assert checked_items(table).column_names == ["id", "price", "tags", "new"]


def test_several_files_and_lines_that_are_none(tmp_path):
    (tmp_path / "1.csv").write_text("id,title\n1,one\n2\n,none\n")
    (tmp_path / "2.csv").write_text("title,id\nuno,1\nthree,3\n")
    items = read_items(str(tmp_path / "*.csv"))
    assert items.to_pydict() == {"id": ["1", "3"], "title": ["one", "three"]}
    report = item_report(items)
    assert (report["rows_read"], report["malformed_lines"], report["missing_ids"], report["duplicate_ids"]) == (
        5,
        1,
        1,
        1,
    )


def test_prepare_says_which_rows_of_the_table_were_left_out(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item,time\nb,x,1\na,y,2\nc,x,3\n")
    (tmp_path / "items.csv").write_text("id,title\nx,tea\nx,ale\n,nameless\nz,new\n")
    words = ["prepare", str(tmp_path / "log.csv"), "--out", str(tmp_path / "shop"), "--items"]
    done = CliRunner().invoke(app, [*words, str(tmp_path / "items.csv")])
    shown = " ".join(done.output.split())
    assert "item table 2 items, with title (2)" in shown
    assert "1 rows with the id of an earlier one left out; 1 rows without an id left out" in shown
