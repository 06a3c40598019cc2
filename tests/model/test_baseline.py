"""Baselines against plain counting, and the contract they share with every model."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from reference import covisit_scores, covisit_weights, dataset_of, repeat_scores
from regard.data.batches import Histories
from regard.data.split import make_split
from regard.errors import ProtocolError
from regard.model import covisit
from regard.model.baseline import BASELINES, CoVisit, Popular, RecentPopular, Repeat
from regard.model.covisit import Pairing, neighbours

N_ITEMS = 13  # of which the log holds up to 11
DAY = 86_400_000_000
LOGS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 11), st.integers(0, 40)), min_size=1, max_size=50)
HISTORIES = st.lists(st.lists(st.integers(0, N_ITEMS), max_size=9), min_size=1, max_size=5)


def fitted(name, events, kind="timestamp", **choice):
    """Fit on all of a log of (user, item, day); return the model, and the item lists and days of its users."""
    rows = [(user, item, day * DAY, 0, 0) for user, item, day in events]
    dataset, log = dataset_of(rows, kind=kind)
    dataset.n_items = N_ITEMS
    users = sorted({event[0] for event in log})
    sequences = [[event[1] for event in log if event[0] == user] for user in users]
    return BASELINES[name].fit(dataset, make_split(dataset, "none"), **choice), sequences, log


def jagged(rows):
    items = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
    return Histories(items, torch.tensor([0, *map(len, rows)]).cumsum(0))


def check(scores, own, counts):
    """Own scores where there are some, all others below them in the very order of their counts, ties as ties."""
    others = [item for item in range(1, N_ITEMS + 1) if own.get(item, 0) <= 0]
    mine = [item for item in range(1, N_ITEMS + 1) if own.get(item, 0) > 0]
    np.testing.assert_allclose([scores[item] for item in mine], [own[item] for item in mine], rtol=1e-6)
    below = [counts.get(item, 0) for item in others]
    assert (
        np.sign(np.subtract.outer(below, below)) == np.sign(np.subtract.outer(scores[others], scores[others]))
    ).all()
    assert not mine or not others or max(scores[others]) < 0 < min(scores[mine])


@given(events=LOGS, rows=HISTORIES)
def test_popular_counts(events, rows):
    model, _, log = fitted("popular", events)
    counts = Counter(event[1] for event in log)
    expected = [[float(counts.get(item, 0)) for item in range(N_ITEMS + 1)]] * len(rows)
    assert model.scores(jagged(rows)).tolist() == expected
    assert model.known.tolist() == [counts.get(item, 0) > 0 for item in range(N_ITEMS + 1)]


@given(events=LOGS, rows=HISTORIES, half_life=st.sampled_from([0.01, 3.0, 100.0]))
def test_recent_popular_halves(events, rows, half_life):
    model, _, log = fitted("recent-popular", events, half_life_days=half_life)
    newest = max(event[2] for event in log)
    own = Counter()
    for _, item, time, *_ in log:
        own[item] += np.float64(0.5) ** ((newest - time) / DAY / half_life)
    own = {item: value for item, value in own.items() if np.float32(value) > 0}
    for row in model.scores(jagged(rows)).numpy():
        check(row, own, Counter(event[1] for event in log))


@given(events=LOGS, rows=HISTORIES, decay=st.sampled_from([0.0, 0.5, 2.0]), newest_only=st.booleans())
def test_repeat_equals_plain_counting(events, rows, decay, newest_only):
    model, _, log = fitted("repeat", events, decay=decay, newest_only=newest_only)
    counts = Counter(event[1] for event in log)
    for row, history in zip(model.scores(jagged(rows)).numpy(), rows, strict=True):
        check(row, repeat_scores(history, counts, decay, newest_only), counts)


@given(
    events=LOGS,
    rows=HISTORIES,
    window=st.integers(1, 6),
    directed=st.booleans(),
    powers=st.sampled_from([(1, 0), (0.5, 0.25), (0.5, 0.5)]),
    newest=st.integers(1, 4),
)
def test_co_visit_equals_looking_at_every_pair(events, rows, window, directed, powers, newest):
    choice = {"window": window, "directed": directed, "powers": powers}
    model, sequences, log = fitted("co-visit", events, **choice, decay=1.0, newest=newest)
    weights = covisit_weights(sequences, **choice, most=200)
    counts = Counter(event[1] for event in log)
    for row, history in zip(model.scores(jagged(rows)).numpy(), rows, strict=True):
        check(row, covisit_scores(history, weights, 1.0, newest), counts)


@given(events=LOGS, most=st.integers(1, 3), directed=st.booleans(), room=st.sampled_from([1, 7, 4_000_000]))
def test_the_best_neighbours_are_kept_and_blocks_do_not_matter(events, most, directed, room):
    _, sequences, _ = fitted("popular", events)
    items = np.array([item for row in sequences for item in row], np.int32)
    users = np.repeat(np.arange(len(sequences), dtype=np.int32), [len(row) for row in sequences])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(covisit, "PAIRS_AT_ONCE", room)
        found = neighbours(
            items, users, N_ITEMS, Pairing(2, directed), (1, 0), most
        )  # weights of 1 and 1/2: exact sums
    expected = covisit_weights(sequences, 2, directed, (1, 0), most)
    assert len(found.offsets) == N_ITEMS + 2
    for item in range(N_ITEMS + 1):
        mine = slice(found.offsets[item], found.offsets[item + 1])
        best = expected.get(item, {})
        assert found.items[mine].tolist() == sorted(best)
        assert found.weights[mine].tolist() == [np.float32(best[other]) for other in sorted(best)]


@given(events=LOGS, rows=HISTORIES)
def test_without_an_order_all_pairs_count_alike(events, rows):
    choice = {"window": 50, "decay": 0.0, "directed": False, "powers": (1.0, 0.25)}  # 50: more than anybody's events
    model, sequences, log = fitted("co-visit", events, kind="none", **choice)
    weights = covisit_weights(sequences, 50, False, (1.0, 0.25), 200, by_distance=False)
    counts = Counter(event[1] for event in log)
    found = model.scores(jagged(rows)).numpy()
    for row, history in zip(found, rows, strict=True):
        check(row, covisit_scores(history, weights, 0.0, 10**6), counts)
    backwards = model.scores(jagged([row[::-1] for row in rows])).numpy()
    np.testing.assert_array_equal(found[:, 1:], backwards[:, 1:])


def test_hand_computed_co_visit():
    # user 1: 1 2 3; user 2: 1 2; user 3: 3 1. Directed, two steps: 1->2 twice, 1->3 half, 2->3 once, 3->1 once.
    events = [(1, 1, 0), (1, 2, 1), (1, 3, 2), (2, 1, 0), (2, 2, 1), (3, 3, 0), (3, 1, 1)]
    model, _, _ = fitted("co-visit", events, window=2, decay=1.0, directed=True, powers=(1.0, 1.0))
    scores = model.scores(jagged([[1], [2, 1], []]))
    # item 1 has three events, 2 and 3 have two, the others none: places -1, -2, -3
    assert scores[0, 1:5].tolist() == pytest.approx([-1, 2 / (3 * 2), 0.5 / (3 * 2), -3])
    assert scores[1, 1:5].tolist() == pytest.approx([-1, 2 / (3 * 2), 0.5 / (3 * 2) + 0.5 * 1 / (2 * 2), -3])
    assert scores[2, 1:5].tolist() == [-1, -2, -2, -3]


EVENTS = [(user, 1 + (user * place) % 11, place) for user in range(1, 5) for place in range(user + 2)]
ROWS = [[3, 1, 3], [], [N_ITEMS], [0], [5, 2, 7, 7, 1, 2, 0, 9], [], [1]]


@pytest.mark.parametrize("name", BASELINES)
def test_a_batch_is_its_rows_one_by_one(name):
    model, _, _ = fitted(name, EVENTS)
    together = model.scores(jagged(ROWS))
    assert (together.shape, together.dtype) == ((len(ROWS), N_ITEMS + 1), torch.float32)
    for at, row in enumerate(ROWS):
        torch.testing.assert_close(together[at : at + 1, 1:], model.scores(jagged([row]))[:, 1:], rtol=0, atol=0)
    assert bool(together.isfinite().all())


@pytest.mark.parametrize("name", BASELINES)
def test_no_history_means_popularity(name):
    model, _, log = fitted(name, [(user, item, 5) for user, item, _ in EVENTS])  # at one time: recent = popular
    counts = Counter(event[1] for event in log)
    order = sorted(range(1, N_ITEMS + 1), key=lambda item: (-counts.get(item, 0), item))
    for row in model.scores(jagged([[], [0], [0, 0]]))[:, 1:]:
        assert (1 + row.argsort(descending=True, stable=True)).tolist() == order


@pytest.mark.parametrize("name", BASELINES)
def test_saved_is_loaded(name):
    model, _, _ = fitted(name, EVENTS)
    state = load(save(model.state_dict()))
    fresh = BASELINES[name](N_ITEMS)
    fresh.load_state_dict(state)
    assert fresh.name == name
    assert torch.equal(fresh.known, model.known)
    assert torch.equal(fresh.scores(jagged(ROWS)), model.scores(jagged(ROWS)))
    assert not list(model.parameters())


@pytest.mark.parametrize("kind", ["timestamp", "order", "none"])
@pytest.mark.parametrize("name", BASELINES)
def test_every_choice_fits_and_survives_json(name, kind):
    dataset, _ = dataset_of([(user, item, day * DAY, 0, 0) for user, item, day in EVENTS], kind=kind)
    split = make_split(dataset, "none")
    if name == "recent-popular" and kind != "timestamp":
        with pytest.raises(ProtocolError, match=r"needs timestamps, but this log has (no time column|times)"):
            BASELINES[name].choices(dataset, split)
        with pytest.raises(ProtocolError, match="needs timestamps"):
            BASELINES[name].fit(dataset, split)
        return
    choices = BASELINES[name].choices(dataset, split)
    assert 1 <= len(choices) <= 12
    for choice in json.loads(json.dumps(choices)):
        model = BASELINES[name].fit(dataset, split, **choice)
        assert bool(model.scores(jagged([[1, 2], []])).isfinite().all())


@pytest.mark.parametrize(
    ("name", "choice"),
    [
        ("repeat", {"decay": 0.5}),
        ("repeat", {"decay": 0.0, "newest_only": True}),
        ("co-visit", {"decay": 0.0}),
        ("co-visit", {"decay": 1.0, "directed": False}),
    ],
)
def test_what_needs_an_order_refuses_a_log_without(name, choice):
    with pytest.raises(ProtocolError, match=f"{name} with decay .* needs an order of events, but this log has no time"):
        fitted(name, EVENTS, kind="none", **choice)


def test_only_the_training_part_is_counted():
    dataset, _ = dataset_of([(user, item, day * DAY, 0, 0) for user, item, day in EVENTS])
    dataset.n_items = N_ITEMS
    split = make_split(dataset, "leave-one-out")
    kept = [row for user in range(1, 5) for row in range(split.start[user], split.train_end[user])]
    counts = Counter(dataset.item[kept].tolist())
    for kind in (Popular, RecentPopular, Repeat, CoVisit):
        model = kind.fit(dataset, split)
        assert [item for item in range(N_ITEMS + 1) if model.known[item]] == sorted(counts)
        assert model.popularity.tolist() == [float(counts.get(item, 0)) for item in range(N_ITEMS + 1)]
    newest = max(dataset.time[kept])
    share = RecentPopular.fit(dataset, split, half_life_days=1.0).recent.sum()
    assert float(share) == pytest.approx(sum(0.5 ** ((newest - dataset.time[row]) / DAY) for row in kept))
