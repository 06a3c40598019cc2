"""The rules by which people of the sample shop choose, and the oracle that knows them.

The generator draws from these rules and the oracle reads probabilities off them, so the oracle's scores are the exact
chances of every next item: given the history, the moment, the context and the person's hidden taste, no recommender can
do better in expectation. In plain words, one step of a person goes like this:

1. *Calls.* A popular main item (a camera) that they bought, not merely viewed or put in the cart, calls for three
   accessories, one kind after the other: days later for a memory card, then for a lens filter, then for a bag. A call
   ripens, stays, fades, and is gone after some weeks. Two items of the kind fit, the first better than the second; the
   call is over when the person meets one of the two after the purchase. All calls together weigh W.
2. With probability W / (1 + W) one of the fitting items is taken, each in proportion to its weight: the event is
   *caused*, and the purchase that called is its cause.
3. Otherwise the person *browses*: within a visit they sometimes stay in the category of their last event; else the
   category follows their taste (which moves on between worlds every few weeks), its size, and the context: every world
   has its daypart and its device. Within a category they pick by popularity, and never an item they have met before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from regard.errors import InputError

DAY_US = 86_400_000_000
VISIT_GAP_US = 30 * 60_000_000  # a longer pause ends a visit
DEVICES = ("mobile", "desktop", "tablet")
DAYPARTS = ("morning", "afternoon", "evening")  # hours 0-11, 12-17, 18-23

Floats = NDArray[np.float64]


@dataclass
class Past:
    """What a person's history leaves behind for their next step: kept up event by event."""

    met: NDArray[np.int64]  # (n_items,) position at which each item was met, -1 where not yet
    purchases: list[tuple[int, int, int]] = field(default_factory=list)  # (position in the history, item, time)
    length: int = 0
    last_item: int = -1
    last_time: int = 0

    def add(self, item: int, time: int, bought: bool) -> None:
        """Append one event: `item` index, `time` in microseconds."""
        if bought:
            self.purchases.append((self.length, item, time))
        self.met[item] = self.length
        self.length += 1
        self.last_item, self.last_time = item, time


@dataclass(frozen=True)
class Need:
    """An item that the purchase at `position` of the history calls for, and how strongly."""

    position: int
    item: int
    weight: float


@dataclass(frozen=True)
class Call:
    """What a bought item calls for: one of `answers`, (item, weight) pairs, `delay` days later than its first call."""

    delay: float
    answers: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Rules:
    """The shop's fixed facts; items, categories and worlds are counted from 0.

    category (n_items,): category of each item. share (n_items,): its popularity within the category, adding up to 1.
    size (n_categories,): how much a category is visited. world (n_categories,): its world. context (n_categories,
    dayparts, devices): factors on the size. calls: for each item what it calls for when bought. ripening: days after
    which a call starts, is full, begins to fade, is gone. stay: probability that a person stays in the category of the
    last event within a visit.
    """

    category: NDArray[np.int64]
    share: Floats
    size: Floats
    world: NDArray[np.int64]
    context: Floats
    calls: tuple[tuple[Call, ...], ...]
    ripening: tuple[float, float, float, float]
    stay: float

    def nothing_yet(self) -> Past:
        """Return the past of a person without events."""
        return Past(np.full(len(self.category), -1, dtype=np.int64))

    def needs(self, past: Past, now: int) -> list[Need]:
        """Return the answers to all calls that are open at time `now` (microseconds)."""
        start, full, fading, gone = self.ripening
        found = []
        for position, bought, time in past.purchases:
            for call in self.calls[bought]:
                age = (now - time) / DAY_US - call.delay
                if not start < age < gone or any(past.met[item] > position for item, _ in call.answers):
                    continue
                ripe = min(1.0, (age - start) / (full - start), (gone - age) / (gone - fading))
                found += [Need(position, item, weight * ripe) for item, weight in call.answers if past.met[item] < 0]
        return found

    def browsing(self, past: Past, now: int, taste: Floats, context: tuple[int, int]) -> Floats:
        """Return the probability (n_items,) of each item when the person browses.

        `taste` (n_worlds,) is the person's taste at `now`; `context` is (daypart, device) as indexes.
        """
        category = self.size * taste[self.world] * self.context[:, context[0], context[1]]
        category /= category.sum()
        if past.length and now - past.last_time <= VISIT_GAP_US:
            category *= 1.0 - self.stay
            category[self.category[past.last_item]] += self.stay
        item = category[self.category] * self.share
        item[past.met >= 0] = 0.0
        total = item.sum()
        return item / total if total > 0.0 else item


