"""The sample shop: its statistics are fixed here, and its oracle is checked against a plain retelling of the story."""

import hashlib
import itertools

import numpy as np
import pytest
import scipy.sparse

from regard.data.oracle import DAY_US, DEVICES
from regard.data.sample import BEHAVIOURS, ShopParameters, make_shop
from regard.data.shelf import CATEGORIES
from regard.errors import InputError, SettingsError


class Log:
    """The events of a shop as arrays, user by user; `cause` is the place in these arrays."""

    def __init__(self, shop):
        events = shop.events
        names, user = np.unique(events["user"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)
        order = np.argsort(user, kind="stable")
        place = np.empty(len(order), dtype=int)
        place[order] = np.arange(len(order))
        self.shop, self.names, self.user = shop, names, user[order]
        self.start = np.searchsorted(self.user, np.arange(len(names) + 1))
        self.ids = np.array(events["item"].to_pylist(), dtype=object)[order]
        self.item = np.array([shop.oracle.index[item] for item in self.ids])
        self.time = events["time"].cast("int64").to_numpy()[order]
        self.behaviour = np.array(events["behaviour"].to_pylist(), dtype=object)[order]
        self.hour = events["hour"].to_numpy()[order]
        self.device = np.array(events["device"].to_pylist(), dtype=object)[order]
        self.cause = np.where(shop.cause >= 0, place[shop.cause], -1)[order]

    def history(self, n):
        return slice(self.start[self.user[n]], n)

    def request(self, n):
        past = self.history(n)
        return (
            *(str(self.names[self.user[n]]), self.ids[past], self.time[past], self.behaviour[past]),
            *(int(self.time[n]), int(self.hour[n]), str(self.device[n])),
        )

    def scores(self, n):
        return self.shop.oracle.scores(*self.request(n))


@pytest.fixture(scope="module")
def log():
    return Log(make_shop(0))


@pytest.fixture(scope="module")
def small():
    return Log(make_shop(3, users=40))


def fitting(log):
    """Return for each item the items it calls for when bought."""
    return [{item for call in calls for item, _ in call.answers} for calls in log.shop.oracle.rules.calls]


def test_size_and_columns(log):
    events, items = log.shop.events, log.shop.items
    assert events.column_names == ["user", "item", "time", "behaviour", "hour", "device"]
    assert items.column_names == ["id", "title", "category", "text", "price"]
    assert 57_000 < events.num_rows < 63_000
    assert len(log.names) == 1500
    assert items.num_rows == 600 == len(set(items["id"].to_pylist())) == len(set(items["title"].to_pylist()))
    assert set(items["category"].to_pylist()) == {category.name for category in CATEGORIES}
    assert min(items["price"].to_pylist()) > 0
    assert set(log.behaviour) == set(BEHAVIOURS)
    assert set(log.device) == set(DEVICES)
    assert (np.diff(events["time"].cast("int64").to_numpy()) >= 0).all()
    assert log.time.max() - log.time.min() < 120 * DAY_US
    np.testing.assert_array_equal(log.hour, log.time // (DAY_US // 24) % 24)
    sold = np.sort(np.bincount(log.item, minlength=600))[::-1]
    assert sold[:60].sum() > 0.3 * sold.sum(), "popularity is skewed"


def test_same_seed_same_shop_everywhere(log):
    """The digest is the shop of seed 0 as first committed: results on the sample can be compared for good."""
    columns = [log.shop.events[name].cast("string").to_pylist() for name in log.shop.events.column_names]
    rows = zip(*columns, log.shop.cause.tolist(), strict=True)
    digest = hashlib.sha256("\n".join(",".join(map(str, row)) for row in rows).encode()).hexdigest()
    assert digest[:16] == "da176cecdd0cef7c"


def test_arguments():
    one, again, other = make_shop(5, users=7), make_shop(5, users=7), make_shop(6, users=7)
    assert one.events.equals(again.events)
    assert one.items.equals(again.items)
    assert not one.events.equals(other.events)
    short = make_shop(5, users=7, parameters=ShopParameters(days=30, events=(3, 5)))
    assert short.events.num_rows <= 35
    with pytest.raises(SettingsError, match="at least 1 user"):
        make_shop(users=0)


def test_nobody_meets_an_item_twice(log):
    assert len({*zip(log.user.tolist(), log.item.tolist(), strict=True)}) == len(log.item)


def test_planted_causes(log):
    """Of all events 20-30 % are caused, by a purchase of the same person, days and events ago, beside decoys."""
    fits, category = fitting(log), log.shop.oracle.rules.category
    caused = np.flatnonzero(log.cause >= 0)
    cause = log.cause[caused]
    days = (log.time[caused] - log.time[cause]) / DAY_US
    assert 0.2 <= len(caused) / len(log.item) <= 0.3
    assert np.median(days) >= 3
    assert np.median(caused - cause) >= 5
    assert days.min() > 2.5
    np.testing.assert_array_equal(log.user[caused], log.user[cause])
    assert set(log.behaviour[cause]) == {"purchase"}
    assert all(item in fits[by] for item, by in zip(log.item[caused], log.item[cause], strict=True))
    decoys = 0
    for n, by in zip(caused, cause, strict=True):
        same = log.item[log.history(n)][category[log.item[log.history(n)]] == category[log.item[by]]]
        decoys += any(log.item[n] not in fits[item] for item in same)
    assert decoys >= 0.8 * len(caused)
    per_caller = np.bincount(log.item[cause], minlength=600)
    assert np.median(per_caller[per_caller > 0]) > 100, "enough examples of each relation to learn from"


def test_texts_say_what_fits(small):
    titles, texts = small.shop.items["title"].to_pylist(), small.shop.items["text"].to_pylist()
    for caller, answers in enumerate(fitting(small)):
        name = titles[caller].rsplit(" ", len(CATEGORIES[caller // 25].thing.split()))[0]
        assert all(name in texts[answer] for answer in answers)


def ndcg(log, cases, scores):
    """NDCG@10 of the next item, items met before left out, ties below; mean over a user's cases, then over users."""
    gains = np.empty(len(cases))
    for row, n in enumerate(cases):
        own = scores[row]
        own[log.item[log.history(n)]] = -np.inf
        rank = np.count_nonzero(own >= own[log.item[n]])
        gains[row] = 1 / np.log2(rank + 1) if rank <= 10 else 0.0
    user = log.user[cases]
    return np.mean([gains[user == one].mean() for one in np.unique(user)])


def co_visits(log, train, cases):
    """Yield scores of co-visit: windows, directions, normalisations, decays; all by the events before the cut."""
    sold = np.bincount(log.item[train], minlength=600) + 1.0
    past = [np.arange(log.history(n).start, n)[::-1] for n in cases]
    rows = np.repeat(np.arange(len(cases)), [len(own) for own in past])
    columns = log.item[np.concatenate(past)]
    age = np.concatenate([np.arange(len(own)) for own in past])
    for window, both_ways in itertools.product((5, 10, 20), (False, True)):
        pairs = np.zeros((600, 600))
        for step in range(1, window + 1):
            together = (log.user[:-step] == log.user[step:]) & train[step:]
            np.add.at(pairs, (log.item[:-step][together], log.item[step:][together]), 1.0)
        if both_ways:
            pairs += pairs.T
        for powers, decay in itertools.product(((0.5, 0.5), (1.0, 0.25)), (0.8, 0.9)):
            weights = pairs / sold[:, None] ** powers[0] / sold ** powers[1]
            history = scipy.sparse.csr_matrix((decay**age, (rows, columns)), shape=(len(cases), 600))
            yield history @ weights


def test_no_baseline_comes_near_the_oracle(log):
    """The best baseline reaches at most 60 % of the oracle's NDCG@10 on the last tenth of time (`time:0.9`)."""
    train = log.time <= np.quantile(log.time, 0.9)
    cases = np.flatnonzero(~train)
    assert len(cases) > 4000
    oracle = ndcg(log, cases, np.stack([log.scores(n) for n in cases]))
    best = 0.0
    for days in (7, 14, 30, 60, 120):
        recent = train & (log.time > log.time[train].max() - days * DAY_US)
        popular = np.bincount(log.item[recent], minlength=600).astype(float)
        best = max(best, ndcg(log, cases, np.tile(popular, (len(cases), 1))))
    assert best < 0.2 * oracle
    for scores in co_visits(log, train, cases):
        best = max(best, ndcg(log, cases, scores))
    assert oracle == pytest.approx(0.345, abs=0.001)
    assert 0.3 * oracle < best <= 0.6 * oracle


def told(log, n):
    """Retell step n from the story: browsing weights by item, and the weight of each (past event, item) call."""
    rules, past = log.shop.oracle.rules, range(log.history(n).start, n)
    taste = log.shop.oracle.tastes.at(str(log.names[log.user[n]]), log.time[n])
    daypart = 0 if log.hour[n] < 12 else 1 if log.hour[n] < 18 else 2
    visits = [
        rules.size[c] * taste[rules.world[c]] * rules.context[c, daypart, DEVICES.index(log.device[n])]
        for c in range(len(CATEGORIES))
    ]
    visits = [visit / sum(visits) for visit in visits]
    if len(past) and log.time[n] - log.time[n - 1] <= 30 * 60 * 10**6:
        visits = [visit * (1 - rules.stay) for visit in visits]
        visits[rules.category[log.item[n - 1]]] += rules.stay
    met = {log.item[m]: m for m in past}
    browsing = [0.0 if i in met else visits[rules.category[i]] * rules.share[i] for i in range(600)]
    calls = {}
    for m in past:
        for call in rules.calls[log.item[m]] if log.behaviour[m] == "purchase" else ():
            age = (log.time[n] - log.time[m]) / DAY_US - call.delay
            if all(met.get(item, -1) <= m for item, _ in call.answers):
                ripe = np.interp(age, rules.ripening, (0, 1, 1, 0))
                calls.update({(m, item): weight * ripe for item, weight in call.answers if item not in met})
    return np.array(browsing) / sum(browsing), calls


def test_oracle_is_the_story(small):
    some_caused = 0
    for n in range(0, len(small.item), 7):
        browsing, calls = told(small, n)
        chances = browsing.copy()
        for (_, item), weight in calls.items():
            chances[item] += weight
        np.testing.assert_allclose(small.scores(n), chances / chances.sum(), atol=1e-12)
        posterior = small.shop.oracle.cause_probabilities(*small.request(n), small.ids[n])
        past = range(small.history(n).start, n)
        expected = [calls.get((m, small.item[n]), 0.0) / chances[small.item[n]] for m in past]
        np.testing.assert_allclose(posterior, expected, atol=1e-12)
        some_caused += max(expected, default=0.0) > 0.5
    assert some_caused > 10


def test_oracle_is_calibrated(log):
    """What it says happens as often as it says, and its surprise is what it expects: within four standard errors."""
    cases = np.arange(0, len(log.item), 11)
    surprise, expected, named, right = [], [], [], []
    for n in cases:
        chances = log.scores(n)
        some = chances[chances > 0]
        surprise.append(-np.log(chances[log.item[n]]))
        expected.append(-(some * np.log(some)).sum())
        posterior = log.shop.oracle.cause_probabilities(*log.request(n), log.ids[n])
        named.append(posterior)
        right.append(log.cause[n] == np.arange(log.history(n).start, n))
    gap = np.array(surprise) - np.array(expected)
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(len(gap))
    chance, true = np.concatenate(named), np.concatenate(right)
    assert abs((chance - true).sum()) < 4 * np.sqrt((chance * (1 - chance)).sum())
    assert true.sum() > 1000
    finds = [own.argmax() == was.argmax() for own, was in zip(named, right, strict=True) if was.any()]
    assert np.mean(finds) > 0.95


def test_taste_and_context_matter(log):
    """An oracle that is told another person's name, or another context, is more surprised by what is browsed."""
    cases = np.flatnonzero(log.cause < 0)[::29]
    surprise = {"as it was": 0.0, "other person": 0.0, "other context": 0.0}
    for n in cases:
        user, items, times, behaviours, now, hour, device = log.request(n)
        other = str(log.names[(log.user[n] + 1) % len(log.names)])
        elsewhere = DEVICES[(DEVICES.index(device) + 1) % 3]
        for who, request in zip(
            surprise, ((user, hour, device), (other, hour, device), (user, (hour + 8) % 24, elsewhere)), strict=True
        ):
            name, at, on = request
            scores = log.shop.oracle.scores(name, items, times, behaviours, now, at, on)
            surprise[who] -= np.log(scores[log.item[n]]) / len(cases)
    assert surprise["other person"] > surprise["as it was"] + 0.3
    assert surprise["other context"] > surprise["as it was"] + 0.1


def test_new_history_and_strangers(small):
    oracle, user = small.shop.oracle, str(small.names[0])
    now = int(small.time[0])
    assert oracle.scores(user, [], [], [], now, 12, "mobile").sum() == pytest.approx(1)
    assert oracle.cause_probabilities(user, [], [], [], now, 12, "mobile", "tent-01").shape == (0,)
    with pytest.raises(InputError, match="no user 'nobody'"):
        oracle.scores("nobody", [], [], [], now, 12, "mobile")
    with pytest.raises(InputError, match="no item 'moon-01'"):
        oracle.scores(user, ["moon-01"], [now], ["view"], now, 12, "mobile")
    for hour, device in ((24, "mobile"), (12, "fridge")):
        with pytest.raises(InputError, match="hour of 0-23"):
            oracle.scores(user, [], [], [], now, hour, device)
