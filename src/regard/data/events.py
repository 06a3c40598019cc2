"""Any log becomes a checked event log: rows that cannot be used are refused, counted by reason and named by number."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb

from regard.data.checks import LABEL, Piece, check
from regard.data.guess import guess_columns, looks_like_header, unused_time
from regard.data.read import open_inputs
from regard.data.sources import Columns, Recipe, Source, as_sources, check_distinct
from regard.data.sql import blank, connect, name, quote, run, table
from regard.data.times import KINDS, Clock, TimeKind
from regard.data.vocabulary import Vocabulary
from regard.errors import InputError, nearest
from regard.manifest import writing

_MOST_BEHAVIOURS = 255
_LIKE_MISSING = ("nan", "NaN", "null", "NULL", "None", "<NA>", "\\N", "N/A")


class EventLog:
    """A checked log; its ids, behaviours and context values are encoded in order of first appearance.

    `report`: JSON-able facts of the import: rows_read, rows_kept, refused {reason: {count, first_rows}}, notes, format,
    encoding, separator, time_kind, time_unit. `connection` holds the table `events`: user, item, time, behaviour,
    label, part, c0… (codes; 0 = not given) and row (original order); `fields` are those that were given.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, sources: list[Source], clocks: list[Clock]) -> None:
        self.connection, self.sources = connection, sources
        self.time_kind: TimeKind = clocks[0].kind
        self.report: dict[str, Any] = {}
        used = [source.columns for source in sources]
        given = {
            "time": self.time_kind != "none",
            "behaviour": any(one.columns.behaviour or one.behaviour for one in sources),
            "label": any(one.label for one in used),
            "part": sources[0].part is not None,
        }
        self.fields = tuple(field for field, is_given in given.items() if is_given)
        context = _context(sources)
        self.users, self.items = self._encode("user"), self._encode("item")
        coded = {field: self._encode(field) for field in ("behaviour",) if field in self.fields}
        self.behaviours = tuple(value for values in coded.values() for value in values.array.to_pylist())
        coded |= {f"c{i}": self._encode(f"c{i}") for i in range(len(context))}
        self.context_values = {column: coded[f"c{i}"] for i, column in enumerate(context)}
        self._finish(list(coded), clocks)

    @classmethod
    def read(
        cls,
        source: Any,
        columns: Columns | None = None,
        *,
        separator: str | None = None,
        encoding: str | None = None,
        time_kind: TimeKind | None = None,
        workspace: str | Path | None = None,
    ) -> EventLog:
        """Read `source`: a path, a glob, a table (Arrow, pandas, polars), a `Source`, a `Recipe`, or a list of these.

        `time_kind` overrules what is detected; "order" for a log without a time column declares that file order is
        meant. Logs larger than memory spill to a folder in `workspace` (default: the system's). Raises `InputError`
        where a source or column cannot be used or no row is left, `StorageError` where the disk is full.
        """
        sources = as_sources(source, columns, separator, encoding)
        time_kind = time_kind or (source.time_kind if isinstance(source, Recipe) else None)
        if time_kind is not None and time_kind not in KINDS:
            raise InputError(f"unknown time kind {time_kind!r}{nearest(time_kind, KINDS)}; known: {', '.join(KINDS)}")
        if workspace is not None:
            with writing(workspace):
                Path(workspace).mkdir(parents=True, exist_ok=True)
        with writing(workspace or tempfile.gettempdir()):
            folder = Path(tempfile.mkdtemp(prefix=".regard-", suffix=".part", dir=workspace))
        with contextlib.ExitStack() as undo:
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            connection = connect(folder)
            undo.callback(connection.close)
            log = cls._read(connection, sources, time_kind, folder)
            weakref.finalize(log, undo.pop_all().close)
        return log

    @classmethod
    def _read(
        cls, connection: duckdb.DuckDBPyConnection, sources: list[Source], time_kind: TimeKind | None, folder: Path
    ) -> EventLog:
        context = "".join(f", c{i} VARCHAR" for i in range(len(_context(sources))))
        connection.execute(
            'CREATE TABLE raw ("user" VARCHAR, item VARCHAR, time VARCHAR, behaviour VARCHAR, label VARCHAR'
            f"{context}, broken BOOLEAN, part UTINYINT, source USMALLINT)"
        )
        pieces: list[Piece] = []
        for at in range(len(sources)):
            sources[at] = _load(connection, sources, at, pieces, folder)
        clocks, report = check(connection, sources, pieces, time_kind)
        log = cls(connection, sources, clocks)
        log.report = report | {"notes": [*_unused(sources, pieces), *log._headers(pieces), *log._odd_ids()]}
        return log

    def _encode(self, field: str) -> Vocabulary:
        """Number the distinct values of a field in order of first appearance."""
        self._run(
            f'CREATE TABLE code_{field} AS SELECT "{field}" AS id, row_number() OVER (ORDER BY min(rowid)) AS code '
            f'FROM raw WHERE "{field}" IS NOT NULL GROUP BY "{field}"'
        )
        found = table(self.connection, f"SELECT id FROM code_{field} ORDER BY code", "the events")
        if field == "behaviour" and len(found) > _MOST_BEHAVIOURS:
            shown = ", ".join(repr(value) for value in found["id"].to_pylist()[:3])
            raise InputError(
                f"the behaviour column holds {len(found)} different values ({shown}, …); expected event types, at most "
                f"{_MOST_BEHAVIOURS}"
            )
        return Vocabulary(found["id"])

    def _finish(self, coded: list[str], clocks: list[Clock]) -> None:
        """Replace the rows of text by events of numbers."""
        time = " ".join(f"WHEN {at} THEN {clock.value}" for at, clock in enumerate(clocks))
        codes = "".join(f", coalesce(code_{field}.code, 0)::INTEGER AS {field}" for field in coded)
        self._run(
            f'CREATE TABLE events AS SELECT code_user.code::INTEGER AS "user", code_item.code::INTEGER AS item, '
            f"CASE source {time} END AS time, {LABEL} AS label, part, raw.rowid AS row{codes} FROM raw "
            'JOIN code_user ON code_user.id = raw."user" JOIN code_item ON code_item.id = raw.item'
            + "".join(f" LEFT JOIN code_{field} ON code_{field}.id = raw.{field}" for field in coded)
        )
        for done in ("raw", "code_user", "code_item", *(f"code_{field}" for field in coded)):
            self.connection.execute(f"DROP TABLE {done}")

    def _headers(self, pieces: list[Piece]) -> Iterator[str]:
        firsts = {piece.first: piece for piece in pieces if piece.rows and piece.input.names[0] == "1"}
        query = 'SELECT row, "user", item FROM events WHERE list_contains(?, row)'
        for row, user, item in self.connection.execute(query, [list(firsts)]).fetchall() if firsts else ():
            if looks_like_header(self.users.id(user), self.items.id(item)):
                shown = firsts[row].input.shown
                yield f"{shown}: its first line looks like a header, but columns given by number mean that it has none"

    def _odd_ids(self) -> Iterator[str]:
        for what, ids in (("user", self.users), ("item", self.items)):
            odd = [word for word, at in zip(_LIKE_MISSING, ids.index(_LIKE_MISSING), strict=True) if at]
            if odd:
                yield f"{what} ids include {', '.join(map(repr, odd))}; is a missing value written so?"

    def _run(self, query: str) -> duckdb.DuckDBPyConnection:
        return run(self.connection, query, "the events")


