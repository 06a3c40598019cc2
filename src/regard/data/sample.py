"""The embedded sample: a small shop whose customers do things for reasons that are known.

No files and no downloads: `make_shop(seed)` draws about 1,500 people, 600 items and 60,000 events over 120 days, the
same on every machine. People come back every day or two for a short visit, look at things, put some in the cart, buy
some. Two stories run through it:

- **Taste.** A person is at any time taken by one of six worlds (photography, camping, …) more than by the others, and
  after some weeks by another.
- **Causes.** Whoever *buys* one of the eight most popular cameras comes back days later for one of *its* memory cards,
  then for its lens filter and its bag, and not for those of the cameras that they only looked at. So the right answer
  lies in one particular earlier event, several days and unrelated events ago, beside decoys of the same category. The
  same holds for tents, coffee makers, running shoes, guitars and printers.

Nobody meets an item twice: the log has one line per person and item, with how far it went (view, cart, purchase).
`oracle.py` tells the rules of a single step; here they are set up and drawn from. For every event that was caused the
row of its cause is kept, and the oracle knows the exact chance of every next item.

Only comparisons, sums, products and quotients of uniform draws are used: no machine's mathematics library can change
the shop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from regard.data.oracle import DAY_US, DAYPARTS, DEVICES, Call, Floats, Oracle, Past, Rules, Tastes, context_indexes
from regard.data.shelf import CATEGORIES, ITEMS_PER_CATEGORY, WORLDS, item_ids, item_table, user_ids
from regard.errors import SettingsError

BEHAVIOURS = ("view", "cart", "purchase")
FIRST_DAY_US = 1_735_689_600_000_000  # 2025-01-01 00:00 UTC
_MINUTE_US = 60_000_000


@dataclass(frozen=True)
class ShopParameters:
    """All dials of the shop. Pairs named "least and most" are the ends of what is drawn; times are in days."""

    days: int = 120
    """Length of the log."""
    events: tuple[int, int] = (24, 90)
    """Events of a person, least and most; the less the more common."""
    visit_goes_on: float = 0.35
    """Probability that a visit has another event."""
    away: tuple[float, float] = (0.6, 1.8)
    """Typical time between visits of the busiest and of the laziest person, beside the one day that is always there."""
    passion: float = 0.55
    """Share of a person's taste that goes to the world of the moment; the rest goes to lasting likings."""
    phase: tuple[int, int] = (10, 30)
    """How long one world is the world of the moment, least and most."""
    stay: float = 0.15
    """Probability of staying in the last event's category when browsing within a visit."""
    flatness: float = 5.0
    """Popularity within a category is 1 / (rank + flatness)."""
    accessory_size: float = 0.1
    """How much accessory categories are browsed, beside 1 for main ones."""
    context: float = 1.0
    """A world is visited 1 + context times as much at its daypart, and as much again on its device."""
    callers: int = 8
    """How many items of each main category, the most popular ones, call for accessories when bought."""
    answers: tuple[float, ...] = (1.8, 1.2)
    """Weights of the items that answer a call, beside 1 for all browsing."""
    ripening: tuple[float, float, float, float] = (2.5, 4.0, 8.0, 16.0)
    """Time after a purchase when its first call starts, is full, begins to fade, is gone."""
    stagger: float = 5.0
    """How much later the second call is than the first, and the third than the second."""
    buys: tuple[tuple[float, float], ...] = ((0.15, 0.4), (0.15, 0.15), (0.15, 0.6))
    """Probability of (cart, purchase): of a main item browsed, an accessory browsed, and an item called for."""


@dataclass(frozen=True)
class Shop:
    """The sample: what a shop would know, and beside it what only its maker knows.

    events: user, item, time (timestamp, us), behaviour, hour (0-23), device, in the order of time. items: id, title,
    category, text, price (euro). cause (n_events,): row of the event that caused this one, -1 where nothing did.
    """

    events: pa.Table
    items: pa.Table
    cause: NDArray[np.int64]
    oracle: Oracle
    parameters: ShopParameters


def make_shop(seed: int = 0, users: int = 1500, parameters: ShopParameters | None = None) -> Shop:
    """Draw a shop. The same arguments give the same shop on every machine; fewer `users` make a quicker one.

    Raises SettingsError for less than one user.
    """
    if users < 1:
        raise SettingsError(f"expected at least 1 user for the sample shop, got users={users}")
    dials = parameters or ShopParameters()
    draw = np.random.Generator(np.random.PCG64(seed))
    rules = _open_shop(draw, dials)
    items = item_table(_fits(rules), draw.random(len(rules.category)).tolist())
    people = [_Person(draw, rules, dials) for _ in range(users)]
    names = user_ids(users)
    tastes = Tastes(
        starts={name: person.starts for name, person in zip(names, people, strict=True)},
        phases={name: person.phases for name, person in zip(names, people, strict=True)},
    )
    events, cause = _log(names, people)
    index = {item: i for i, item in enumerate(item_ids())}
    return Shop(events, items, cause, Oracle(rules, tastes, index), dials)


