"""Requests: what may be read, what is asked, how negatives are drawn; against plain loops and chi-square."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from reference import BEHAVIOURS, dataset_of
from regard.config import Settings
from regard.data.reading import Reading
from regard.data.requests import RequestBatches, check, evaluation_requests
from regard.data.split import make_split
from regard.errors import ProtocolError, SettingsError

DAY = 86_400_000_000
RULES = ("leave-one-out", "time:0.8", "users:0.2", "parts", "random:0.7,0.2,0.1", "none")
NAN = math.nan

event = st.tuples(
    st.integers(1, 7),  # user: few, so that many have 1 or 2 events and some none
    st.integers(1, 9),
    st.integers(0, 9).map(lambda days: days * DAY),
    st.integers(0, 2),
    st.integers(0, 1),
    st.sampled_from([0.0, 1.0, NAN]),
)
events = st.lists(event, min_size=1, max_size=40) | st.lists(event, min_size=25, max_size=40)
behaviours = st.sampled_from([(), ("purchase",), ("cart", "purchase")])
labels = st.sampled_from(["sampled", "given", ">=1", "value"])
windows = st.sampled_from([1, 2, 3, 200])


def labelled(rows, parts=True, kind="timestamp"):
    """A dataset with labels (N,) and one context column; returns it and its rows in stored order."""
    numbered = [(*row[:5], at) for at, row in enumerate(rows)]
    dataset, log = dataset_of(numbered, kind, parts=parts)
    dataset.label = np.array([rows[row[5]][5] for row in log], np.float32)
    dataset.context = {"hour": np.arange(len(log), dtype=np.int32) + 1}
    return dataset, log


def told(mode, window=200, negatives=3, **more):
    body = {"labels": mode, "negatives": negatives} | more
    return Settings.of({"data": body, "model": {"window": window, "context": ["hour"]}, "train": {"batch_tokens": 13}})


def split_or_skip(dataset, rule, targets=()):
    try:
        return make_split(dataset, rule, seed=3, target_behaviours=targets)
    except ProtocolError:
        assume(False)


def listed(requests):
    """Each request as (user, place, places it may read, items there, candidates, labels, context)."""
    found = []
    histories, offsets = requests.histories, requests.offsets.tolist()
    beginning = histories.offsets[requests.row_of_request, None]
    for at, (low, high) in enumerate((beginning + requests.spans).tolist()):
        own = slice(offsets[at], offsets[at + 1])
        found.append(
            (
                int(requests.users[at]),
                int(requests.places[at]),
                requests.event_places[low:high].tolist(),
                histories.items[low:high].tolist(),
                requests.candidates[own].tolist(),
                requests.labels[own].tolist(),
                requests.context[at].tolist(),
            )
        )
    return found


def may_be_read(dataset, split, mode, place):
    """Whether the event at a place of the split may be part of a history."""
    row = place if split.order is None else split.order[place]
    return mode in ("sampled", "value") or dataset.label[row] >= 1


@given(events, st.sampled_from(RULES), behaviours, labels, windows)
def test_training_requests_are_those_of_a_plain_loop(rows, rule, targets, mode, window):
    dataset, log = labelled(rows, parts=rule == "parts")
    split = split_or_skip(dataset, rule, targets)
    wanted = {BEHAVIOURS.index(name) for name in targets} or {0, 1, 2}
    try:
        batches = RequestBatches(dataset, split, told(mode, window))
    except (ProtocolError, SettingsError):  # nothing to ask about, or no label at all
        return
    expected = {}
    for user in range(1, dataset.n_users + 1):
        train = range(split.start[user], split.train_end[user])
        for place in train:
            row = place if split.order is None else split.order[place]
            if log[row][3] not in wanted or (mode != "sampled" and math.isnan(dataset.label[row])):
                continue
            around = train if not split.rolling else range(split.start[user], place)
            read = [other for other in around if other != place and may_be_read(dataset, split, mode, other)]
            expected[place] = (user, read[-window:], row)
    for _ in range(2):
        found = [each for batch in batches for each in listed(batch)]
        assert sorted(each[1] for each in found) == sorted(expected)
        assert batches.targets_per_epoch == len(found)
        for user, place, read, items, candidates, label, context in found:
            assert (user, read) == expected[place][:2]
            row = expected[place][2]
            assert items == [dataset.item[at if split.order is None else split.order[at]] for at in read]
            assert context == [row + 1]
            assert candidates[0] == dataset.item[row]
            assert label[0] == (1 if mode == "sampled" else dataset.label[row])
            own = {log[at if split.order is None else split.order[at]][1] for at in train_of(split, user)}
            left = set(range(1, dataset.n_items + 1)) - own
            drawn = candidates[1:]
            assert set(drawn) <= left
            assert len(drawn) == len(set(drawn)) == (min(3, len(left)) if mode == "sampled" else 0)
            assert not any(label[1:])


def train_of(split, user):
    return range(split.start[user], split.train_end[user])


@settings(max_examples=100)
@given(
    events,
    st.sampled_from(RULES[:-1]),
    behaviours,
    labels,
    windows,
    st.sampled_from(["next", "last", "set"]),
    st.sampled_from(["validation", "test"]),
)
def test_held_back_requests_are_the_cases_with_labels(rows, rule, targets, mode, window, form, part):
    dataset, log = labelled(rows, parts=rule == "parts")
    split = split_or_skip(dataset, rule, targets)
    chosen = told(mode, window).changed([f"evaluate.targets={form}"])
    try:
        requests = evaluation_requests(dataset, split, part, chosen, negatives=4, seed=5)
        cases = split.cases(dataset, part, form)
    except (ProtocolError, SettingsError):
        return
    found = [each for block in requests for each in listed(block)]
    usable = [mode == "sampled" or not math.isnan(dataset.label[row]) for row in cases.targets]
    at = 0
    for case in range(len(cases)):
        span = range(cases.target_offsets[case], cases.target_offsets[case + 1])
        asked = [cases.targets[target] for target in span if usable[target]]
        if not asked:
            continue
        user, _, read, _, candidates, label, _ = found[at]
        at += 1
        places = range(cases.history_start[case], cases.history_end[case])
        assert user == cases.user[case]
        assert read == [place for place in places if may_be_read(dataset, split, mode, place)][-window:]
        assert candidates[: len(asked)] == [dataset.item[row] for row in asked]
        truth = [1.0] * len(asked) if mode == "sampled" else [float(dataset.label[row]) for row in asked]
        assert label == truth + [0.0] * (len(candidates) - len(asked))
        history = {log[place if split.order is None else split.order[place]][1] for place in places}
        left = set(range(1, dataset.n_items + 1)) - history - set(candidates[: len(asked)])
        drawn = candidates[len(asked) :]
        assert set(drawn) <= left
        assert len(drawn) == len(set(drawn)) == (min(4, len(left)) if mode == "sampled" else 0)
    assert at == len(found) == len(requests)
    assert requests.without_label == usable.count(False)


@given(events, st.sampled_from(RULES[:-1]), windows)
def test_a_planted_leak_is_refused(rows, rule, window):
    dataset, _ = labelled(rows, parts=rule == "parts")
    split = split_or_skip(dataset, rule)
    batch = next(iter(RequestBatches(dataset, split, told("sampled", window))))
    order = "place" if split.rolling else "none"
    assert check(batch, order) is batch
    rows_of = batch.row_of_request.tolist()
    for at in range(len(batch)):
        row, (_, high) = rows_of[at], batch.spans[at].tolist()
        if split.rolling and high < int(batch.histories.lengths[row]):  # let it read one event more: itself
            spans = batch.spans.clone()
            spans[at, 1] += 1
            with pytest.raises(ProtocolError, match=f"request {at} of user {int(batch.users[at])} reads"):
                check(replace(batch, spans=spans), order)
        if high > int(batch.spans[at, 0]):  # say that what it reads is the event itself
            places = batch.event_places.clone()
            places[int(batch.histories.offsets[row]) + high - 1] = batch.places[at]
            with pytest.raises(ProtocolError, match="reads"):
                check(replace(batch, event_places=places), order)


def test_a_leak_in_time_or_order_or_beyond_the_row_is_refused():
    rows = [(1, item, item * DAY, 0, 0, 1.0) for item in (1, 2, 3, 4)] + [(2, 5, DAY, 0, 0, 1.0)]
    dataset, _ = labelled(rows, parts=False)
    batches = RequestBatches(dataset, make_split(dataset, "none"), told("sampled"))
    batch = next(batch for batch in batches if len(batch) > 2)
    late = batch.histories.times.clone()
    late[0] += 99 * DAY
    with pytest.raises(ProtocolError, match="reads an event of a later time"):
        check(replace(batch, histories=replace(batch.histories, times=late)))
    with pytest.raises(ProtocolError, match="out of order"):
        check(replace(batch, event_places=batch.event_places.flip(0)))
    with pytest.raises(ProtocolError, match="outside of its row"):
        check(replace(batch, spans=batch.spans + 9))


def one_user(many=40, items=13, label=None):
    rows = [(user, 1 + (3 * user + at) % items, at * DAY, at % 3, 0, 1.0) for user in (1, 2, 3) for at in range(many)]
    dataset, _ = labelled(rows, parts=False)
    dataset.n_items = items + 30
    return dataset


def same(first, second):
    pairs = [(getattr(first, name), getattr(second, name)) for name in ("candidates", "offsets", "spans", "places")]
    return all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("sampling", ["uniform", "popularity"])
def test_negatives_depend_on_seed_epoch_and_step_and_a_restored_loader_goes_on(sampling):
    dataset = one_user(items=31, many=20)
    split = make_split(dataset, "leave-one-out")
    chosen = told("sampled", 7, sampling=sampling)
    batches = RequestBatches(dataset, split, chosen)
    first, second = list(batches), list(batches)
    again = RequestBatches(dataset, split, chosen)
    assert all(map(same, first, again))
    assert all(map(same, second, again))
    assert not all(map(same, first, second))
    other = RequestBatches(dataset, split, chosen.changed(["train.seed=2"]))
    assert not all(map(same, first, other))
    for step in (0, 3, len(second) - 1):
        restored = RequestBatches(dataset, split, chosen)
        restored.restore({"epoch": 1, "step": step})
        assert all(map(same, second[step:], list(restored)))
        assert restored.state() == {"epoch": 2, "step": 0}
    assert batches.steps_per_epoch() == len(first)


def test_an_event_meets_other_negatives_in_the_next_epoch():
    rows = [(1, 1 + at, at * DAY, 0, 0, 1.0) for at in range(9)]  # one user, one batch: the order stays as it is
    dataset, _ = labelled(rows, parts=False)
    dataset.n_items = 500
    batches = RequestBatches(dataset, make_split(dataset, "none"), told("sampled"))
    (first,), (second,) = list(batches), list(batches)
    assert torch.equal(first.places, second.places)
    assert (first.candidates == second.candidates).sum() < 9 + 3  # the positives, and a chance hit


def test_held_back_negatives_depend_neither_on_the_window_nor_on_the_blocks(monkeypatch):
    dataset = one_user()
    split = make_split(dataset, "time:0.6")
    wide, narrow = (
        list(evaluation_requests(dataset, split, "test", told("sampled", window), negatives=5)) for window in (200, 2)
    )
    monkeypatch.setattr("regard.data.requests.BLOCK", 40)
    blocks = list(evaluation_requests(dataset, split, "test", told("sampled"), negatives=5))
    assert len(wide) == 1
    assert len(blocks) > 3
    for parts in (narrow, blocks):
        assert torch.equal(torch.cat([part.candidates for part in parts]), wide[0].candidates)
    other = list(evaluation_requests(dataset, split, "test", told("sampled"), negatives=5, seed=1))
    assert not torch.equal(other[0].candidates, wide[0].candidates)
    few = evaluation_requests(dataset, split, "test", told("sampled"), negatives=5, most=7)
    assert len(few) == 7


def test_log_rates_belong_to_the_item_and_shortage_is_counted():
    dataset = one_user(many=13, items=13)  # each user has all 13 items of events, 30 more are only in the catalogue
    split = make_split(dataset, "none")
    uniform = next(iter(RequestBatches(dataset, split, told("sampled"))))
    np.testing.assert_allclose(uniform.log_rates.numpy(), math.log(3 / 43), rtol=1e-6)
    popular = RequestBatches(dataset, split, told("sampled", sampling="popularity"))
    assert popular.notes["negatives_not_drawn"] == 3 * 39  # nobody may get any
    batch = next(iter(popular))
    np.testing.assert_allclose(batch.log_rates.numpy(), math.log(3 * 3 / 39), rtol=1e-6)
    assert torch.equal(batch.offsets, torch.arange(len(batch) + 1))
    given = next(iter(RequestBatches(dataset, split, told(">=1"))))
    assert given.log_rates is None


def test_requests_know_who_belongs_to_whom_and_can_move():
    dataset = one_user(many=9)
    batch = next(iter(RequestBatches(dataset, make_split(dataset, "none"), told("sampled", 4))))
    moved = batch.to("cpu")
    assert same(batch, moved)
    owner = batch.request_of_candidate
    assert torch.equal(torch.bincount(owner), batch.offsets.diff())
    assert torch.equal(batch.candidate_spans, batch.spans[owner])
    rows = batch.row_of_request[owner]
    assert torch.equal(torch.bincount(rows, minlength=len(batch.histories)), batch.candidate_row_offsets.diff())
    assert torch.equal(batch.moments, torch.from_numpy(dataset.time)[batch.places])
    assert batch.histories.users is not None
    assert torch.equal(batch.histories.users[batch.row_of_request], batch.users)


@given(st.integers(1, 9), st.sampled_from([[1], [2, 3], [1, 2, 3], [9]]))
def test_reading_some_behaviours_is_reading_only_these_events(length, codes):
    dataset = one_user(many=17)
    batch = next(iter(RequestBatches(dataset, make_split(dataset, "none"), told("sampled", 6))))
    before, after = listed(batch), listed(batch.reading(codes, length))
    for (_, _, whole, *_), (_, _, some, *_) in zip(before, after, strict=True):
        assert some == [place for place in whole if dataset.behaviour[place] in codes][-length:]


def test_history_of_positives_needs_labels_that_say_yes_or_no():
    dataset = one_user(many=5)
    split = make_split(dataset, "none")
    assert Reading(dataset, split, told("given")).history == "positive"
    assert Reading(dataset, split, told("given", history="all")).history == "all"
    assert Reading(dataset, split, told("value")).history == "all"
    with pytest.raises(SettingsError, match=r"data.history=positive needs data.labels given or >=X; got .*sampled"):
        Reading(dataset, split, told("sampled", history="positive"))


def test_targets_without_a_label_are_counted_or_refused():
    rows = [(1, item, item * DAY, 0, 0, NAN if item == 2 else item % 2) for item in range(1, 8)]
    dataset, _ = labelled(rows, parts=False)
    batches = RequestBatches(dataset, make_split(dataset, "none"), told("given"))
    assert (batches.notes["targets"], batches.notes["targets_without_label"]) == (6, 1)
    dataset.label[:5], dataset.label[5:] = NAN, 1.0
    with pytest.raises(ProtocolError, match="no training targets: none of its 5 training events"):
        RequestBatches(dataset, make_split(dataset, "leave-one-out"), told("given"))
    dataset.label[:] = [0, 1, 1, 0, 1, 1, NAN]
    with pytest.raises(ProtocolError, match="none of the 1 test targets has a label"):
        evaluation_requests(dataset, make_split(dataset, "leave-one-out"), "test", told("given"), negatives=5)


def test_batches_keep_their_budget_of_targets_and_of_events():
    dataset = one_user(many=200)
    rolling = told("sampled", 10).changed(["train.batch_tokens=50"])
    sizes = [len(batch) for batch in RequestBatches(dataset, make_split(dataset, "none"), rolling)]
    assert max(sizes) <= 50 + 10
    standing = told("sampled", 200).changed(["train.batch_tokens=50"])
    random = make_split(dataset, "random:0.8,0.1,0.1", seed=1)
    events = [len(batch.histories.items) for batch in RequestBatches(dataset, random, standing)]
    assert max(events) <= (50 + 11) * 16 * 2


@given(windows)
def test_requests_with_a_row_each_are_the_same_requests(window):
    dataset = one_user(many=17)
    batch = next(iter(RequestBatches(dataset, make_split(dataset, "none"), told("sampled", window))))
    apart = batch.separate()
    assert listed(apart) == listed(batch)
    assert torch.equal(apart.histories.lengths, batch.spans.diff(dim=1)[:, 0])
    assert check(apart) is apart
