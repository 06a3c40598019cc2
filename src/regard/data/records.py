"""Lines become records: a quoted value may hold line ends, and a quote that never closes must not swallow the rest."""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Iterator
from typing import Literal

_LONGEST = 1000  # lines that one record may span before its quote counts as stray


def records(lines: Iterator[str], separator: str) -> Iterator[tuple[int, list[str] | None]]:
    """Yield each record's first line number (from 1) and its lines, or None for a line whose quote never closes."""
    opening = re.compile(f'(?:^|{re.escape(separator)}) *"')
    waiting: deque[str] = deque()
    number = 1
    while True:
        line = waiting.popleft() if waiting else next(lines, None)
        if line is None:
            return
        size: int | None = 1
        if '"' in line and _state(line, "outside", opening, separator) == "inside":
            waiting.extend(itertools.islice(lines, max(0, _LONGEST - len(waiting))))
            size = _closing(waiting, opening, separator)
        yield number, None if size is None else [line, *(waiting.popleft() for _ in range(size - 1))]
        number += size or 1


_State = Literal["outside", "inside", "broken"]


def _closing(lines: deque[str], opening: re.Pattern[str], separator: str) -> int | None:
    """Return how many lines a record has whose first line left a quote open, or None where it is not closed well."""
    state: _State = "inside"
    for count, line in enumerate(lines, start=2):
        if '"' in line:
            state = _state(line, state, opening, separator)
        if state != "inside":
            return count if state == "outside" else None
    return None


def _state(line: str, state: _State, opening: re.Pattern[str], separator: str) -> _State:
    """Return where a line ends: inside a quoted value or outside; broken where text follows a closing quote."""
    at = 0
    while True:
        if state == "outside":
            start = opening.search(line, at)
            if start is None:
                return "outside"
            at = start.end()
        at = line.find('"', at)
        if at < 0:
            return "inside"
        state = "inside"
        if line.startswith('""', at):
            at += 2
            continue
        at += 1
        after = line[at:].lstrip(" ")
        if after and not after.startswith(separator):
            return "broken"
        state = "outside"
