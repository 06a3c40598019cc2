"""The rules of splitting: where the events of each user are cut into training, validation and test.

A rule is text, `name` or `name:numbers`. Each one is a function from a `View` of the events to `Cuts`; what it needs of
the log's time stands beside it in `RULES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from regard.data.cases import Bool, Int64
from regard.errors import ProtocolError, SettingsError, nearest

DAY = 86_400_000_000  # microseconds
Note = int | float | str
VALIDATION = 0.1  # share of what is not test, where a rule does not say otherwise


class View(NamedTuple):
    """Events by position, user after user, in time order: what a rule works with."""

    start: Int64  # (n_users + 1,) first position of each user
    end: Int64
    time: Int64 | None
    target: Bool | None  # None = every event may be a target
    part: npt.NDArray[np.uint8] | None
    kind: str
    numbers: tuple[float, ...]  # of the rule
    chance: np.random.Generator


class Cuts(NamedTuple):
    """Where training and validation of each user end, (n_users + 1,) each; test is the rest."""

    train_end: Int64
    validation_end: Int64
    order: Int64 | None = None  # position -> position of the view, where a rule had to regroup a user's events
    rolling: bool = True
    notes: Mapping[str, Note] = MappingProxyType({})


def counts(mask: Bool, start: Int64, end: Int64) -> Int64:
    """Return how many of `mask` are true in each range `start:end`."""
    running = np.zeros(len(mask) + 1, np.int64)
    np.cumsum(mask, out=running[1:])
    return running[end] - running[start]


def leave_one_out(view: View) -> Cuts:
    """Cut before the last and the second-last target; users with fewer than three targets only train."""
    if view.target is None:
        found, last, second = view.end - view.start, view.end - 1, view.end - 2
    else:
        position = np.concatenate([[0, 0], np.flatnonzero(view.target)])  # two in front: any index below is valid
        found = counts(view.target, view.start, view.end)
        upto = np.cumsum(found)
        last, second = position[upto + 1], position[upto]
    enough = found >= 3
    return Cuts(np.where(enough, second, view.end), np.where(enough, last, view.end))


def by_quantile(view: View) -> Cuts:
    """Cut at the Q quantile of all times; validation is the last tenth of the events before it."""
    assert view.time is not None
    test_after = _quantile(view.time, view.numbers[0])
    return _by_time(view, _quantile(view.time[view.time <= test_after], 1 - VALIDATION), test_after)


def by_last_days(view: View) -> Cuts:
    """Keep the last N days for test, and the N days before them for validation."""
    assert view.time is not None
    length = round(min(view.numbers[0], 1e7) * DAY)  # 27,000 years stay inside 64 bits
    newest = int(view.time.max())
    return _by_time(view, newest - 2 * length, newest - length)


def by_users(view: View) -> Cuts:
    """Hold a share F of the users out whole for test, and another F for validation."""
    users = view.chance.permutation(np.flatnonzero(view.end > view.start))
    share = max(round(view.numbers[0] * len(users)), 1)
    train_end, validation_end = view.end.copy(), view.end.copy()
    train_end[users[: 2 * share]] = view.start[users[: 2 * share]]
    validation_end[users[:share]] = view.start[users[:share]]
    return Cuts(train_end, validation_end)


def by_parts(view: View) -> Cuts:
    """Take the parts as given; validation comes out of the training part.

    With timestamps it is the last tenth by time. With another order it is a tenth of the users, held out whole: drawn
    from those with at least two events in the training part, and from those without test events where they are enough,
    so that nobody's training is taken away before their test. With no order at all a user held out whole would have no
    history, so it is a tenth of the events, and histories stand still.
    """
    if view.part is None:
        raise ProtocolError(
            "split parts needs sources marked part = 'train' and part = 'test' in data.toml, but this dataset has none"
        )
    training = view.part == 0
    boundary = view.start + counts(training, view.start, view.end)
    if view.kind == "timestamp":
        assert view.time is not None
        cut = _quantile(view.time[training], 1 - VALIDATION) if training.any() else 0
        kept = view.start + counts(training & (view.time <= cut), view.start, view.end)
        return Cuts(kept, boundary, notes={"validation": "last tenth of the training part by time"})
    if view.kind == "none":
        label = np.where(training, np.uint8(0), np.uint8(2))
        rows = np.flatnonzero(training)
        label[view.chance.permutation(rows)[: round(VALIDATION * len(rows))]] = 1
        return _regrouped(view, label, {"validation": "a seeded tenth of the events of the training part"})
    length = boundary - view.start
    able = length >= 2
    share = max(round(VALIDATION * int((length > 0).sum())), 1)
    alone = able & (boundary == view.end)
    chosen = view.chance.permutation(np.flatnonzero(alone if alone.sum() >= share else able))[:share]
    train_end = boundary.copy()
    train_end[chosen] = view.start[chosen]
    return Cuts(train_end, boundary, notes={"validation": "a seeded tenth of the users of the training part"})


def at_random(view: View) -> Cuts:
    """Give every event to a part by seeded chance; a case reads the user's training events, whenever they were."""
    total = int(view.end[-1])
    first, second = (
        round(total * share / sum(view.numbers)) for share in (view.numbers[0], view.numbers[0] + view.numbers[1])
    )
    shuffled = view.chance.permutation(total)
    label = np.zeros(total, np.uint8)
    label[shuffled[first:second]] = 1
    label[shuffled[second:]] = 2
    note = "histories hold training events of any time" if view.kind != "none" else "the log has no order"
    return _regrouped(view, label, {"histories": note})