@dataclass(frozen=True)
class Tastes:
    """The hidden taste of every user: `taste[phase]` (n_worlds,) holds from `starts[phase]` (microseconds) on."""

    starts: dict[str, NDArray[np.int64]]
    phases: dict[str, Floats]

    def at(self, user: str, now: int) -> Floats:
        """Return the taste (n_worlds,) of `user` at time `now`; it adds up to 1. Raises InputError for a stranger."""
        if user not in self.starts:
            raise InputError(f"the sample shop has no user {user!r}; its users look like {next(iter(self.starts))!r}")
        phase = int(np.searchsorted(self.starts[user], now, side="right")) - 1
        taste: Floats = self.phases[user][max(phase, 0)]
        return taste


def context_indexes(hour: int, device: str) -> tuple[int, int]:
    """Return (daypart, device) as indexes; InputError for an hour outside 0-23 or a device the shop does not know."""
    if not 0 <= hour <= 23 or device not in DEVICES:
        raise InputError(f"expected an hour of 0-23 and one of the devices {DEVICES}, got {hour!r} and {device!r}")
    return (0 if hour < 12 else 1 if hour < 18 else 2), DEVICES.index(device)


@dataclass(frozen=True)
class Oracle:
    """Knows the rules and every user's hidden taste; answers for any history in the shop's own ids."""

    rules: Rules
    tastes: Tastes
    index: dict[str, int]

    def scores(
        self,
        user: str,
        items: Sequence[str],
        times_us: Sequence[int] | NDArray[np.int64],
        behaviours: Sequence[str],
        now_us: int,
        hour: int,
        device: str,
    ) -> Floats:
        """Return the probability (n_items,) that each item is the next event's, aligned to the item table.

        `items`, `times_us` and `behaviours` are the history, oldest first; items the user has met get probability 0.
        """
        past = self._past(items, times_us, behaviours)
        taste = self.tastes.at(user, now_us)
        chances = self.rules.browsing(past, now_us, taste, context_indexes(hour, device))
        needs = self.rules.needs(past, now_us)
        for need in needs:
            chances[need.item] += need.weight
        return chances / (1.0 + sum(need.weight for need in needs))

    def cause_probabilities(
        self,
        user: str,
        items: Sequence[str],
        times_us: Sequence[int] | NDArray[np.int64],
        behaviours: Sequence[str],
        now_us: int,
        hour: int,
        device: str,
        next_item: str,
    ) -> Floats:
        """Return the probability (len(items),) that each past event caused the next one, given that it is `next_item`.

        What is missing to 1 is the probability that nothing caused it. All zero for an item the user has met already.
        """
        past = self._past(items, times_us, behaviours)
        taste = self.tastes.at(user, now_us)
        target = self._item(next_item)
        calls = np.zeros(len(items))
        for need in self.rules.needs(past, now_us):
            if need.item == target:
                calls[need.position] += need.weight
        browsing = self.rules.browsing(past, now_us, taste, context_indexes(hour, device))[target]
        total = browsing + calls.sum()
        return calls / total if total > 0.0 else calls

    def _past(
        self, items: Sequence[str], times_us: Sequence[int] | NDArray[np.int64], behaviours: Sequence[str]
    ) -> Past:
        past = self.rules.nothing_yet()
        for item, time, behaviour in zip(items, times_us, behaviours, strict=True):
            past.add(self._item(item), int(time), behaviour == "purchase")
        return past

    def _item(self, item: str) -> int:
        if item not in self.index:
            raise InputError(f"the sample shop has no item {item!r}; its items look like {next(iter(self.index))!r}")
        return self.index[item]
