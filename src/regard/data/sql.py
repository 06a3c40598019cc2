"""How this room talks to DuckDB: offline, in UTC, spilling beside the output, with errors in our own words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa

from regard.errors import InputError, StorageError

_BATCH = 1_000_000  # rows


def connect(workspace: Path) -> duckdb.DuckDBPyConnection:
    """Open a database in memory that uses at most half of it and spills to `workspace` beyond that."""
    connection = duckdb.connect()
    for setting in (
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "memory_limit = '50%'",
        f"temp_directory = {quote(str(workspace / 'spill'))}",
        "preserve_insertion_order = true",
        "enable_progress_bar = false",
        "TimeZone = 'UTC'",
    ):
        connection.execute(f"SET {setting}")
    return connection


@contextlib.contextmanager
def _our_words(what: str) -> Iterator[None]:
    try:
        yield
    except (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException):
        raise  # our own mistake, not the user's
    except (duckdb.Error, pa.ArrowException) as error:
        if isinstance(error, duckdb.OutOfMemoryException) or "No space left" in str(error):
            raise StorageError(f"cannot take in {what}: memory and disk are full ({reason_of(error)})") from None
        raise InputError(f"cannot read {what}: {reason_of(error)}") from None


def run(connection: duckdb.DuckDBPyConnection, query: str, what: str) -> duckdb.DuckDBPyConnection:
    """Execute a query over the user's data; `what` names the data in errors."""
    with _our_words(what):
        return connection.execute(query)


def table(connection: duckdb.DuckDBPyConnection, query: str, what: str) -> pa.Table:
    """Execute a query and return its result as an Arrow table."""
    with _our_words(what):
        return connection.sql(query).to_arrow_table()


def batches(connection: duckdb.DuckDBPyConnection, query: str, what: str) -> Iterator[pa.RecordBatch]:
    """Execute a query and yield its result in pieces."""
    with _our_words(what):
        yield from connection.sql(query).to_arrow_reader(_BATCH)


def quote(text: str) -> str:
    """Return `text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def name(text: str) -> str:
    """Return `text` as an SQL name."""
    return '"' + text.replace('"', '""') + '"'


def blank(column: str) -> str:
    """SQL that is true where a VARCHAR column is NULL or only spaces; quick for all that starts otherwise."""
    return f"({column} IS NULL OR CASE WHEN {column} < '!' THEN trim({column}) = '' ELSE false END)"


def reason_of(error: Exception) -> str:
    """Return the first line of an error without the name of its kind."""
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line.split(": ", 1)[-1].strip()
