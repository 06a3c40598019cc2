"""Any log becomes a checked event log: rows that cannot be used are refused, counted by reason and named by number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from regard.data.times import Clock, TimeKind, detect, survey
from regard.data.vocabulary import Vocabulary
from regard.errors import InputError


@dataclass(frozen=True)
class Columns:
    """Which column holds what: names, or numbers from 1 as text for files without a header."""

    user: str
    item: str
    time: str | None = None
    behaviour: str | None = None
    label: str | None = None
    context: tuple[str, ...] = ()


class EventLog:
    """A checked log: kept events with ids encoded in order of first appearance, behaviours and context likewise.

    `.connection` holds the table `events`: user, item, behaviour, part, time, label, c0.., row (original order).
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, columns: Columns, clocks: list[Clock]) -> None:
        """Encode the raw table that `connection` holds; use `EventLog.read`."""
        self.connection = connection
        self.columns = columns
        self.time_kind: TimeKind = clocks[0].kind
        self.report: dict[str, Any] = {"time_kind": self.time_kind, "time_unit": clocks[0].unit}
        reason = (
            "CASE WHEN \"user\" IS NULL OR trim(\"user\") = '' THEN 'missing user' "
            f"WHEN item IS NULL OR trim(item) = '' THEN 'missing item' ELSE {clocks[0].refusal} END"
        )
        label = "TRY_CAST(label AS FLOAT)"
        connection.execute(
            f"CREATE VIEW checked AS SELECT *, rowid AS row, {clocks[0].value} AS tick, {label} AS value, "
            f"{reason} AS reason FROM raw"
        )
        self.users = self._encode("user")
        self.items = self._encode("item")
        self.behaviours = tuple(self._encode("behaviour").ids(range(1, self._encoded + 1))) if columns.behaviour else ()
        self.context_values = {name: self._encode(f"c{i}") for i, name in enumerate(columns.context)}
        coded = ["behaviour"] * bool(columns.behaviour) + [f"c{i}" for i in range(len(columns.context))]
        connection.execute(
            'CREATE TABLE events AS SELECT code_user.k AS "user", code_item.k AS item, '
            "tick AS time, value AS label, part, row"
            + "".join(f", coalesce(code_{name}.k, 0) AS {name}" for name in coded)
            + ' FROM checked JOIN code_user ON code_user.id = checked."user" JOIN code_item ON code_item.id = checked.item'
            + "".join(f" LEFT JOIN code_{name} ON code_{name}.id = checked.{name}" for name in coded)
            + " WHERE reason IS NULL"
        )
        connection.execute("DROP VIEW checked; DROP TABLE raw")

    @classmethod
    def read(cls, source: pa.Table, columns: Columns, *, time_kind: TimeKind | None = None) -> EventLog:
        """Read a table (first version)."""
        connection = duckdb.connect()
        connection.execute("SET TimeZone='UTC'; SET autoinstall_known_extensions=false")
        source = source if isinstance(source, pa.Table) else pa.table(source)
        wanted = {"user": columns.user, "item": columns.item, "time": columns.time, "behaviour": columns.behaviour}
        wanted |= {"label": columns.label} | {f"c{i}": name for i, name in enumerate(columns.context)}
        for name in wanted.values():
            if name is not None and name not in source.column_names:
                raise InputError(f"no column {name!r}")
        listed = ", ".join(
            f'{f"""CAST("{c}" AS VARCHAR)""" if c else "NULL::VARCHAR"} AS "{n}"' for n, c in wanted.items()
        )
        connection.register("given", source)
        connection.execute(f"CREATE TABLE raw AS SELECT {listed}, NULL::UTINYINT AS part FROM given")
        connection.unregister("given")
        if columns.time is None:
            clock = Clock("order", "row", declared=True) if time_kind == "order" else Clock("none", "")
        else:
            clock = detect(connection.execute(f"SELECT {survey()} FROM raw").fetchall()[0], time_kind, "table")
        return cls(connection, columns, [clock])

    def _encode(self, name: str) -> Vocabulary:
        self.connection.execute(
            f'CREATE TABLE code_{name} AS SELECT "{name}" AS id, row_number() OVER (ORDER BY min(row))::INTEGER AS k '
            f'FROM checked WHERE reason IS NULL AND "{name}" IS NOT NULL GROUP BY "{name}"'
        )
        found = self.connection.sql(f"SELECT id FROM code_{name} ORDER BY k").to_arrow_table()
        self._encoded = found.num_rows
        return Vocabulary(found.column("id"))