def _context(sources: list[Source]) -> list[str]:
    """Return the context columns of all sources together."""
    return list(dict.fromkeys(column for source in sources for column in source.columns.context))


def _load(
    connection: duckdb.DuckDBPyConnection, sources: list[Source], at: int, pieces: list[Piece], folder: Path
) -> Source:
    """Append the rows of one source to `raw` and its pieces to `pieces`; return the source with all columns named."""
    source = sources[at]
    inputs = open_inputs(connection, source, folder)
    columns = guess_columns(source.columns, inputs[0].names, inputs[0].shown)
    roles = {field: getattr(columns, field) for field in ("user", "item", "time", "behaviour", "label")}
    context = _context(sources)
    wanted = roles | {f"c{i}": column if column in columns.context else None for i, column in enumerate(context)}
    check_distinct((field if field in roles else "context", column) for field, column in wanted.items() if column)
    parts = {one.part is None for one in sources}
    if len(parts) > 1:
        raise InputError(
            "some sources say which part they are (train or test) and others do not; say it for all or none"
        )
    constant = "NULL" if source.behaviour is None else quote(source.behaviour)
    part = {None: "NULL", "train": "0", "test": "1"}[source.part]
    given = {key: f"CASE WHEN NOT {blank(key)} THEN {key} END" for key in wanted if key not in ("user", "item", "time")}
    given["behaviour"] = f"coalesce({given['behaviour']}, {constant})"
    listed = [given.get(key, name(key)) for key in wanted]
    into = f"INSERT INTO raw SELECT {', '.join(listed)}, broken, {part}, {at} FROM "
    for one in inputs:
        first = pieces[-1].first + pieces[-1].rows if pieces else 0
        loaded = one.load(connection, into, wanted)
        pieces.append(Piece(one, at, first, loaded.rows, loaded.malformed))
    return replace(source, columns=columns)


def _unused(sources: list[Source], pieces: list[Piece]) -> Iterator[str]:
    for at, source in enumerate(sources):
        one = next(piece.input for piece in pieces if piece.source == at)
        unused = unused_time(source.columns, one.names)
        if unused:
            yield f"{one.shown}: column {unused!r} looks like a time and is not used"
