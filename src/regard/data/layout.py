"""Lines become named fields: the separator, the quotes and the header of a text file are found in its first lines."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from regard.data.guess import names_ids
from regard.data.records import records
from regard.data.text import Text
from regard.errors import InputError

_SEPARATORS = ("\t", ",", ";", "|", "::", "\x01", "\x1f")
_NAMES = {"\t": "tab", " ": "space", "\x01": "\\x01", "\x1f": "\\x1f"}
_SAMPLE = 1 << 17  # characters
_REGULAR = 0.5  # more than this share of lines must have equally many fields for a separator to be believed


@dataclass(frozen=True)
class Layout:
    """How the fields of a text file lie: `names` are those of the header, or "1", "2", … without one.

    `skip`: records before the first row of data, blank ones counted.
    """

    kind: Literal["delimited", "json"]
    names: tuple[str, ...]
    separator: str = ""
    quoted: bool = False
    skip: int = 0

    @property
    def separator_name(self) -> str:
        """The separator as a person would say it."""
        return _NAMES.get(self.separator, self.separator)


def find_layout(
    text: Text, separator: str | None, *, header: bool, wanted: Sequence[str], table: bool = False
) -> Layout:
    """Find the layout of a file; columns that are `wanted` by name help to tell the separator.

    A `table` of items or users may have a single column, where its header says that it holds ids.
    """
    lines = text.head(_SAMPLE)
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise InputError(f"{text.path} is empty")
    if str(text.path).endswith(".toml"):
        raise InputError(f"{text.path} is no log; where it says what is read and how, give it by --config")
    if not separator and first.lstrip()[0] in "{[":
        return _json_layout(text, lines, first)
    if table and header and not separator and ((only := first.strip().strip('"')) in wanted or names_ids(only)):
        separator = ","
    separator = _checked(separator) if separator else _separator(text, lines, wanted if header else ())
    quoted = _is_quoted(text, lines, separator)
    rows = _rows(lines, separator, quoted)
    if not header:
        width = Counter(len(row) for _, row in rows).most_common(1)[0][0]
        return Layout("delimited", tuple(str(n) for n in range(1, width + 1)), separator, quoted)
    skip, names = rows[0]
    return Layout("delimited", tuple(name.strip() for name in names), separator, quoted, skip)


def _checked(separator: str) -> str:
    """Return a given separator; backslash t means a tab, as shells make that hard to type."""
    separator = "\t" if separator == "\\t" else separator
    if len(separator.encode()) > 4 or set(separator) & set('"\r\n'):
        raise InputError(f"expected a separator of one to four bytes without quotes or line ends; got {separator!r}")
    return separator


def _json_layout(text: Text, lines: list[str], first: str) -> Layout:
    if first.lstrip()[0] == "[":
        raise InputError(f"{text.path} holds a JSON array; expected JSON lines, one object {{…}} a line")
    names: dict[str, None] = {}
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            names |= dict.fromkeys(row)
    if not names:
        raise InputError(f"{text.path}: no line is a JSON object; expected one object {{…}} a line")
    return Layout("json", tuple(names))


def _separator(text: Text, lines: list[str], wanted: Sequence[str]) -> str:
    """Choose the separator that cuts the most lines into equally many fields; a space only where no other does."""
    for separators in (_SEPARATORS, (" ",)):
        trust = {one: _trust(text, lines, one, wanted) for one in separators}
        best = max(separators, key=lambda one: trust[one])
        if trust[best]:
            return best
    shown = lines[0] if len(lines[0]) <= 60 else lines[0][:60] + "…"
    raise InputError(f"{text.path}: cannot tell what separates its columns; give the separator (line 1: {shown!r})")


def _trust(text: Text, lines: list[str], separator: str, wanted: Sequence[str]) -> float:
    """Return the share of lines with the most frequent width, plus one for every wanted name in the header; or 0."""
    rows = [row for _, row in _rows(lines, separator, _is_quoted(text, lines, separator))]
    if not rows:
        return 0.0
    width, count = Counter(map(len, rows)).most_common(1)[0]
    named = sum(name in rows[0] for name in wanted) if len(rows[0]) > 1 else 0
    regular = width > 1 and count > _REGULAR * len(rows)
    return named + count / len(rows) if named or regular else 0.0


def _is_quoted(text: Text, lines: list[str], separator: str) -> bool:
    """Whether `"` encloses values. Only comma-like formats are sure to mean that; elsewhere it must look so."""
    if not text.quotes:
        return False
    if separator in (",", ";"):
        return True
    fields = [field.strip(" ") for line in lines if '"' in line for field in line.split(separator)]
    opened = [field for field in fields if field.startswith('"')]
    return bool(opened) and all(len(field) > 1 and field.endswith('"') for field in opened)


def _rows(lines: list[str], separator: str, quoted: bool) -> list[tuple[int, list[str]]]:
    """Return (records so far, fields) for every record that is not blank."""
    if not quoted:
        return [(n, line.split(separator)) for n, line in enumerate(lines, start=1) if line.strip("\r")]
    rows = []
    for n, (_, record) in enumerate(records(iter(lines), separator), start=1):
        if record is None or record == [""]:
            continue
        rows.append((n, _fields("\n".join(record), separator)))
    return rows


def _fields(record: str, separator: str) -> list[str]:
    if '"' not in record:
        return record.split(separator)
    single = separator if len(separator) == 1 else "\x1f"
    try:
        return next(csv.reader([record.replace(separator, single)], delimiter=single, skipinitialspace=True))
    except csv.Error:
        return record.split(separator)
