"""What a time column means: dates that all users share, an order within a user, or nothing.

`timestamp`: ISO dates, or numbers that are dates of 1990-2100 in s, ms, us or ns; stored as microseconds since 1970.
`order`: any other integers; comparable only within a user. `none`: no time column.
The kind and unit are those of a source's whole column; a value that does not fit them is refused, never reinterpreted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from regard.errors import InputError

TimeKind = Literal["timestamp", "order", "none"]
KINDS: tuple[TimeKind, ...] = ("timestamp", "order", "none")

_YEAR_1900, _YEAR_1990, _YEAR_2100, _YEAR_2200 = -2_208_988_800, 631_152_000, 4_102_444_800, 7_258_118_400
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_ENOUGH = 0.5  # a column whose numbers are dates in one unit for more than this share is taken for dates

_NUMBER = "TRY_CAST(time AS DECIMAL(28, 9))"
_STAMP = "CASE WHEN ltrim(time)[1] BETWEEN '0' AND '9' THEN epoch_us(TRY_CAST(time AS TIMESTAMPTZ)) END"


@dataclass(frozen=True)
class Clock:
    """How the times of one source are read: SQL over the text column `time`.

    `unit`: s, ms, us, ns (numbers since 1970), iso (dates as text), integer, row (position in the file), or empty.
    """

    kind: TimeKind
    unit: str
    declared: bool = False

    @property
    def value(self) -> str:
        """SQL of the stored BIGINT; NULL where `refusal` is not."""
        if self.kind == "none":
            return "NULL::BIGINT"
        if self.unit == "row":
            return "rowid::BIGINT"
        if self.unit == "iso":
            return _STAMP
        if self.unit == "integer":
            return f"TRY_CAST({_NUMBER} AS BIGINT)"
        scaled = {"s": "* 1000000", "ms": "* 1000", "us": "", "ns": "/ 1000"}[self.unit]
        whole = "floor" if self.unit == "ns" else "round"
        return f"TRY_CAST({whole}({_NUMBER} {scaled}) AS BIGINT)"

    @property
    def refusal(self) -> str:
        """SQL of the reason why a row's time is refused; NULL where it is good."""
        if self.kind == "none" or self.unit == "row":
            return "NULL"
        missing = "WHEN time IS NULL OR trim(time) = '' THEN 'missing time'"
        if self.unit == "integer":
            wrong = f"{_NUMBER} IS NULL OR {_NUMBER} <> trunc({_NUMBER})"
            return f"CASE {missing} WHEN {wrong} THEN 'unparsable time' END"
        parsed, scale = (_STAMP, 10**6) if self.unit == "iso" else (_NUMBER, _PER_SECOND[self.unit])
        wide = self.unit == "iso" or self.declared
        first, end = (_YEAR_1900, _YEAR_2200) if wide else (_YEAR_1990, _YEAR_2100)
        outside = f"{parsed} < {first * scale} OR {parsed} >= {end * scale}"
        return (
            f"CASE {missing} WHEN {parsed} IS NULL THEN 'unparsable time' WHEN {outside} THEN 'time out of range' END"
        )


def survey() -> str:
    """SQL select list that `detect` reads: counts of values, numbers, whole numbers, dates; numbers by date unit."""
    units = (
        f"count(*) FILTER ({_NUMBER} >= {_YEAR_1990 * scale} AND {_NUMBER} < {_YEAR_2100 * scale})"
        for scale in _PER_SECOND.values()
    )
    whole = f"count(*) FILTER ({_NUMBER} = trunc({_NUMBER}))"
    dates = f"count({_STAMP})"
    return ", ".join(
        ["count(nullif(trim(time), ''))", f"count({_NUMBER})", whole, dates, f"median(abs({_NUMBER}))::DOUBLE", *units]
    )


def detect(found: tuple[float, ...], declared: TimeKind | None, where: str) -> Clock:
    """Choose the clock of one source's time column from its `survey`; `declared` overrules the detected kind."""
    values, numbers, whole, dates, median, *in_unit = (value or 0 for value in found)
    if declared == "none":
        return Clock("none", "", declared=True)
    if values and not numbers and not dates:
        raise InputError(
            f"{where}: no value of the time column can be read; expected unix times, ISO dates or integers"
        )
    if dates > numbers:
        return Clock(declared or "timestamp", "iso", declared is not None)
    unit, count = max(zip(_PER_SECOND, in_unit, strict=True), key=lambda pair: pair[1])
    are_dates = numbers > 0 and count > _ENOUGH * numbers
    if declared == "timestamp":
        return Clock("timestamp", unit if are_dates else _by_size(median), declared=True)
    if are_dates and (declared is None or whole < numbers):
        return Clock(declared or "timestamp", unit, declared is not None)
    return Clock("order", "integer", declared is not None)


def _by_size(median: float) -> str:
    """Return the unit in which the middle value lies nearest to today's dates."""
    return next((unit for unit, scale in _PER_SECOND.items() if median < _YEAR_2200 * scale), "ns")
