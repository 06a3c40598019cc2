"""Everything that can go wrong in a way the user can mend.

    RegardError              catch this one to catch them all
    ├── InputError           a file, a table, an id or a flag that cannot be used
    ├── SettingsError        a setting that does not exist or has a wrong value
    ├── ProtocolError        the log cannot answer what was asked (no timestamps, no order, no test events)
    ├── StorageError         a folder that is not what it should be, is damaged, or could not be written
    └── DivergenceError      training produced numbers that are not finite

A message says what was expected, what came, where, and what to do. Our own broken invariants are `assert`s, not these.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RegardError(Exception):
    """Base of all errors that `regard` raises on purpose; the command line prints it as one line and exits with 2."""


class InputError(RegardError):
    """A file, table, id or flag that cannot be used."""


class SettingsError(RegardError):
    """A setting that does not exist or whose value does not fit."""


class ProtocolError(RegardError):
    """The log cannot answer what was asked of it, for example a time split of a log without timestamps."""


class StorageError(RegardError):
    """A dataset, run or file that is missing, damaged, of another kind, or could not be written."""


class DivergenceError(RegardError):
    """Training produced a loss or weights that are not finite."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `" (did you mean 'x'?)"` for the known word closest to `word`, or `""` if none is close."""
    options = list(known)
    by_fold = {option.casefold(): option for option in options}
    close = difflib.get_close_matches(word.casefold(), list(by_fold), n=1, cutoff=0.5)
    return f" (did you mean {by_fold[close[0]]!r}?)" if close else ""