def _open_shop(draw: np.random.Generator, dials: ShopParameters) -> Rules:
    """Draw what does not depend on people: popularity, accessories, the pull of the context."""
    count = len(CATEGORIES)
    by_rank = np.stack([np.argsort(draw.random(ITEMS_PER_CATEGORY)) for _ in CATEGORIES])
    share = np.empty((count, ITEMS_PER_CATEGORY))
    np.put_along_axis(share, by_rank, 1.0 / (np.arange(ITEMS_PER_CATEGORY) + dials.flatness)[None], axis=1)
    size = np.array([dials.accessory_size if category.accessory_of else 1.0 for category in CATEGORIES])
    return Rules(
        category=np.repeat(np.arange(count), ITEMS_PER_CATEGORY),
        share=(share / share.sum(axis=1, keepdims=True)).reshape(-1),
        size=size * (0.6 + 0.8 * draw.random(count)),
        world=np.array([WORLDS.index(category.world) for category in CATEGORIES]),
        context=_pull(draw, dials.context),
        calls=_calls(draw, dials, by_rank + np.arange(count)[:, None] * ITEMS_PER_CATEGORY),
        ripening=dials.ripening,
        stay=dials.stay,
    )


def _calls(
    draw: np.random.Generator, dials: ShopParameters, by_rank: NDArray[np.int64]
) -> tuple[tuple[Call, ...], ...]:
    """Return for each item what it calls for; `by_rank` (n_categories, items) are items, the most popular first.

    The callers of a main category and as many of each accessory category stand in a circle, in an order of chance:
    each caller calls for the next few, so that an accessory fits a few callers, and no two callers call for the same.
    """
    calls: list[tuple[Call, ...]] = [()] * by_rank.size
    for accessory, category in enumerate(CATEGORIES):
        if not category.accessory_of:
            continue
        main = next(i for i, other in enumerate(CATEGORIES) if other.name == category.accessory_of)
        circle = by_rank[accessory, np.argsort(draw.random(dials.callers))]
        for place, caller in enumerate(by_rank[main, : dials.callers].tolist()):
            answers = np.roll(circle, -place)[: len(dials.answers)].tolist()
            delay = dials.stagger * len(calls[caller])
            calls[caller] += (Call(delay, tuple(zip(answers, dials.answers, strict=True))),)
    return tuple(calls)


def _pull(draw: np.random.Generator, strength: float) -> Floats:
    """Return the context's factors (n_categories, dayparts, devices): every world has its daypart and its device."""
    pull = np.ones((len(CATEGORIES), len(DAYPARTS), len(DEVICES)))
    dayparts, devices = (draw.random((2, len(WORLDS))) * 3.0).astype(np.int64)
    for i, category in enumerate(CATEGORIES):
        world = WORLDS.index(category.world)
        pull[i, dayparts[world], :] *= 1.0 + strength
        pull[i, :, devices[world]] *= 1.0 + strength
    return pull


def _fits(rules: Rules) -> list[list[int]]:
    """Return for each item the items it is an accessory of."""
    fits: list[list[int]] = [[] for _ in rules.calls]
    for main, calls in enumerate(rules.calls):
        for call in calls:
            for item, _ in call.answers:
                fits[item].append(main)
    return fits


