"""Which rows cannot be used, and why: counted by reason, with the numbers under which a person finds the first ones."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from regard.data.read import SHOWN, Input
from regard.data.sources import Source
from regard.data.sql import blank, name, run
from regard.data.times import Clock, Survey, TimeKind, choose
from regard.errors import InputError

LABEL = "coalesce(TRY_CAST(label AS FLOAT), TRY_CAST(label AS BOOLEAN)::FLOAT)"
_MALFORMED = "malformed line"


@dataclass(frozen=True)
class Piece:
    """One input in the table `raw`: its rows have the ids `first` to `first + rows - 1`."""

    input: Input
    source: int
    first: int
    rows: int
    malformed: int


Report = dict[str, Any]


def check(
    connection: duckdb.DuckDBPyConnection,
    sources: Sequence[Source],
    pieces: Sequence[Piece],
    time_kind: TimeKind | None,
) -> tuple[list[Clock], Report]:
    """Choose how each source's times are read, delete the rows that cannot be used, and report them."""
    read = sum(piece.rows + piece.malformed for piece in pieces)
    shown = ", ".join(dict.fromkeys(piece.input.shown for piece in pieces[:3]))
    if not read:
        raise InputError(f"{shown}: there are no rows, only a header at most")
    clocks = _clocks(connection, sources, pieces, time_kind)
    refused = _refused(connection, clocks, pieces)
    kept = read - sum(entry["count"] for entry in refused.values())
    if not kept:
        raise InputError(f"{shown}: none of {read:,} rows can be used: {_in_words(refused)}")
    if refused:
        run(connection, f"DELETE FROM raw WHERE {_reason(clocks)} IS NOT NULL", "the events")
    facts = [piece.input.facts() for piece in pieces]
    known = {key: ", ".join(dict.fromkeys(str(one[key]) for one in facts if key in one)) for key in _FACTS}
    report = {
        "rows_read": read,
        "rows_kept": kept,
        "refused": refused,
        "time_kind": clocks[0].kind,
        "time_unit": ", ".join(dict.fromkeys(clock.unit for clock in clocks)),
        **{key: value for key, value in known.items() if value},
    }
    return clocks, report


_FACTS = ("format", "encoding", "compression", "separator", "floats_read_as_integers")


def _clocks(
    connection: duckdb.DuckDBPyConnection, sources: Sequence[Source], pieces: Sequence[Piece], declared: TimeKind | None
) -> list[Clock]:
    timed = [source.columns.time is not None for source in sources]
    if not any(timed) or declared == "none":
        if declared == "timestamp":
            raise InputError("time kind 'timestamp' was asked for, but no time column is given")
        clock = Clock("order", "row", declared=True) if declared == "order" else Clock("none", "")
        return [clock] * len(sources)
    names = {piece.source: piece.input.shown for piece in reversed(pieces)}
    if not all(timed):
        raise InputError(f"{names[timed.index(False)]}: no time column is given, while other sources have one")
    surveys = {source: Survey(*counts) for source, *counts in run(connection, Survey.SQL, "the times").fetchall()}
    clocks = [
        choose(surveys.get(at, Survey()), declared, f"{names[at]}, column {source.columns.time!r}")
        for at, source in enumerate(sources)
    ]
    for at, clock in enumerate(clocks):
        if clock.kind != clocks[0].kind:
            raise InputError(
                f"{names[0]} has times of kind {clocks[0].kind!r}, {names[at]} of kind {clock.kind!r}; "
                "state the time kind, or leave the time out"
            )
    return clocks


def _reason(clocks: Sequence[Clock]) -> str:
    """SQL of the first reason why a row of `raw` cannot be used, or NULL."""
    time = " ".join(f"WHEN {at} THEN {clock.refusal}" for at, clock in enumerate(clocks))
    label = f"label IS NOT NULL AND NOT coalesce(isfinite({LABEL}), false)"
    return (
        f"CASE WHEN broken THEN '{_MALFORMED}' "
        f"WHEN {blank(name('user'))} THEN 'missing user' WHEN {blank('item')} THEN 'missing item' "
        f"ELSE coalesce(CASE source {time} END, CASE WHEN {label} THEN 'unparsable label' END) END"
    )


def _refused(connection: duckdb.DuckDBPyConnection, clocks: Sequence[Clock], pieces: Sequence[Piece]) -> Report:
    """Count refused rows by reason; `first_rows` are numbers, with the file's name where there are several."""
    query = (
        f"SELECT reason, count(*), min(row, {SHOWN}) FROM (SELECT rowid AS row, {_reason(clocks)} AS reason FROM raw) "
        "WHERE reason IS NOT NULL GROUP BY reason"
    )
    counts: dict[str, int] = {}
    rows: dict[str, list[int]] = {}
    for reason, count, first in run(connection, query, "the events").fetchall():
        counts[reason], rows[reason] = count, first
    malformed = sum(piece.malformed for piece in pieces)
    if malformed:
        counts[_MALFORMED] = counts.get(_MALFORMED, 0) + malformed
    found = _numbers(pieces, rows)
    ordered = sorted(counts, key=lambda reason: (-counts[reason], reason))
    return {reason: {"count": counts[reason], "first_rows": found[reason]} for reason in ordered}


def _numbers(pieces: Sequence[Piece], rows: dict[str, list[int]]) -> dict[str, list[int | str]]:
    """Turn row ids into numbers within their inputs; each input is walked through at most once."""
    by_piece: dict[int, list[tuple[str, int]]] = defaultdict(list)
    starts = [piece.first for piece in pieces]
    for reason, ids in rows.items():
        for row in ids:
            at = bisect.bisect_right(starts, row) - 1
            by_piece[at].append((reason, row - starts[at]))
    found: dict[str, list[int | str]] = defaultdict(list)
    for at, piece in enumerate(pieces):
        asked = by_piece.get(at, [])
        if not asked and not (piece.malformed and len(found[_MALFORMED]) < SHOWN):
            continue
        numbers, malformed = piece.input.numbers([row for _, row in asked])
        pairs = [(reason, number) for (reason, _), number in zip(asked, numbers, strict=True)]
        for reason, number in sorted(pairs + [(_MALFORMED, number) for number in malformed], key=lambda pair: pair[1]):
            found[reason].append(number if len(pieces) == 1 else f"{piece.input.shown}:{number}")
    return {reason: numbers[:SHOWN] for reason, numbers in found.items()}


def _in_words(refused: Report) -> str:
    return "; ".join(
        f"{entry['count']:,} {reason} (first: {', '.join(str(number) for number in entry['first_rows'][:3])})"
        for reason, entry in refused.items()
    )
