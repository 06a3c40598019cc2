"""Sources become rows of text: every file or table gives DuckDB the same VARCHAR columns, however it was written.

Whole numbers that a table holds as floats (pandas does so beside missing values) are read as integers: 7.0 is "7".
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import duckdb
import numpy as np

from regard.data.layout import Layout, find_layout
from regard.data.records import records
from regard.data.sources import ItemSource, Source, UserSource, as_table, find_files, named, numbered
from regard.data.sql import name, quote, reason_of, run
from regard.data.text import Text, mended, open_text
from regard.errors import InputError, nearest

_FLOATS = re.compile(r"FLOAT|DOUBLE|DECIMAL\(\d+,[1-9]")
_IDS = ("user", "item", "id")
_NESTED = re.compile(r".*\]$|STRUCT|MAP|UNION|LIST")
Wanted = Mapping[str, str | None]  # our name of a field -> the column that holds it
SHOWN = 5  # row numbers given with a reason for refusal


@dataclass(frozen=True)
class Loaded:
    """What one input gave: rows, and lines that were no rows."""

    rows: int
    malformed: int = 0


class Input(Protocol):
    """One file or table: `shown` names it in messages, `names` are its columns."""

    shown: str
    names: tuple[str, ...]

    def load(
        self, connection: duckdb.DuckDBPyConnection, into: str, wanted: Wanted, native: Sequence[str] = ()
    ) -> Loaded:
        """Append rows by the SQL `into`, which takes a selection: the keys of `wanted`, and BOOLEAN `broken`.

        Values are VARCHAR; those of the keys `native` have the type that a table gives them.
        """

    def numbers(self, rows: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the numbers (from 1) by which a person finds loaded rows, and those of the first malformed lines."""

    def facts(self) -> dict[str, Any]:
        """Return what was detected, for the report."""


class TextInput:
    """A CSV, TSV, other delimited or JSON-lines file."""

    def __init__(self, text: Text, layout: Layout, workspace: Path) -> None:
        self.text, self.layout, self.workspace = text, layout, workspace
        self.shown, self.names = str(text.path), layout.names
        self._rejected = np.empty(0, np.int64)

    def load(
        self,
        connection: duckdb.DuckDBPyConnection,
        into: str,
        wanted: Wanted,
        native: Sequence[str] = (),  # noqa: ARG002 - all is text here
    ) -> Loaded:
        """Load; where a quote never closes, load again without its line."""
        loaded, swallowed = self._try(connection, into, wanted, anyway=not self.layout.quoted)
        if swallowed:
            self.text = mended(self.text, self.layout.separator, self.workspace)
            loaded, _ = self._try(connection, into, wanted, anyway=True)
        return Loaded(loaded, len(self._rejected) + len(self.text.stray))

    def _try(
        self, connection: duckdb.DuckDBPyConnection, into: str, wanted: Wanted, *, anyway: bool
    ) -> tuple[int, bool]:
        """Load in a transaction; give it up (unless `anyway`) where DuckDB may have swallowed lines after a quote."""
        connection.execute("BEGIN")
        rows = run(connection, f"{into}({self._select(wanted)})", self.shown).fetchall()[0][0]
        found = connection.execute(
            "SELECT line, error_type IN ('UNQUOTED VALUE', 'LINE SIZE OVER MAXIMUM') AS swallowed FROM reject_errors"
        ).fetchnumpy()
        connection.execute("DELETE FROM reject_errors")
        self._rejected = np.unique(np.asarray(found["line"], np.int64))
        swallowed = bool(np.any(found["swallowed"])) and not anyway
        connection.execute("ROLLBACK" if swallowed else "COMMIT")
        return rows, swallowed

    def _select(self, wanted: Wanted) -> str:
        layout = self.layout
        json = layout.kind == "json"
        fields = ["line"] if json else [f"f{n}" for n in range(len(layout.names))]
        options = {
            "auto_detect": "false",
            "header": "false",
            "skip": str(layout.skip),
            "columns": "{" + ", ".join(f"'{field}': 'VARCHAR'" for field in fields) + "}",
            "delim": quote("\x01" if json else layout.separator),
            "quote": quote('"' if layout.quoted else ""),
            "escape": quote('"' if layout.quoted else ""),
            "compression": quote(self.text.compression),
            "strict_mode": "true",
            "ignore_errors": "true",
            "store_rejects": "true",
        }
        lines = f"read_csv({quote(str(self.text.source))}, {', '.join(f'{k}={v}' for k, v in options.items())})"
        index = {key: column and column_of(column, self.names, self.shown) for key, column in wanted.items()}
        if json:
            return _select_json(lines, wanted)
        chosen = (f"{'NULL' if at is None else f'f{at}'}::VARCHAR AS {name(key)}" for key, at in index.items())
        return f"SELECT {', '.join(chosen)}, false AS broken FROM {lines}"

    def numbers(self, rows: Sequence[int]) -> tuple[list[int], list[int]]:
        """Walk through the records as DuckDB counted them, up to the last one asked for."""
        wanted = dict.fromkeys(rows, 0)
        shown = set(self._rejected[:SHOWN].tolist())
        rejected = set(self._rejected.tolist())
        malformed = list(self.text.stray[:SHOWN])
        left, row = len(wanted) + len(shown), 0
        for record, line, blank in self._records():
            if not left:
                break
            if record in rejected:
                left -= record in shown
                malformed += [line] if record in shown else []
            elif record > self.layout.skip and not blank:
                if row in wanted:
                    wanted[row], left = line, left - 1
                row += 1
        return [wanted[row] for row in rows], sorted(malformed)[:SHOWN]

    def _records(self) -> Iterator[tuple[int, int, bool]]:
        """Yield (record number, its first line, whether it is blank), all as DuckDB sees the file."""
        if self.layout.quoted:
            for record, (line, lines) in enumerate(records(self.text.lines(), self.layout.separator), start=1):
                yield record, line, lines == [""] and len(self.names) > 1
        else:
            json, several = self.layout.kind == "json", len(self.names) > 1
            for line, text in enumerate(self.text.lines(), start=1):
                yield line, line, not text.strip(" ") if json else several and not text

    def facts(self) -> dict[str, Any]:
        """Return format, encoding, compression and separator."""
        kind = "JSON lines" if self.layout.kind == "json" else "delimited text"
        found = {"format": kind, "encoding": self.text.encoding}
        found |= {"compression": self.text.compression} if self.text.compression != "none" else {}
        return found | ({"separator": self.layout.separator_name} if self.layout.separator else {})


