"""Item tables: ids, titles, texts and attributes of the things that are recommended."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from regard.data.guess import guess_item_columns
from regard.data.read import open_inputs
from regard.data.sources import ItemColumns, ItemSource, as_table, check_distinct
from regard.data.sql import blank, connect, name, run, table
from regard.errors import InputError

_REPORT = b"regard"


def read_items(
    source: Any,
    id: str | None = None,  # noqa: A002 - the field's own word
    title: str | None = None,
    text: str | None = None,
    attributes: Sequence[str] = (),
    separator: str | None = None,
    encoding: str | None = None,
) -> pa.Table:
    """Read an item table: a path, a glob, a table (Arrow, pandas, polars) or an `ItemSource`.

    Returns columns id, title, text (those given or recognised) and the attributes under their own names; ids are text
    and distinct, attributes of tables keep their types. Rows without an id and later rows of the same id are left out
    and counted: see `item_report`. Raises `InputError`.
    """
    if not isinstance(source, ItemSource):
        source = ItemSource(source, ItemColumns(id, title, text, tuple(attributes)), separator, encoding)
    folder = Path(tempfile.mkdtemp(prefix="regard-"))
    connection = connect(folder)
    try:
        return _read(connection, source, folder)
    finally:
        connection.close()
        shutil.rmtree(folder, ignore_errors=True)


def checked_items(items: Any) -> pa.Table:
    """Return a table as `read_items` gives it, whoever made it: with columns id, title, text and any attributes."""
    items = as_table(items)
    if _REPORT in (items.schema.metadata or {}):
        return items
    fields = {field: field if field in items.column_names else None for field in ("title", "text")}
    attributes = tuple(column for column in items.column_names if column not in ("id", *fields))
    return read_items(ItemSource(items, ItemColumns("id", **fields, attributes=attributes)))


def item_report(items: pa.Table) -> dict[str, Any]:
    """Return what `read_items` counted: rows_read, missing_ids, duplicate_ids, malformed_lines, columns."""
    return dict(json.loads(items.schema.metadata[_REPORT]))


def _read(connection: duckdb.DuckDBPyConnection, source: ItemSource, folder: Path) -> pa.Table:
    inputs = open_inputs(connection, source, folder)
    shown = inputs[0].shown
    columns = guess_item_columns(source.columns, inputs[0].names, shown)
    fields = {"id": columns.id, "title": columns.title, "text": columns.text}
    given = {field: column for field, column in fields.items() if column}
    for column in columns.attributes:
        if column in fields:
            raise InputError(f"{shown}: an attribute cannot be called {column!r}; give it as --{column} or rename it")
    check_distinct([*given.items(), *(("attribute", column) for column in columns.attributes)])
    attributes = {f"a{at}": column for at, column in enumerate(columns.attributes)}
    wanted: dict[str, str | None] = {**given, **attributes}
    rows = malformed = 0
    into = "CREATE TABLE raw AS SELECT * FROM "
    for one in inputs:
        loaded = one.load(connection, into, wanted, native=tuple(attributes))
        rows, malformed = rows + loaded.rows, malformed + loaded.malformed
        into = "INSERT INTO raw SELECT * FROM "
    usable = f"NOT broken AND NOT {blank('id')}"
    kept = f"SELECT min(rowid) FROM raw WHERE {usable} GROUP BY id"
    listed = ", ".join(name(key) for key in wanted)
    found = table(connection, f"SELECT {listed} FROM raw WHERE rowid IN ({kept}) ORDER BY rowid", shown)
    counts = f"SELECT count(*) FILTER (broken), count(*) FILTER (NOT broken AND {blank('id')}) FROM raw"
    broken, missing = run(connection, counts, shown).fetchall()[0]
    if not found.num_rows:
        raise InputError(f"{shown}: no row has an item id" if rows + malformed else f"{shown}: there are no rows")
    report = {
        "rows_read": rows + malformed,
        "missing_ids": missing,
        "duplicate_ids": rows - broken - missing - found.num_rows,
        "malformed_lines": malformed + broken,
        "columns": {**given, "attributes": list(columns.attributes)},
    }
    found = found.rename_columns([attributes.get(column, column) for column in found.column_names])
    return found.replace_schema_metadata({_REPORT: json.dumps(report).encode()})