def keep_all(view: View) -> Cuts:
    """Hold nothing back."""
    return Cuts(view.end, view.end)


def _quantile(values: Int64, share: float) -> int:
    """Return the smallest value that at least `share` of `values` do not exceed."""
    index = max(math.ceil(share * len(values) - 1e-9) - 1, 0)
    return int(np.partition(values, index)[index])


def _by_time(view: View, validation_after: int, test_after: int) -> Cuts:
    assert view.time is not None
    notes = {
        "validation_after": str(np.datetime64(validation_after, "us")),
        "test_after": str(np.datetime64(test_after, "us")),
    }
    return Cuts(
        view.start + counts(view.time <= validation_after, view.start, view.end),
        view.start + counts(view.time <= test_after, view.start, view.end),
        notes=notes,
    )


def _regrouped(view: View, label: npt.NDArray[np.uint8], notes: Mapping[str, Note]) -> Cuts:
    """Put each user's events of label 0 (training) first, then 1, then 2, each in the order they had."""
    order = np.empty(len(label), np.int64)
    ends = [view.start]
    for value in range(3):
        mine = label == value
        many = counts(mine, view.start, view.end)
        first = ends[-1] - (np.cumsum(many) - many)
        order[np.arange(many.sum()) + np.repeat(first, many)] = np.flatnonzero(mine)
        ends.append(ends[-1] + many)
    return Cuts(ends[1], ends[2], order, rolling=False, notes=notes)


class Rule(NamedTuple):
    """A way to split: how it is written, which numbers it takes, which time it needs, and the function that cuts."""

    form: str
    fits: Callable[[tuple[float, ...]], bool]
    meaning: str
    needs: Literal["timestamp", "order", "none"]
    cut: Callable[[View], Cuts]


RULES = {
    "leave-one-out": Rule("leave-one-out", lambda n: not n, "", "order", leave_one_out),
    "time": Rule("time:Q", lambda n: len(n) == 1 and 0 < n[0] < 1, "0 < Q < 1", "timestamp", by_quantile),
    "last-days": Rule("last-days:N", lambda n: len(n) == 1 and n[0] > 0, "N > 0", "timestamp", by_last_days),
    "users": Rule("users:F", lambda n: len(n) == 1 and 0 < n[0] < 0.5, "0 < F < 0.5", "order", by_users),
    "parts": Rule("parts", lambda n: not n, "", "none", by_parts),
    "random": Rule(
        "random:A,B,C",
        lambda n: len(n) == 3 and n[0] > 0 and min(n) >= 0,
        "A > 0, B >= 0, C >= 0",
        "none",
        at_random,
    ),
    "none": Rule("none", lambda n: not n, "", "none", keep_all),
}
FORMS = " | ".join(rule.form for rule in RULES.values()) + " | auto"


def parsed(text: str) -> tuple[Rule, tuple[float, ...]]:
    """Read a rule, or raise `SettingsError` that names the forms."""
    name, colon, rest = text.strip().partition(":")
    if name not in RULES:
        raise SettingsError(f"data.split: {text!r} is no rule of splitting{nearest(name, RULES)}; use {FORMS}")
    rule = RULES[name]
    try:
        numbers = tuple(float(number) for number in rest.split(",")) if colon else ()
    except ValueError:
        numbers = (math.nan,)
    if not (all(map(math.isfinite, numbers)) and rule.fits(numbers)):
        meaning = f" with {rule.meaning}" if rule.meaning else ""
        raise SettingsError(f"data.split: expected {rule.form}{meaning}; got {text!r}")
    return rule, numbers


def check_time(what: str, needs: str, kind: str, instead: str = "") -> None:
    """Raise `ProtocolError` where a log of this time kind cannot answer `what`; `instead` is the way out to name."""
    if needs == "none" or kind in (needs, "timestamp"):
        return
    need = "timestamps" if needs == "timestamp" else "an order of events"
    if kind == "none":
        reason, mend = "has no time column", "--time COLUMN"
        if needs == "order":
            mend += ", or with --time-kind order if the order of its rows is meant"
        instead = instead or "split random:0.8,0.1,0.1"
    else:
        reason, mend = "has times that only order the events of one user", "--time-kind timestamp if they are dates"
        instead = instead or "split leave-one-out or users:F"
    raise ProtocolError(f"{what} needs {need}, but this log {reason}; use {instead}, or prepare it again with {mend}")
