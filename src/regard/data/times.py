"""What a time column means: dates that all users share, an order within a user, or nothing.

`timestamp`: ISO dates, or numbers that are dates of 1990-2100 in s, ms, us or ns; stored as microseconds since 1970.
`order`: any other integers; comparable only within a user. `none`: no time column.
The kind and unit are those of a source's whole column; a value that does not fit them is refused, never reinterpreted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from regard.data.sql import blank
from regard.errors import InputError

TimeKind = Literal["timestamp", "order", "none"]
KINDS: tuple[TimeKind, ...] = ("timestamp", "order", "none")

_YEAR_1900, _YEAR_1990, _YEAR_2100, _YEAR_2200 = -2_208_988_800, 631_152_000, 4_102_444_800, 7_258_118_400
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_ENOUGH = 0.5  # a column whose numbers are dates in one unit for more than this share is taken for dates

# A double carries 0.5 us at dates of this century, so seconds with six decimals survive; whole numbers go by BIGINT.
_NUMBER = "TRY_CAST(time AS DOUBLE)"
_WHOLE = "TRY_CAST(time AS BIGINT)"
_STAMP = "epoch_us(TRY_CAST(time AS TIMESTAMPTZ))"


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
        """SQL of the stored BIGINT; meaningless where `refusal` is not NULL."""
        return {
            "": "NULL::BIGINT",
            "row": "raw.rowid::BIGINT",
            "iso": _STAMP,
            "integer": _WHOLE,
            "s": f"TRY_CAST(round({_NUMBER} * 1e6) AS BIGINT)",
            "ms": f"TRY_CAST(round({_NUMBER} * 1e3) AS BIGINT)",
            "us": _WHOLE,
            "ns": f"{_WHOLE} // 1000",
        }[self.unit]

    @property
    def refusal(self) -> str:
        """SQL of the reason why a row's time is refused; NULL where it is good."""
        if self.unit in ("", "row"):
            return "NULL"
        read, scale = (_STAMP, 10**6) if self.unit == "iso" else (_NUMBER, _PER_SECOND.get(self.unit, 1))
        cases = [f"WHEN {blank('time')} THEN 'missing time'"]
        cases += [f"WHEN {read} IS NULL THEN 'unparsable time'"]
        if self.unit == "integer":
            cases += [f"WHEN {_WHOLE} IS NULL OR {read} <> trunc({read}) THEN 'unparsable time'"]
        else:
            first, end = (_YEAR_1900, _YEAR_2200) if self.unit == "iso" or self.declared else (_YEAR_1990, _YEAR_2100)
            cases += [f"WHEN isnan({read}::DOUBLE) THEN 'unparsable time'"] if self.unit != "iso" else []
            cases += [f"WHEN {read} < {first * scale} OR {read} >= {end * scale} THEN 'time out of range'"]
        return f"CASE {' '.join(cases)} END"


@dataclass(frozen=True)
class Survey:
    """Counts over one source's time column, from which its clock is chosen."""

    values: int = 0
    numbers: int = 0
    whole: int = 0
    dates: int = 0
    size: float | None = None
    in_unit: tuple[int, ...] = (0, 0, 0, 0)

    SQL: ClassVar[str] = (
        "SELECT source, count(*) FILTER (given), count(n), count(*) FILTER (n = trunc(n)), count(stamp), avg(abs(n)), ["
        + ", ".join(
            f"count(*) FILTER (n >= {_YEAR_1990 * scale} AND n < {_YEAR_2100 * scale})"
            for scale in _PER_SECOND.values()
        )
        + f"] FROM (SELECT source, NOT {blank('time')} AS given, "
        f"CASE WHEN isfinite({_NUMBER}) THEN {_NUMBER} END AS n, "
        f"CASE WHEN {_NUMBER} IS NULL THEN TRY_CAST(time AS TIMESTAMPTZ) END AS stamp FROM raw) GROUP BY source"
    )


def choose(survey: Survey, declared: TimeKind | None, where: str) -> Clock:
    """Choose the clock of one source; `declared` overrules the detected kind, never the values."""
    if declared == "none":
        return Clock("none", "", declared=True)
    if survey.values and not survey.numbers and not survey.dates:
        raise InputError(f"{where}: no time can be read; expected unix times, ISO 8601 dates or integers")
    if survey.dates > survey.numbers:
        return Clock(declared or "timestamp", "iso", declared is not None)
    unit, count = max(zip(_PER_SECOND, survey.in_unit, strict=True), key=lambda pair: pair[1])
    are_dates = count > _ENOUGH * survey.numbers
    if declared == "timestamp":
        return Clock("timestamp", unit if are_dates else _by_size(survey.size or 0.0), declared=True)
    if are_dates and (declared is None or survey.whole < survey.numbers):
        return Clock(declared or "timestamp", unit, declared is not None)
    return Clock("order", "integer", declared is not None)


def _by_size(size: float) -> str:
    return next((unit for unit, scale in _PER_SECOND.items() if size < _YEAR_2200 * scale), "ns")
