"""Labelled evaluation: against scikit-learn, a slow bootstrap, and by what save, load and compare must keep."""

from __future__ import annotations

import json
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from sklearn import metrics as peer
from sklearn.calibration import calibration_curve

from reference import dataset_of
from regard.config import Settings
from regard.data.requests import evaluation_requests
from regard.data.split import make_split
from regard.errors import DivergenceError, ProtocolError
from regard.evaluate import figures as figures_room
from regard.evaluate.areas import WeightedAuc, auc_by_user
from regard.evaluate.compare import compare
from regard.evaluate.figures import Labelled, differences, equal_mass, figures_of, numbers
from regard.evaluate.labelled import collected, evaluate_labelled, labelled_keys, quick_labelled
from regard.evaluate.labelled_report import labelled_report
from regard.evaluate.result import Result

DAY = 86_400_000_000

candidates = st.lists(
    st.tuples(st.integers(0, 1), st.integers(1, 6), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=41
)


def taken(labels, predictions, users):
    known, user = np.unique(users, return_inverse=True)
    return Labelled(np.asarray(labels, float), np.asarray(predictions, float), user, known, len(labels), 0)


def random_data(seed=0, users=29, many=400):
    rng = np.random.default_rng(seed)
    chances = rng.random(many).round(2)  # ties
    return taken(
        rng.random(many) < chances, np.clip(chances + rng.normal(0, 0.1, many), 0, 1), rng.integers(0, users, many)
    )


@given(candidates)
def test_weighted_auc_is_that_of_repeated_users(rows):
    labels, scores, user, times = np.array(rows).T
    weights = np.bincount(user, minlength=5) * 0 + np.array([times[user == one][:1].sum() for one in range(5)])
    area = WeightedAuc(labels > 0, scores / 7, user, 5)
    many = weights[user]
    left = (many[labels > 0].sum(), many[labels == 0].sum())
    (found,) = area(weights[:, None].astype(float))
    if min(left) == 0:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(peer.roc_auc_score(np.repeat(labels, many), np.repeat(scores, many)))


@given(candidates)
def test_auc_by_user_agrees_with_scikit_learn(rows):
    labels, scores, user, _ = np.array(rows).T
    found = auc_by_user(labels > 0, scores, user, 5)
    for one in range(5):
        mine = user == one
        assert found.candidates[one] == mine.sum()
        if 0 < labels[mine].sum() < mine.sum():
            assert found.value[one] == pytest.approx(peer.roc_auc_score(labels[mine], scores[mine]))
        else:
            assert math.isnan(found.value[one])


def slow_figures(labels, chances, user, which):
    """Each figure from scikit-learn on plain candidates."""
    areas, sizes, losses = [], [], []
    for one in np.unique(user):
        mine = user == one
        losses.append(peer.log_loss(labels[mine], chances[mine], labels=[0, 1]))
        if 0 < labels[mine].sum() < mine.sum():
            areas.append(peer.roc_auc_score(labels[mine], chances[mine]))
            sizes.append(mine.sum())
    gaps = [abs((chances - labels)[which == one].sum()) for one in np.unique(which)]
    return {
        "auc": peer.roc_auc_score(labels, chances),
        "gauc": np.average(areas, weights=sizes),
        "log_loss": peer.log_loss(labels, chances),
        "calibration_error": sum(gaps) / len(labels),
        "gauc|by-user": np.mean(areas),
        "log_loss|by-user": np.mean(losses),
    }


def test_figures_are_those_of_scikit_learn_and_intervals_those_of_a_slow_bootstrap(monkeypatch):
    data = random_data()
    which = equal_mass(data.predictions, 7)
    found = numbers(figures_of(data, True, which)[0], data, 11, seed=3)
    rng = np.random.default_rng(3)
    chances = np.clip(data.predictions, 1e-7, 1 - 1e-7)
    drawn = []
    for _ in range(11):
        picked = rng.integers(0, len(data.users), len(data.users))
        rows = [np.flatnonzero(data.user == one) for one in picked]
        place = np.concatenate(rows)
        twins = np.repeat(np.arange(len(picked)), [len(row) for row in rows])  # a user drawn twice is two users
        drawn.append(slow_figures(data.labels[place], chances[place], twins, which[place]))
    for name, value in slow_figures(data.labels, chances, data.user, which).items():
        low, high = np.percentile([row[name] for row in drawn], [2.5, 97.5])
        assert found[name] == {
            "value": pytest.approx(value, rel=1e-6),
            "low": pytest.approx(low, rel=1e-6),
            "high": pytest.approx(high, rel=1e-6),
        }
    monkeypatch.setattr(figures_room, "BLOCK", 999)  # many small blocks, the same draws
    again = numbers(figures_of(data, True, which)[0], data, 11, seed=3)
    assert {name: pytest.approx(number) for name, number in found.items()} == again


def test_values_have_rmse_and_mae():
    labels, guesses = np.array([1.0, 4.0, 2.5, 5.0]), np.array([2.0, 3.5, 2.5, 1.0])
    data = taken(labels, guesses, [1, 1, 2, 2])
    found = numbers(figures_of(data, False, equal_mass(guesses, 3))[0], data, 0, seed=0)
    assert found["rmse"]["value"] == pytest.approx(math.sqrt(peer.mean_squared_error(labels, guesses)))
    assert found["mae"] == {
        "value": pytest.approx(peer.mean_absolute_error(labels, guesses)),
        "low": None,
        "high": None,
    }
    assert found["mae|by-user"]["value"] == pytest.approx((0.75 + 2) / 2)


def test_differences_are_paired():
    data, noise = random_data(), np.random.default_rng(9).normal(0, 0.2, 400)
    worse = taken(data.labels, np.clip(data.predictions + noise, 0, 1), data.users[data.user])
    found = differences(data, worse, bootstrap=200)
    which = [equal_mass(side.predictions, 15) for side in (data, worse)]
    plain = [
        numbers(figures_of(side, True, mine)[0], side, 200, 0) for side, mine in zip((data, worse), which, strict=True)
    ]
    assert found["auc"]["value"] == pytest.approx(plain[1]["auc"]["value"] - plain[0]["auc"]["value"])
    width = found["auc"]["high"] - found["auc"]["low"]
    assert width < 0.8 * (plain[0]["auc"]["high"] - plain[0]["auc"]["low"])  # what users share cancels
    assert found["auc"]["high"] < 0 < found["log_loss"]["low"]
    assert differences(data, data, bootstrap=20)["gauc"] == {"value": 0, "low": 0, "high": 0}


class Truth:
    """Says what a label's chance is from the item alone; nothing of the label is read."""

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise

    def probabilities(self, requests):
        chance = 1 / (1 + np.exp(3 - requests.candidates.numpy() % 5))
        return np.clip(chance + self.noise * np.sin(requests.candidates.numpy()), 0.01, 0.99).astype(np.float32)


def log(labels=True, users=60, many=12):
    rng = np.random.default_rng(2)
    rows = [
        (user, int(item), at * DAY, 0, 0)
        for user in range(1, users + 1)
        for at, item in enumerate(rng.integers(1, 40, many if user % 7 else 1 + user % 2))
    ]
    dataset, stored = dataset_of(rows, behaviours=False, parts=False)
    chance = 1 / (1 + np.exp(3 - dataset.item % 5))
    given = (rng.random(len(stored)) < chance).astype(np.float32)
    given[::17] = np.nan
    dataset.label, dataset.context = given if labels else None, {}
    return dataset


@pytest.mark.parametrize("mode", ["sampled", "given", "value"])
@pytest.mark.parametrize("rule", ["leave-one-out", "time:0.7", "random:0.6,0.2,0.2"])
def test_a_result_keeps_its_protocol_and_goes_through_save_load_and_compare(tmp_path, mode, rule):
    dataset, settings = log(), Settings().changed([f"data.labels={mode}"])
    split = make_split(dataset, rule)
    requests = evaluation_requests(dataset, split, "test", settings, negatives=7)
    results = [evaluate_labelled(Truth(noise), requests, dataset, split, bootstrap=30) for noise in (0.0, 0.3)]
    result = results[0]
    assert list(result.metrics) == labelled_keys(requests.rule, requests.negatives)
    assert ("auc|7-sampled" in result.metrics) == (mode == "sampled")
    there = [key for key, number in result.metrics.items() if number["value"] is not None]
    assert len(there) == len(result.metrics) - 2 * (mode == "given" and rule == "leave-one-out")  # no GAUC of one row
    quick = quick_labelled(Truth(), requests)
    rows = quick.pop("reliability", [])
    assert quick == pytest.approx({key: result.value(key) for key in there})
    assert [row["candidates"] for row in rows] == [stratum["cases"] for stratum in result.strata.values()]
    for row, stratum in zip(rows, result.strata.values(), strict=True):
        assert row["said"] == pytest.approx(stratum["metrics"]["mean_probability"]["value"], abs=1e-6)
        assert row["came"] == pytest.approx(stratum["metrics"]["share_of_positives"]["value"], abs=1e-6)
    for key in there:
        number = result.metrics[key]
        assert number["low"] <= number["value"] <= number["high"] or key.startswith("calibration_error")
    for key, values in result.per_user.items():
        if key not in there:
            assert np.isnan(values).all()
            continue
        assert np.nanmean(values.astype(float)) == pytest.approx(result.value(key), rel=1e-5)
    result.save(tmp_path, "evaluation-test")
    loaded = Result.load(tmp_path, "evaluation-test")
    assert loaded.to_json() == json.loads(json.dumps(result.to_json()))
    found = compare({"base": loaded, "other": results[1]}, bootstrap=20)["against"]["other"]
    assert set(found) == set(result.per_user) & set(there)
    for key, row in found.items():
        assert row["base"] == pytest.approx(result.value(key), rel=1e-5)
        assert row["value"] == pytest.approx(results[1].value(key), rel=1e-5)


def test_the_protocol_says_what_was_asked_and_two_kinds_of_asking_are_not_compared():
    dataset = log()
    split = make_split(dataset, "time:0.7")
    results = {}
    for mode in ("sampled", "given", ">=1"):
        settings = Settings().changed([f"data.labels={mode}"])
        requests = evaluation_requests(dataset, split, "test", settings, negatives=7, seed=4)
        results[mode] = evaluate_labelled(Truth(), requests, dataset, split, bootstrap=0)
    said = results["sampled"].protocol
    assert (
        said["candidates"]
        == "each target and 7 negatives, uniform among items neither in the history nor targets, seed 4"
    )
    assert (said["negatives"], said["negatives_seed"], said["labels"], said["ties"]) == (7, 4, "sampled", "count half")
    assert said["candidates_scored"] == 8 * said["cases"] == 8 * said["positives"]
    assert said["users"] == len(results["sampled"].users)
    given = results["given"].protocol
    assert given["candidates_scored"] == given["cases"]
    assert given["targets_without_label"] > 0
    assert given["users_without_gauc"] == int(np.isnan(results["given"].per_user["gauc|by-user"]).sum())
    for pair in (("sampled", "given"), ("given", ">=1")):
        with pytest.raises(ProtocolError, match="measured differently"):
            compare({name: results[name] for name in pair})


def test_the_reliability_table_is_that_of_scikit_learn():
    dataset = log(users=300)
    split = make_split(dataset, "time:0.5")
    requests = evaluation_requests(dataset, split, "test", Settings().changed(["data.labels=given"]), negatives=1)
    result = evaluate_labelled(Truth(0.1), requests, dataset, split, bootstrap=50, bins=5)
    data = collected(Truth(0.1), requests)
    bins = list(result.strata.values())
    assert list(result.strata) == [f"bin {at + 1}" for at in range(len(bins))]
    assert sum(each["cases"] for each in bins) == len(data.labels)
    assert sum(each["targets"] for each in bins) == data.labels.sum()
    gap = 0.0
    for each in bins:
        value = {name: number["value"] for name, number in each["metrics"].items()}
        mine = (data.predictions >= value["lowest"]) & (data.predictions <= value["highest"])
        assert mine.sum() == each["cases"]
        (share,), (mean,) = calibration_curve(data.labels[mine], data.predictions[mine], n_bins=1, strategy="quantile")
        assert value["share_of_positives"] == pytest.approx(share)
        assert value["mean_probability"] == pytest.approx(mean)
        number = each["metrics"]["share_of_positives"]
        assert number["low"] <= number["value"] <= number["high"]
        gap += each["cases"] / len(data.labels) * abs(share - mean)
    assert result.value("calibration_error") == pytest.approx(gap)


@given(st.integers(1, 9), st.integers(1, 11))
def test_equal_mass_bins_are_those_of_scikit_learn_where_nothing_ties(bins, each):
    rng = np.random.default_rng(each)
    chances = rng.permutation(np.linspace(0.01, 0.99, bins * each))
    labels = rng.integers(0, 2, bins * each)
    which = equal_mass(chances, bins)
    means = np.bincount(which, weights=chances) / np.bincount(which)
    shares = np.bincount(which, weights=labels) / np.bincount(which)
    theirs = calibration_curve(labels, chances, n_bins=bins, strategy="quantile")
    np.testing.assert_allclose(shares, theirs[0])
    np.testing.assert_allclose(means, theirs[1])


def test_one_class_only_has_no_auc_but_a_loss():
    data = taken([1, 1, 1], [0.2, 0.9, 0.9], [4, 4, 5])
    found = numbers(figures_of(data, True, equal_mass(data.predictions, 5))[0], data, 10, 0)
    assert found["auc"] == {"value": None, "low": None, "high": None}
    assert found["gauc"]["value"] is None
    assert found["log_loss"]["value"] == pytest.approx(peer.log_loss([1, 1, 1], data.predictions, labels=[0, 1]))


def test_predictions_that_are_no_numbers_or_too_few_are_refused():
    dataset = log()
    split = make_split(dataset, "leave-one-out")
    requests = evaluation_requests(dataset, split, "test", Settings().changed(["data.labels=sampled"]), negatives=3)
    for answer in (lambda block: np.full(len(block.candidates), np.nan), lambda block: np.ones(len(block))):
        with pytest.raises((AssertionError, DivergenceError), match=re.compile("finite|\\(")):
            collected(SimpleNamespace(probabilities=answer), requests)


class Astray(Truth):
    """Says the opposite."""

    def probabilities(self, requests):
        return 1 - super().probabilities(requests)


@pytest.mark.parametrize("mode", ["given", "value"])
def test_every_figure_in_which_a_baseline_is_ahead_is_told(mode, capsys):
    """Of errors less is better, and where both are alike nobody is ahead."""
    dataset, settings = log(), Settings().changed([f"data.labels={mode}"])
    split = make_split(dataset, "time:0.7")
    requests = evaluation_requests(dataset, split, "test", settings, negatives=7)
    good, bad = (evaluate_labelled(one, requests, dataset, split, bootstrap=0) for one in (Truth(), Astray()))
    figures = ["rmse", "mae"] if mode == "value" else ["auc", "log_loss"]
    for ours, theirs, ahead in ((good, bad, False), (bad, good, True), (good, good, False)):
        Console(width=200).print(labelled_report("ranker", ours, {"popular": theirs}))
        shown = capsys.readouterr().out
        for key in figures:
            line = f"On {key} a baseline is ahead: popular {theirs.value(key):.4f}, ranker {ours.value(key):.4f}."
            assert (line in shown) == ahead
        assert ("is ahead" in shown) == ahead
