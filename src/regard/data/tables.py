"""Tables beside the log: one row for each id, whatever the ids are of."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from regard.data.read import open_inputs
from regard.data.sources import ItemSource, UserSource, check_distinct
from regard.data.sql import blank, connect, name, run, table
from regard.errors import InputError

REPORT = b"regard"
"""Where the metadata of a table that was read here keeps what was counted."""

Fields = Callable[[Sequence[str], str], Mapping[str, str | None]]
"""Columns of a file -> which is the `id`, and which are other fields; the name of the file is for errors."""


def read_rows(source: ItemSource | UserSource, fields: Fields, whose: str) -> pa.Table:
    """Read a table: its fields, then the attributes under their own names.

    Ids are text and distinct, attributes of tables keep their types. Rows without an id and later rows of the same id
    are left out and counted: see `report_of`. Raises `InputError`, which says whose ids they are, `item` or `user`.
    """
    folder = Path(tempfile.mkdtemp(prefix="regard-"))
    connection = connect(folder)
    try:
        return _read(connection, source, fields, whose, folder)
    finally:
        connection.close()
        shutil.rmtree(folder, ignore_errors=True)


def report_of(rows: pa.Table) -> dict[str, Any]:
    """Return what `read_rows` counted: rows_read, missing_ids, duplicate_ids, malformed_lines, columns."""
    return dict(json.loads(rows.schema.metadata[REPORT]))


def _read(
    connection: duckdb.DuckDBPyConnection, source: ItemSource | UserSource, fields: Fields, whose: str, folder: Path
) -> pa.Table:
    inputs = open_inputs(connection, source, folder)
    shown = inputs[0].shown
    own = fields(inputs[0].names, shown)
    given = {field: column for field, column in own.items() if column}
    listed = source.columns.attributes
    for column in listed:
        if column in own:
            flag = f"{whose}-id" if column == "id" else column
            raise InputError(f"{shown}: an attribute cannot be called {column!r}; give it as --{flag} or rename it")
    check_distinct([*given.items(), *(("attribute", column) for column in listed)])
    attributes = {f"a{at}": column for at, column in enumerate(listed)}
    wanted: dict[str, str | None] = {**given, **attributes}
    rows = malformed = 0
    into = "CREATE TABLE raw AS SELECT * FROM "
    for one in inputs:
        loaded = one.load(connection, into, wanted, native=tuple(attributes))
        rows, malformed = rows + loaded.rows, malformed + loaded.malformed
        into = "INSERT INTO raw SELECT * FROM "
    usable = f"NOT broken AND NOT {blank('id')}"
    kept = f"SELECT min(rowid) FROM raw WHERE {usable} GROUP BY id"
    chosen = ", ".join(name(key) for key in wanted)
    found = table(connection, f"SELECT {chosen} FROM raw WHERE rowid IN ({kept}) ORDER BY rowid", shown)
    counts = f"SELECT count(*) FILTER (broken), count(*) FILTER (NOT broken AND {blank('id')}) FROM raw"
    broken, missing = run(connection, counts, shown).fetchall()[0]
    if not found.num_rows:
        raise InputError(f"{shown}: no row has {_a(whose)} id" if rows + malformed else f"{shown}: there are no rows")
    report = {
        "rows_read": rows + malformed,
        "missing_ids": missing,
        "duplicate_ids": rows - broken - missing - found.num_rows,
        "malformed_lines": malformed + broken,
        "columns": {**given, "attributes": list(listed)},
    }
    found = found.rename_columns([attributes.get(column, column) for column in found.column_names])
    return found.replace_schema_metadata({REPORT: json.dumps(report).encode()})


def _a(word: str) -> str:
    return f"an {word}" if word[0] in "aeio" else f"a {word}"