class TableInput:
    """A Parquet file, or a table in memory that DuckDB knows as `relation`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, relation: str, shown: str, kind: str) -> None:
        self.relation, self.shown, self.kind = relation, shown, kind
        found = run(connection, f"DESCRIBE SELECT * FROM {relation}", shown).fetchall()
        self.names: tuple[str, ...] = tuple(row[0] for row in found)
        self.types: tuple[str, ...] = tuple(row[1] for row in found)
        self._places: tuple[str, ...] = self.names
        self._rounded: list[str | None] = []
        self._registered = False

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection, given: Any) -> TableInput:
        """Register a table in memory; its columns go by place, as DuckDB knows no upper and lower case."""
        table, library = as_table(given), type(given).__module__.partition(".")[0]
        relation = f"given_{id(table)}"
        try:
            connection.register(relation, table.rename_columns([f"c{at}" for at in range(table.num_columns)]))
            made = cls(connection, relation, "the table", f"{library} table")
        except duckdb.NotImplementedException as error:
            unusual = "leave out columns of unusual types"
            raise InputError(f"cannot read the table: {reason_of(error)}; {unusual}") from None
        made.names, made._registered = tuple(table.column_names), True
        return made

    def load(
        self, connection: duckdb.DuckDBPyConnection, into: str, wanted: Wanted, native: Sequence[str] = ()
    ) -> Loaded:
        """Load with every value as the text that a person would write."""
        self._rounded = [column for key, column in wanted.items() if key in _IDS and self._is_float(column)]
        chosen = [f"{self._value(column, key in native)} AS {name(key)}" for key, column in wanted.items()]
        selection = f"SELECT {', '.join(chosen)}, false AS broken FROM {self.relation}"
        loaded = Loaded(run(connection, f"{into}({selection})", self.shown).fetchall()[0][0])
        if self._registered:
            connection.unregister(self.relation)  # or the log would hold on to the table
        return loaded

    def _value(self, column: str | None, native: bool) -> str:
        if column is None:
            return "NULL::VARCHAR"
        at = column_of(column, self.names, self.shown)
        kind, value = self.types[at], name(self._places[at])
        if native:
            return value
        if _NESTED.match(kind):
            raise InputError(f"{self.shown}: column {column!r} holds {kind} values; expected text, numbers or dates")
        if self._is_float(column):
            whole = f"isfinite({value}::DOUBLE) AND {value} = trunc({value}) AND abs({value}) < 1e18"
            return (
                f"CASE WHEN isnan({value}::DOUBLE) THEN NULL WHEN {whole} THEN {value}::HUGEINT::VARCHAR "
                f"ELSE {value}::VARCHAR END"
            )
        if kind == "BLOB":
            return f"TRY(decode({value}))"
        if kind.startswith("TIMESTAMP") and kind != "TIMESTAMP WITH TIME ZONE":
            return f"TRY_CAST({value} AS TIMESTAMP)::VARCHAR"
        return f"{value}::VARCHAR"

    def numbers(self, rows: Sequence[int]) -> tuple[list[int], list[int]]:
        """Rows of tables count from 1."""
        return [row + 1 for row in rows], []

    def facts(self) -> dict[str, Any]:
        """Return the format, and the columns whose floating-point numbers were read as integers where whole."""
        rounded = ", ".join(str(column) for column in self._rounded)
        return {"format": self.kind} | ({"floats_read_as_integers": rounded} if rounded else {})

    def _is_float(self, column: str | None) -> bool:
        return column is not None and bool(_FLOATS.match(self.types[column_of(column, self.names, self.shown)]))


def open_inputs(
    connection: duckdb.DuckDBPyConnection, source: Source | ItemSource | UserSource, workspace: Path
) -> list[Input]:
    """Open the files or the table of a source: formats and layouts are found out, nothing is loaded yet."""
    if not isinstance(source.path, (str, Path, list, tuple)):
        return [TableInput.of(connection, source.path)]
    files = find_files(source.path)
    files = [file for file in files if file.stat().st_size] or files[:1]  # an empty part among others is no fault
    inputs: list[Input] = []
    for file in files:
        if _is_parquet(file):
            reader = f"read_parquet({quote(str(_plain(file, workspace)))})"
            inputs.append(TableInput(connection, reader, str(file), "Parquet"))
            continue
        text = open_text(file, source.encoding, workspace)
        header = not numbered(source.columns)
        table, wanted = not isinstance(source, Source), named(source.columns)
        layout = find_layout(text, source.separator, header=header, wanted=wanted, table=table)
        inputs.append(TextInput(replace(text, source=_plain(text.source, workspace)), layout, workspace))
    json = [one for one in inputs if isinstance(one, TextInput) and one.layout.kind == "json"]
    for one in json:  # a key may be rare, so what one file has counts for all
        one.names = tuple(dict.fromkeys(key for other in json for key in other.names))
    return inputs


def column_of(column: str, names: Sequence[str], shown: str) -> int:
    """Return the position of a column, or raise `InputError` that names the nearest one."""
    count = list(names).count(column)
    if count == 1:
        return list(names).index(column)
    if count > 1:
        raise InputError(f"{shown}: {count} columns are called {column!r}; rename one")
    if names and names[0] == "1" and column.isdigit():
        raise InputError(f"{shown}: there is no column {column}; it has {len(names)} columns")
    listed = ", ".join(repr(name[:40]) for name in names[:20]) + (", …" if len(names) > 20 else "")
    raise InputError(f"{shown}: there is no column {column!r}{nearest(column, names)}; columns: {listed}")


def _select_json(lines: str, wanted: Wanted) -> str:
    """Take the keys apart in one pass over each line; a line that is no JSON object is broken."""
    keys = {key: column for key, column in wanted.items() if column is not None}
    pointers = ", ".join(quote("/" + column.replace("~", "~0").replace("/", "~1")) for column in keys.values())
    place = {key: f"x[{at}]" for at, key in enumerate(keys, start=1)}
    chosen = ", ".join(f"{place.get(key, 'NULL::VARCHAR')} AS {name(key)}" for key in wanted)
    is_object = "CASE WHEN json_valid(line) THEN json_type(line) = 'OBJECT' ELSE false END"
    taken = f"CASE WHEN {is_object} THEN json_extract_string(line, [{pointers}]) END"
    return f"SELECT {chosen}, x IS NULL AS broken FROM (SELECT {taken} AS x FROM {lines} WHERE trim(line) <> '')"


def _is_parquet(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            head = stream.read(4)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from None
    if file.suffix.lower() in (".parquet", ".pq") and head != b"PAR1":
        raise InputError(f"{file} is not a Parquet file: it does not begin with PAR1")
    return head == b"PAR1"


def _plain(file: Path, workspace: Path) -> Path:
    """Return a path in which DuckDB sees no wildcard."""
    if not glob.has_magic(str(file)):
        return file.absolute()
    link = workspace / f"link-{len(list(workspace.iterdir()))}{file.suffix}"
    link.symlink_to(file.absolute())
    return link
