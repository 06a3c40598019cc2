"""Splits: against a slow twin, and by what must never happen (a case that sees its target or anything later)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from reference import BEHAVIOURS, dataset_of
from regard.data.cases import ranges
from regard.data.events import Columns, EventLog
from regard.data.split import Split, make_split, resolve_seen
from regard.data.store import Dataset
from regard.errors import ProtocolError, SettingsError

DAY = 86_400_000_000
RULES = ("leave-one-out", "time:0.7", "last-days:2", "users:0.2", "parts", "random:0.6,0.2,0.2", "none")


def labels_of(split: Split, total: int) -> list[str]:
    """Say of every event row where it went; fails where a row is in two parts or none."""
    labels = [""] * total
    bounds = (split.start, split.train_end, split.validation_end, split.end)
    for name, starts, ends in zip(("train", "validation", "test"), bounds, bounds[1:], strict=False):
        for position in ranges(starts, ends)[0]:
            row = position if split.order is None else split.order[position]
            assert labels[row] == ""
            labels[row] = name
    assert "" not in labels
    return labels


def listed(cases):
    rows = np.arange(len(cases))
    events, offsets = cases.events(rows)
    bounds = cases.target_offsets
    return [
        (
            int(cases.user[i]),
            events[offsets[i] : offsets[i + 1]].tolist(),
            cases.targets[bounds[i] : bounds[i + 1]].tolist(),
        )
        for i in rows
    ]


event = st.tuples(
    st.integers(1, 7),
    st.integers(1, 5),
    st.integers(0, 9).map(lambda half_days: half_days * DAY // 2),  # few values: many ties
    st.integers(0, 2),
    st.integers(0, 1),
)
events = st.lists(event, min_size=1, max_size=40)
wanted_behaviours = st.sampled_from([(), ("purchase",), ("cart", "purchase")])


@given(
    events,
    st.sampled_from(RULES),
    st.sampled_from(["next", "last", "set"]),
    st.sampled_from(["validation", "test"]),
    st.booleans(),
    wanted_behaviours,
)
def test_split_agrees_with_its_slow_twin(rows, rule, targets, part, parts, behaviours):
    dataset, log = dataset_of(rows, parts=parts or rule == "parts")
    wanted = {BEHAVIOURS.index(name) for name in behaviours} or None
    try:
        split = make_split(dataset, rule, seed=3, target_behaviours=behaviours)
    except ProtocolError:  # nothing to train on
        return
    labels = labels_of(split, len(log))
    if rule.partition(":")[0] not in ("users", "random", "none"):
        assert labels == reference.split_labels(log, rule, wanted)
    expected = reference.split_cases(log, labels, rule, part, targets, wanted)
    if not expected:
        with pytest.raises(ProtocolError, match=f"leaves no {part} cases"):
            split.cases(dataset, part, targets)
        return
    cases = split.cases(dataset, part, targets)
    assert listed(cases) == expected
    assert [len(history) and log[history[-1]][1] for _, history, _ in expected] == [
        len(history) and dataset.item[history[-1]] for _, history, _ in listed(cases)
    ]
    in_history = [
        any(log[row][1] == log[target][1] for row in history) for _, history, found in expected for target in found
    ]
    assert cases.in_history(dataset.item).tolist() == in_history


@given(events, st.sampled_from(RULES), st.sampled_from(["next", "last", "set"]), st.booleans())
def test_no_case_sees_its_target_or_anything_later(rows, rule, targets, parts):
    dataset, log = dataset_of(rows, parts=parts or rule == "parts")
    try:
        cases = make_split(dataset, rule, seed=1).cases(dataset, "test", targets)
    except ProtocolError:
        return
    for user, history, found in listed(cases):
        assert not set(history) & set(found)
        assert all(log[row][0] == user for row in history + found)
        if rule not in ("parts", "random:0.6,0.2,0.2"):  # given parts may overlap in time; random knows no time
            assert all(log[row][2] <= log[target][2] for row in history for target in found)


@given(events)
def test_training_events_of_a_time_split_are_older_than_all_held_back(rows):
    dataset, log = dataset_of(rows)
    labels = labels_of(make_split(dataset, "time:0.8"), len(log))
    by_label = {name: [log[row][2] for row in range(len(log)) if labels[row] == name] for name in set(labels)}
    for early, late in (("train", "validation"), ("validation", "test"), ("train", "test")):
        assert max(by_label.get(early, [-1])) < min(by_label.get(late, [10**18]))


def test_time_split_by_hand():
    rows = [(1 + n % 3, 1, n * DAY, 0, 0) for n in range(50)]
    dataset, _ = dataset_of(rows, parts=False)
    split = make_split(dataset, "time:0.8")
    assert split.notes["test_events"] == 10
    assert split.notes["validation_events"] == 4
    assert split.notes["training_events"] == 36
    assert split.notes["test_after"] == "1970-02-09T00:00:00.000000"
    assert split.order is None


def test_leave_one_out_by_hand():
    view, cart, purchase = range(3)
    rows = [
        *((1, 1, day * DAY, behaviour, 0) for day, behaviour in enumerate([purchase, view, purchase, cart, purchase])),
        *((2, 1, day * DAY, behaviour, 0) for day, behaviour in enumerate([purchase, purchase, view])),
        (1, 1, 9 * DAY, view, 0),
    ]
    dataset, _ = dataset_of(rows, parts=False)
    split = make_split(dataset, "leave-one-out", target_behaviours=["purchase"])
    assert split.train_end.tolist() == [0, 2, 9]
    assert split.validation_end.tolist() == [0, 4, 9]
    assert split.notes["users_only_training"] == 1
    assert split.notes["test_targets"] == 1
    cases = split.cases(dataset, "test")
    assert listed(cases) == [(1, [0, 1, 2, 3], [4])]


@given(st.lists(st.integers(1, 6), min_size=8, max_size=30), st.integers(0, 5))
def test_users_are_held_out_whole_and_the_seed_decides_which(lengths, seed):
    rows = [(user, 1, n * DAY, 0, 0) for user, length in enumerate(lengths, 1) for n in range(length)]
    dataset, log = dataset_of(rows, parts=False)
    split = make_split(dataset, "users:0.2", seed)
    labels = labels_of(split, len(log))
    of_user = {
        user: {labels[row] for row in range(len(log)) if log[row][0] == user} for user in range(1, len(lengths) + 1)
    }
    assert all(len(found) == 1 for found in of_user.values())
    share = max(round(0.2 * len(lengths)), 1)
    assert [sum(found == {part} for found in of_user.values()) for part in ("validation", "test")] == [share, share]
    again = make_split(dataset, "users:0.2", seed)
    assert (again.train_end == split.train_end).all()


def test_random_shares_are_exact_and_seeded():
    rows = [(1 + n % 7, 1 + n % 11, 0, 0, 0) for n in range(101)]
    dataset, log = dataset_of(rows, kind="none", parts=False)
    first, second, other = (make_split(dataset, "random:80,10,10", seed) for seed in (5, 5, 6))
    labels = labels_of(first, len(log))
    assert [labels.count(part) for part in ("train", "validation", "test")] == [81, 10, 10]
    assert (first.order == second.order).all()
    assert (first.order != other.order).any()
    assert not first.rolling
    cases = first.cases(dataset, "test")
    for user, history, _ in listed(cases):
        assert history == [row for row in range(101) if log[row][0] == user and labels[row] == "train"]


def test_validation_of_given_parts_without_timestamps():
    rows = [(user, 1, n, 0, int(user <= 10 and n == 3)) for user in range(1, 41) for n in range(4)]
    dataset, log = dataset_of(rows, kind="order")
    split = make_split(dataset, "auto", seed=2)
    assert split.rule == "parts"
    labels = labels_of(split, len(log))
    held = {log[row][0] for row in range(len(log)) if labels[row] == "validation"}
    assert len(held) == 4
    assert min(held) > 10, "users with test events keep their training"
    assert all(labels[row] == "validation" for row in range(len(log)) if log[row][0] in held)
    assert labels.count("test") == 10

    dataset, log = dataset_of(rows, kind="none")
    split = make_split(dataset, "parts", seed=2)
    labels = labels_of(split, len(log))
    assert labels.count("validation") == 15
    assert not split.rolling
    assert all((label == "test") == (event[4] == 1) for label, event in zip(labels, log, strict=True))


def test_rules_follow_time_where_the_store_puts_parts_first():
    rows = [(1, 1, 5 * DAY, 0, 0), (1, 2, 1 * DAY, 0, 1), (1, 3, 3 * DAY, 0, 0), (1, 4, 2 * DAY, 0, 1)]
    dataset, log = dataset_of(rows)
    split = make_split(dataset, "leave-one-out")
    assert [log[row][2] // DAY for row in split.order] == [1, 2, 3, 5]
    (case,) = listed(split.cases(dataset, "test"))
    assert [log[row][2] // DAY for row in case[1] + case[2]] == [1, 2, 3, 5]


@pytest.mark.parametrize(
    ("kind", "rule"), [("timestamp", "time:0.9"), ("order", "leave-one-out"), ("none", "random:0.8,0.1,0.1")]
)
def test_auto(kind, rule):
    rows = [(user, user, n * DAY, 0, 0) for user in range(1, 9) for n in range(5)]
    assert make_split(dataset_of(rows, kind, parts=False)[0], "auto").rule == rule
    assert make_split(dataset_of(rows, kind)[0], "auto").rule == "parts"


@pytest.mark.parametrize(
    ("kind", "rule", "reason"),
    [
        ("order", "time:0.9", "needs timestamps, but this log has times that only order the events of one user"),
        ("order", "last-days:7", "--time-kind timestamp"),
        ("none", "time:0.9", "no time column"),
        ("none", "leave-one-out", "--time-kind order if the order of its rows is meant"),
        ("none", "users:0.1", "needs an order of events"),
        ("order", "parts", "part = 'train' and part = 'test'"),
    ],
)
def test_refusals_say_why_and_what_to_do(kind, rule, reason):
    rows = [(user, user, n, 0, 0) for user in range(1, 9) for n in range(5)]
    with pytest.raises(ProtocolError, match=reason) as caught:
        make_split(dataset_of(rows, kind, parts=False)[0], rule)
    assert "\n" not in str(caught.value)


def test_last_target_needs_an_order():
    rows = [(user, user, 0, 0, 0) for user in range(1, 9) for n in range(5)]
    dataset, _ = dataset_of(rows, "none", parts=False)
    split = make_split(dataset, "auto")
    assert len(split.cases(dataset, "test", "set")) <= len(split.cases(dataset, "test", "next"))
    with pytest.raises(ProtocolError, match=r"--targets last needs an order of events.*use --targets next or set"):
        split.cases(dataset, "test", "last")


@pytest.mark.parametrize(
    "rule",
    [
        *(
            "",
            "leave-one",
            "time",
            "time:",
            "time:x",
            "time:1",
            "time:nan",
            "last-days:0",
            "last-days:inf",
            "users:0.5",
        ),
        *("users:0.1,0.1", "parts:1", "random:1", "random:0,1,1", "random:0.8,-0.1,0.3", "none:1", "auto:2"),
    ],
)
def test_bad_rules_name_the_forms(rule):
    dataset, _ = dataset_of([(1, 1, 0, 0, 0)], parts=False)
    with pytest.raises(SettingsError, match=r"data\.split: .*(leave-one-out \| time:Q|expected )"):
        make_split(dataset, rule)


def test_bad_target_behaviours_name_the_nearest():
    rows = [(1, 1, n, 0, 0) for n in range(5)]
    with pytest.raises(SettingsError, match=r"'purchse' is not known \(did you mean 'purchase'\?\)"):
        make_split(dataset_of(rows)[0], "leave-one-out", target_behaviours=["purchse"])
    with pytest.raises(SettingsError, match="no behaviour column"):
        make_split(dataset_of(rows, behaviours=False)[0], "leave-one-out", target_behaviours=["purchase"])


def test_nothing_held_back_is_said_when_cases_are_asked_for():
    tied = dataset_of([(1, 1, DAY, 0, 0)] * 9, parts=False)[0]
    with pytest.raises(ProtocolError, match="leaves no test cases: no event falls there"):
        make_split(tied, "time:0.9").cases(tied, "test")
    with pytest.raises(ProtocolError, match="it holds nothing back"):
        make_split(tied, "none").cases(tied, "validation")
    short = dataset_of([(user, 1, n * DAY, 0, 0) for user in range(1, 5) for n in range(2)], parts=False)[0]
    with pytest.raises(ProtocolError, match="no user has three target events"):
        make_split(short, "leave-one-out").cases(short, "test")
    views = dataset_of([(1, 1, n * DAY, 0, 0) for n in range(20)], parts=False)[0]
    with pytest.raises(ProtocolError, match="none of its 2 test events is a purchase"):
        make_split(views, "time:0.9", target_behaviours=["purchase"]).cases(views, "test")
    with pytest.raises(ProtocolError, match="nothing to train on"):
        make_split(views, "last-days:99")
    with pytest.raises(ProtocolError, match="nothing to train on"):
        make_split(views, "last-days:1e300")


@pytest.mark.parametrize("rule", ["leave-one-out", "time:0.7", "users:0.2", "random:0.6,0.2,0.2"])
def test_a_stored_dataset_splits_as_the_stand_in_does(rule, tmp_path):
    rng = np.random.default_rng(7)
    rows = [
        (int(u), int(i), int(20_000 + t) * DAY, int(b), 0) for u, i, t, b in rng.integers(1, [8, 12, 30, 3], (200, 4))
    ]
    names = ["user", "item", "time", "behaviour"]
    table = pa.table({name: [row[at] for row in rows] for at, name in enumerate(names)})
    table = table.set_column(2, "time", table["time"].cast(pa.timestamp("us")))
    table = table.set_column(3, "behaviour", pa.array([BEHAVIOURS[row[3]] for row in rows]))
    columns = Columns(user="user", item="item", time="time", behaviour="behaviour")
    dataset = Dataset.build(EventLog.read(table, columns), tmp_path / "shop")
    users, items = (
        {raw: index for index, raw in enumerate(v.ids(range(1, len(v) + 1)), 1)} for v in (dataset.users, dataset.items)
    )
    behaviours = {name: code for code, name in enumerate(dataset.behaviours)}
    same, _ = dataset_of([(users[str(u)], items[str(i)], t, behaviours[BEHAVIOURS[b]], 0) for u, i, t, b, _ in rows])
    same.behaviours, same.part = dataset.behaviours, None
    assert (same.offsets == dataset.offsets).all()
    assert (same.time == dataset.time).all()
    ours, stored = (make_split(each, rule, seed=1, target_behaviours=["purchase"]) for each in (same, dataset))
    assert stored.notes == ours.notes
    assert listed(stored.cases(dataset, "test")) == listed(ours.cases(same, "test"))


@given(events, st.sampled_from(RULES))
def test_training_counts_and_notes(rows, rule):
    dataset, log = dataset_of(rows)
    try:
        split = make_split(dataset, rule)
    except ProtocolError:
        return
    labels = labels_of(split, len(log))
    trained = [log[row][1] for row in range(len(log)) if labels[row] == "train"]
    assert split.training_item_counts(dataset).tolist() == [trained.count(item) for item in range(dataset.n_items + 1)]
    starts, ends = split.training(dataset)
    assert int((ends - starts).sum()) == len(trained) == split.notes["training_events"]
    train_users = {log[row][0] for row in range(len(log)) if labels[row] == "train"}
    for part in ("validation", "test"):
        held = [row for row in range(len(log)) if labels[row] == part]
        users = {log[row][0] for row in held}
        assert split.notes[f"{part}_events"] == split.notes[f"{part}_targets"] == len(held)
        assert split.notes[f"{part}_targets_never_trained"] == sum(log[row][1] not in trained for row in held)
        assert split.notes[f"{part}_users"] == len(users)
        assert split.notes[f"{part}_users_never_trained"] == len(users - train_users)


@given(events)
def test_seen_rule_counts_repeats(rows):
    dataset, log = dataset_of(rows, parts=False)
    split = make_split(dataset, "none")
    seen: set[tuple[int, int]] = set()
    repeats = 0
    for user, item, *_ in log:
        repeats += (user, item) in seen
        seen.add((user, item))
    rule, share = resolve_seen(dataset, split, "auto")
    assert share == pytest.approx(repeats / len(log))
    assert rule == ("keep" if share > 0.01 else "filter")
    assert resolve_seen(dataset, split, "filter") == ("filter", share)
    assert resolve_seen(dataset, split, "keep") == ("keep", share)
    with pytest.raises(SettingsError, match=r"evaluate\.seen: expected auto, filter or keep"):
        resolve_seen(dataset, split, "hide")


@given(events, st.integers(1, 4), st.data())
def test_take_and_window(rows, window, data):
    dataset, _ = dataset_of(rows, parts=False)
    try:
        cases = make_split(dataset, "random:0.5,0,0.5", seed=4).cases(dataset, "test", "set")
    except ProtocolError:
        return
    picked = data.draw(st.lists(st.integers(0, len(cases) - 1), max_size=9))
    taken = cases.take(np.array(picked, int))
    assert listed(taken) == [listed(cases)[row] for row in picked]
    assert taken.in_history(dataset.item).tolist() == [
        known
        for row in picked
        for known in cases.in_history(dataset.item)[cases.target_offsets[row] : cases.target_offsets[row + 1]].tolist()
    ]
    newest, offsets = cases.events(np.array(picked, int), window)
    for at, row in enumerate(picked):
        assert newest[offsets[at] : offsets[at + 1]].tolist() == listed(cases)[row][1][-window:]


@given(events, st.floats(0.01, 1.0))
def test_keeping_some_users_changes_what_trains_and_nothing_else(rows, share):
    dataset, _ = dataset_of(rows, parts=False)
    split = make_split(dataset, "leave-one-out")
    some, more = split.keeping(share), split.keeping(min(1.0, 2 * share))
    starts, ends = some.training(dataset)
    whole = split.training(dataset)[1]
    lengths, before = ends - starts, whole - split.start
    training = int((before > 0).sum())
    assert all(length in (0, full) for length, full in zip(lengths, before, strict=True))
    if share < 1:
        assert int((lengths > 0).sum()) == (min(training, max(1, round(share * training))))
        assert not ((lengths > 0) & (np.diff(more.training(dataset), axis=0)[0] == 0)).any()
    assert some.training_item_counts(dataset).sum() == lengths.sum()
    assert some.fingerprint == split.fingerprint
    assert resolve_seen(dataset, some, "auto") == resolve_seen(dataset, split, "auto")
    try:
        cases = split.cases(dataset, "test")
    except ProtocolError:
        return
    assert listed(some.cases(dataset, "test")) == listed(cases)
