"""Evaluation of a fake scorer with random ranks, against loops over its cases."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from reference import dataset_of
from regard.data.split import make_split
from regard.errors import ProtocolError, SettingsError, StorageError
from regard.evaluate.protocol import evaluate, quick
from regard.evaluate.result import Result, as_json

DAY = 86_400_000_000
METRICS = ("ndcg", "hit_rate", "recall", "mrr")


class Shuffled:
    """Puts the candidates of every case into a random order, the same one whenever it is asked."""

    uses_request_time = True

    def __init__(self, dataset, seed):
        self.dataset, self.seed = dataset, seed

    def rank(self, cases, *, k, filter_seen):
        draw = np.random.default_rng(self.seed)
        ranks, top = [], np.zeros((len(cases), k), np.int32)
        for i in range(len(cases)):
            order = draw.permutation(np.arange(1, self.dataset.n_items + 1))
            if filter_seen:
                order = order[~np.isin(order, self.dataset.item[cases.events([i])[0]])]
            for target in cases.targets[cases.target_offsets[i] : cases.target_offsets[i + 1]]:
                place = np.flatnonzero(order == self.dataset.item[target])
                ranks.append(place[0] + 1 if len(place) else max(self.dataset.n_items, k) + 1)
            top[i, : len(order)] = order[:k]
        return np.array(ranks, np.int64), top


event = st.tuples(
    st.integers(1, 7), st.integers(1, 5), st.integers(0, 9).map(lambda days: days * DAY), st.just(0), st.just(0)
)
logs = st.lists(event, min_size=5, max_size=40)
BANDS = {
    "history": [("0", 0, 0), ("1-4", 1, 4), ("5-19", 5, 19), ("20-99", 20, 99), ("100+", 100, 10**9)],
    "target events": [("0", 0, 0), ("1-5", 1, 5), ("6-20", 6, 20), (">20", 21, 10**9)],
}


@given(
    logs,
    st.sampled_from(["leave-one-out", "time:0.6", "random:0.6,0.2,0.2"]),
    st.sampled_from(["next", "last", "set"]),
    st.sampled_from(["filter", "keep"]),
    st.integers(0, 5),
)
def test_evaluation_agrees_with_loops(rows, rule, targets, seen, seed):
    dataset, log = dataset_of(rows, parts=False)
    try:
        split = make_split(dataset, rule)
        cases = split.cases(dataset, "test", targets)
    except ProtocolError:
        return
    scorer = Shuffled(dataset, seed)
    result = evaluate(scorer, dataset, split, targets=targets, seen=seen, k=(2, 3), bootstrap=20)
    ranks, top = scorer.rank(cases, k=3, filter_seen=seen == "filter")
    counts = split.training_item_counts(dataset)
    bounds = cases.target_offsets
    asked = []  # of each case: user, length of history, (rank, training events) of its targets
    for i in range(len(cases)):
        of_case = [(int(ranks[at]), int(counts[log[cases.targets[at]][1]])) for at in range(bounds[i], bounds[i + 1])]
        asked.append((int(cases.user[i]), int(cases.history_end[i] - cases.history_start[i]), of_case))

    for name in METRICS:
        for k in (2, 3):
            whole = [(user, [rank for rank, _ in found]) for user, _, found in asked]
            trained = [(user, [rank for rank, count in found if count]) for user, _, found in asked]
            for key, expected in ((f"{name}@{k}", whole), (f"{name}@{k}|trained", trained)):
                assert result.value(key) == pytest.approx(reference.mean_over_users(name, k, expected))
            for kind, bands in BANDS.items():
                for band, low, high in bands:
                    inside = [
                        (
                            user,
                            [rank for rank, count in found if low <= (length if kind == "history" else count) <= high],
                        )
                        for user, length, found in asked
                    ]
                    expected = reference.mean_over_users(name, k, inside)
                    stratum = result.strata.get(f"{kind} {band}")
                    if expected is None:
                        assert stratum is None
                        continue
                    assert stratum["metrics"][f"{name}@{k}"]["value"] == pytest.approx(expected)
                    held = [(user, found) for user, found in inside if found]
                    assert stratum["cases"] == len(held)
                    assert stratum["users"] == len({user for user, _ in held})
                    assert stratum["targets"] == sum(len(found) for _, found in held)
    for k in (2, 3):
        shown = {int(item) for row in top[:, :k] for item in row} - {0}
        assert result.value(f"coverage@{k}") == pytest.approx(len(shown) / dataset.n_items)

    said = result.protocol
    assert (said["users"], said["cases"], said["target_events"]) == (
        len(set(cases.user.tolist())),
        len(cases),
        len(cases.targets),
    )
    assert said["targets_never_trained"] == sum(count == 0 for *_, found in asked for _, count in found)
    repeated = sum(
        log[target][1] in {log[row][1] for row in cases.events([i])[0]}
        for i in range(len(cases))
        for target in cases.targets[bounds[i] : bounds[i + 1]]
    )
    assert said["targets_in_history"] == repeated
    assert said["cases_without_history"] == sum(length == 0 for _, length, _ in asked)
    assert quick(scorer, dataset, cases, k=(2, 3), filter_seen=seen == "filter") == pytest.approx(
        {key: result.value(key) for key in result.metrics if "|" not in key}
    )
    json.dumps(as_json(result, {"popular": result}), allow_nan=False)


def shop(users=23, events=7, items=11):
    item = np.random.default_rng(1).integers(1, items + 1, (users, events)).tolist()
    rows = [(user + 1, item[user][n], n * DAY, 0, 0) for user in range(users) for n in range(events)]
    dataset, _ = dataset_of(rows, parts=False)
    return dataset, make_split(dataset, "leave-one-out")


def test_what_is_stated():
    dataset, split = shop()
    result = evaluate(Shuffled(dataset, 0), dataset, split, part="validation", bootstrap=50, seed=4)
    said = result.protocol
    assert (said["part"], said["split"], said["targets"], said["catalogue"]) == (
        "validation",
        "leave-one-out",
        "next",
        11,
    )
    assert said["seen"] == "keep"
    assert said["repeat_share"] > 0.01
    assert said["request_time_used"] is True
    assert said["interval"] == {"level": 0.95, "method": "percentile bootstrap over users", "resamples": 50, "seed": 4}
    assert said["dataset"] == "stand-in"
    assert said["split_counts"]["users_only_training"] == 0
    assert set(result.timing) == {"ranking_seconds", "metrics_seconds", "machine", "cores", "device"}
    assert set(result.metrics) == {f"{name}@10{tail}" for name in METRICS for tail in ("", "|trained")} | {
        "coverage@10"
    }


def test_a_miss_is_no_hit_even_where_the_list_is_longer_than_the_catalogue():
    dataset, split = shop(items=5)
    result = evaluate(Shuffled(dataset, 0), dataset, split, seen="filter", k=(10,), bootstrap=0)
    hidden = result.protocol["targets_in_history"]
    assert 0 < hidden < 23
    assert result.value("recall@10") == pytest.approx((23 - hidden) / 23)


def test_choices_that_do_not_fit():
    dataset, split = shop()
    scorer = Shuffled(dataset, 0)
    for choice, text in (
        ({"targets": "first"}, "evaluate.targets: expected next, last, set; got 'first'"),
        ({"part": "train"}, "evaluate.part: expected validation, test"),
        ({"seen": "hide"}, "evaluate.seen"),
        ({"k": ()}, "evaluate.k: expected whole numbers from 1"),
        ({"k": (0, 10)}, "evaluate.k"),
    ):
        with pytest.raises(SettingsError, match=text):
            evaluate(scorer, dataset, split, **choice)
    with pytest.raises(TypeError, match="'cutoff'"):
        evaluate(scorer, dataset, split, cutoff=3)


def test_a_saved_result_is_the_loaded_one(tmp_path):
    dataset, split = shop()
    result = evaluate(Shuffled(dataset, 0), dataset, split, bootstrap=50)
    result.save(tmp_path, "test")
    again = Result.load(tmp_path, "test")
    assert again.to_json() == result.to_json()
    assert again.users.tolist() == result.users.tolist()
    assert again.users.dtype == np.int32
    assert list(again.per_user) == list(result.per_user)
    for key, values in result.per_user.items():
        np.testing.assert_array_equal(again.per_user[key], values)
    assert np.nanmean(again.per_user["ndcg@10"]) == pytest.approx(result.value("ndcg@10"), rel=1e-6)

    with pytest.raises(StorageError, match="`regard evaluate` makes one"):
        Result.load(tmp_path, "other")
    (tmp_path / "test.npz").write_bytes(b"PK nonsense")
    with pytest.raises(StorageError, match="is damaged"):
        Result.load(tmp_path, "test")


def test_the_same_seed_gives_the_same_intervals():
    dataset, split = shop()
    first, second, other = (
        evaluate(Shuffled(dataset, 0), dataset, split, bootstrap=200, seed=seed).metrics["ndcg@10"]
        for seed in (1, 1, 2)
    )
    assert first == second
    assert first["low"] < first["value"] < first["high"]
    assert other != first
