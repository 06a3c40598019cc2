"""What is told of a request beside whose it is: the context of the moment, and when that is."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation

import torch
from torch import Tensor

from regard.data.batches import Histories
from regard.data.store import Dataset
from regard.data.vocabulary import Vocabulary
from regard.errors import InputError, nearest

Moment = int | float | str | date
"""A date: a `datetime` or ISO 8601 text, in UTC where it says no zone; or seconds, ms, us or ns since 1970."""

_BEGAN = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = 10**6
_NUMBERS = tuple((datetime(year, 1, 1, tzinfo=UTC) - _BEGAN) // timedelta(seconds=1) for year in (1990, 2100))


def codes_of(context: Mapping[str, str], known: Mapping[str, Vocabulary], notes: list[str]) -> Tensor | None:
    """Context codes (1, K) of a request; a value that training never saw is read as not given, and named.

    Raises:
        InputError: a column that is not among the known ones.
    """
    for name in context:
        if name not in known:
            reads = ", ".join(known) or "none"
            raise InputError(f"context {name!r} is not read by this run{nearest(name, known)}; it reads {reads}")
    codes = [int(values.index([str(context.get(name, ""))])[0]) for name, values in known.items()]
    for (name, _), code in zip(known.items(), codes, strict=True):
        if name in context and not code:
            notes.append(f"context: {name}={context[name]} was never seen: read as not given")
    return torch.tensor([codes]) if known else None


def moment_of(at: Moment) -> int:
    """Microseconds since 1970 of a date, read as times of a log are.

    Raises:
        InputError: it is no date.
    """
    text = at.isoformat() if isinstance(at, date) else str(at).strip()
    try:
        number = Decimal(text)
    except InvalidOperation:
        try:
            found = datetime.fromisoformat(text)
        except ValueError:
            raise _no_date(text) from None
        return ((found if found.tzinfo else found.replace(tzinfo=UTC)) - _BEGAN) // timedelta(microseconds=1)
    first, end = _NUMBERS
    for scale in (1, 10**3, 10**6, 10**9) if number.is_finite() else ():
        if first * scale <= number < end * scale:
            return int(number * _SECOND // scale)
    raise _no_date(text)


def checked_moment(at: Moment | None, reads: bool, live: bool, gap: int, notes: list[str]) -> int | None:
    """Return the moment that was told, in microseconds since 1970; None where it is to be assumed, and note that.

    Args:
        at: as it was told.
        reads: whether the model reads it.
        live: whether the history is one of items alone, whose times nobody knows.
        gap: microseconds after the last event that are assumed.
        notes: what the answer says beside its items.

    Raises:
        InputError: the moment is told where it is not read or means nothing, or is no date.
    """
    if at is None:
        if reads:
            wait = timedelta(microseconds=gap)
            notes.append(f"the moment of the request is assumed: {wait} after the last event (--at says another)")
        return None
    if not reads:
        raise InputError(
            "at (--at): this run does not read the moment of a request; leave it out, or train with "
            "model.request_time=true"
        )
    if live:
        raise InputError(
            "at (--at): a history of item ids has no times that a moment could come after; leave it out, or ask for a "
            "user of the dataset"
        )
    return moment_of(at)


def moments(histories: Histories, at: int | None, gap: int, dataset: Dataset | None) -> Tensor:
    """When each history is asked about, int64 (B,): at this moment, or `gap` after its last event.

    Raises:
        InputError: a history goes on after the moment; `dataset` gives the name of its user.
    """
    assert histories.times is not None
    full = histories.lengths > 0
    last = torch.zeros(len(histories), dtype=torch.int64)
    last[full] = histories.times[histories.offsets[1:][full] - 1]
    if at is None:
        return last + gap
    if bool((late := full & (last > at)).any()):
        row = int(late.nonzero()[0])
        who = ""
        if dataset is not None and histories.users is not None:
            who = f" of user {dataset.users.id(int(histories.users[row]))!r}"
        raise InputError(
            f"at (--at): {_said(at)} lies before the last event{who}, {_said(int(last[row]))}; expected a moment not "
            "before it"
        )
    return torch.full_like(last, at)


def _said(moment: int) -> str:
    return (_BEGAN + timedelta(microseconds=moment)).isoformat()


def _no_date(text: str) -> InputError:
    return InputError(
        "at (--at): expected a date of ISO 8601, for example 2026-03-01T18:30, or a number that is a date of 1990 to "
        f"2100 in s, ms, us or ns since 1970; got {text!r}"
    )