class _Person:
    """One customer: hidden taste, visits, and what came of them, drawn in this order."""

    def __init__(self, draw: np.random.Generator, rules: Rules, dials: ShopParameters) -> None:
        self._rules, self._dials = rules, dials
        self.starts, self.phases = self._draw_taste(draw)
        self.times, self.devices = self._draw_visits(draw)
        self.hours = (self.times // (60 * _MINUTE_US)) % 24
        self.items: list[int] = []
        self.behaviours: list[int] = []
        self.causes: list[int] = []
        self._draw_events(draw.random((len(self.times), 3)))

    def _draw_taste(self, draw: np.random.Generator) -> tuple[NDArray[np.int64], Floats]:
        """Return starts (n_phases,) in microseconds and tastes (n_phases, n_worlds)."""
        dials = self._dials
        liking = draw.random(len(WORLDS))
        liking = liking * liking * liking  # a few worlds stand out
        liking /= liking.sum()
        least, most = dials.phase
        lengths = least + (most - least) * draw.random(dials.days // least + 1)
        starts = FIRST_DAY_US + ((np.cumsum(lengths) - lengths) * DAY_US).astype(np.int64)
        passions = np.searchsorted(np.cumsum(liking)[:-1], draw.random(len(starts)), side="right")
        return starts, (1.0 - dials.passion) * liking + dials.passion * np.eye(len(WORLDS))[passions]

    def _draw_visits(self, draw: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return times (n,) in microseconds, ascending, and devices (n,), whatever the person does then."""
        dials = self._dials
        fewest, many = dials.events
        skew = draw.random()
        count = fewest + int((many - fewest) * skew * skew * skew)
        opens = draw.random(count) >= dials.visit_goes_on
        opens[0] = True
        visit = np.cumsum(opens) - 1
        visits = int(visit[-1]) + 1
        busy, lazy = dials.away
        pace = lazy - (lazy - busy) * skew  # who does much comes often
        day = np.cumsum(1 + (pace * 2.0 * draw.random(visits)).astype(np.int64))
        day = day - day[0] + int(draw.random() * max(1, dials.days - int(day[-1] - day[0])))
        hour = draw.random((visits, 2)).sum(axis=1) * 8.5 + 7.0  # most often in the afternoon
        start = FIRST_DAY_US + day * DAY_US + (hour * 60).astype(np.int64) * _MINUTE_US
        pause = 20_000_000 * (1 + (18 * draw.random(count)).astype(np.int64))
        pause = np.cumsum(pause)
        within = pause - pause[np.flatnonzero(opens)][visit]
        times = start[visit] + within
        device = self._draw_devices(draw, hour)[visit]
        kept = times < FIRST_DAY_US + dials.days * DAY_US
        return times[kept], device[kept]

    @staticmethod
    def _draw_devices(draw: np.random.Generator, hour: Floats) -> NDArray[np.int64]:
        """Return the device of each visit: everybody has a favourite, and evenings are mobile."""
        weights = 0.2 + draw.random(len(DEVICES))
        mobile = np.where(hour >= 18.0, 1.0, 0.3)
        table = np.stack(
            [weights[0] * mobile * 2.0, weights[1] * np.ones_like(hour), weights[2] * 0.5 * mobile], axis=1
        )
        edges = np.cumsum(table / table.sum(axis=1, keepdims=True), axis=1)[:, :-1]
        chosen: NDArray[np.int64] = (draw.random((len(hour), 1)) >= edges).sum(axis=1)
        return chosen

    def _draw_events(self, draws: Floats) -> None:
        """Walk through the visits and take one step of the rules at each; `draws` (n, 3) are uniform."""
        past, rules = self._rules.nothing_yet(), self._rules
        for time, hour, device, (first, second, third) in zip(
            self.times.tolist(), self.hours.tolist(), self.devices.tolist(), draws.tolist(), strict=True
        ):
            phase = int(np.searchsorted(self.starts, time, side="right")) - 1
            item, cause = self._step(past, time, phase, context_indexes(hour, DEVICES[device]), (first, second))
            kind = 2 if cause >= 0 else int(bool(CATEGORIES[rules.category[item]].accessory_of))
            cart, purchase = self._dials.buys[kind]
            behaviour = 2 if third < purchase else 1 if third < purchase + cart else 0
            past.add(item, time, behaviour == 2)
            self.items.append(item)
            self.behaviours.append(behaviour)
            self.causes.append(cause)

    def _step(
        self, past: Past, now: int, phase: int, context: tuple[int, int], draws: tuple[float, float]
    ) -> tuple[int, int]:
        """Return (item, position of its cause or -1)."""
        needs = self._rules.needs(past, now)
        weight = sum(need.weight for need in needs)
        left = draws[0] * (1.0 + weight)
        for need in needs:
            if left < need.weight:
                return need.item, need.position
            left -= need.weight
        chances = np.cumsum(self._rules.browsing(past, now, self.phases[phase], context))
        return int(np.searchsorted(chances, draws[1] * chances[-1], side="right")), -1


def _log(names: list[str], people: list[_Person]) -> tuple[pa.Table, NDArray[np.int64]]:
    """Return the shop's log in the order of time, and for each row the row of its cause."""
    lengths = np.array([len(person.times) for person in people])
    first = np.cumsum(lengths) - lengths
    time = np.concatenate([person.times for person in people])
    cause = np.concatenate([np.array(person.causes) for person in people])
    cause = np.where(cause >= 0, cause + np.repeat(first, lengths), -1)
    order = np.argsort(time, kind="stable")
    row = np.empty(len(order) + 1, dtype=np.int64)
    row[order], row[-1] = np.arange(len(order)), -1  # -1 stays -1
    things = np.array(item_ids(), dtype=object)
    behaviours = np.array(BEHAVIOURS, dtype=object)
    devices = np.array(DEVICES, dtype=object)
    table = pa.table(
        {
            "user": np.repeat(np.array(names, dtype=object), lengths)[order],
            "item": things[np.concatenate([person.items for person in people])[order]],
            "time": pa.array(time[order], type=pa.timestamp("us")),
            "behaviour": behaviours[np.concatenate([person.behaviours for person in people])[order]],
            "hour": np.concatenate([person.hours for person in people])[order],
            "device": devices[np.concatenate([person.devices for person in people])[order]],
        }
    )
    return table, row[cause[order]]
