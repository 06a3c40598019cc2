"""Metrics: by hand in prime sizes, and against ranx and scikit-learn."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as peer

import reference
from regard.evaluate.metrics import (
    BY_CASE,
    auc,
    calibration_error,
    coverage,
    gauc,
    hit_rate,
    log_loss,
    mrr,
    ndcg,
    recall,
)

# three cases with 1, 2 and 5 targets, cut at 7
RANKS = np.array([3, 11, 2, 1, 4, 7, 8, 13])
OFFSETS = np.array([0, 1, 3, 8])


def gain(*places: int) -> float:
    return sum(1 / math.log2(1 + place) for place in places)


def test_by_hand():
    assert recall(RANKS, OFFSETS, 7).tolist() == [1, 1 / 2, 3 / 5]
    assert recall(RANKS, OFFSETS, 2).tolist() == [0, 1 / 2, 1 / 5]
    assert hit_rate(RANKS, OFFSETS, 2).tolist() == [0, 1, 1]
    assert mrr(RANKS, OFFSETS, 7).tolist() == [1 / 3, 1 / 2, 1]
    assert mrr(RANKS, OFFSETS, 2).tolist() == [0, 1 / 2, 1]
    expected = [0.5, gain(2) / gain(1, 2), gain(1, 4, 7) / gain(1, 2, 3, 4, 5)]
    np.testing.assert_allclose(ndcg(RANKS, OFFSETS, 7), expected)
    np.testing.assert_allclose(ndcg(RANKS, OFFSETS, 3), [0.5, gain(2) / gain(1, 2), gain(1) / gain(1, 2, 3)])


def test_the_best_order_is_worth_one():
    ranks, offsets = np.array([1, 1, 2, 1, 2, 3, 4, 5]), np.array([0, 1, 3, 8])
    for k in (1, 2, 3, 5, 7):
        assert ndcg(ranks, offsets, k).tolist() == [1, 1, 1]


def test_no_cases():
    for metric in BY_CASE.values():
        assert metric(np.zeros(0, int), np.zeros(1, int), 5).tolist() == []


def test_coverage():
    top = np.array([[3, 1, 5], [3, 2, 0], [1, 0, 0]])
    assert coverage(top, 3, 11) == 4 / 11
    assert coverage(top, 1, 11) == 2 / 11


@given(st.lists(st.sets(st.integers(1, 13), min_size=1, max_size=5), min_size=1, max_size=7), st.integers(1, 17))
def test_every_metric_agrees_with_its_slow_twin(cases, k):
    ranks = np.array([rank for case in cases for rank in case])
    offsets = np.concatenate([[0], np.cumsum([len(case) for case in cases])])
    for name, metric in BY_CASE.items():
        expected = [reference.metric_of_case(name, case, k) for case in cases]
        np.testing.assert_allclose(metric(ranks, offsets, k), expected)


def test_ranx_agrees(monkeypatch):
    rng = np.random.default_rng(3)
    places = range(1, 32)
    cases = [rng.choice(places, rng.integers(1, 6), replace=False) for _ in range(53)]
    ranks, offsets = np.concatenate(cases), np.concatenate([[0], np.cumsum([len(case) for case in cases])])
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")  # compiling takes a minute, the comparison as plain Python no time
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba's, about its own threads and types
        import ranx

        truth = ranx.Qrels({f"q{i:02}": {f"d{rank}": 1 for rank in case} for i, case in enumerate(cases)})
        lists = ranx.Run({f"q{i:02}": {f"d{place}": 1.0 / place for place in places} for i in range(len(cases))})
        theirs = ranx.evaluate(truth, lists, [f"{name}@7" for name in BY_CASE], return_mean=False)
    for name, metric in BY_CASE.items():
        np.testing.assert_allclose(metric(ranks, offsets, 7), theirs[f"{name}@7"], err_msg=name)


labelled = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=41)


@given(labelled)
def test_auc_agrees_with_scikit_learn(rows):
    labels, scores, groups = np.array(rows).T
    both = 0 < labels.sum() < len(labels)
    if both:
        assert auc(labels, scores) == pytest.approx(peer.roc_auc_score(labels, scores))
    else:
        assert math.isnan(auc(labels, scores))
    found = [np.flatnonzero(groups == group) for group in set(groups.tolist())]
    usable = [mine for mine in found if 0 < labels[mine].sum() < len(mine)]
    areas = [peer.roc_auc_score(labels[mine], scores[mine]) for mine in usable]
    for weighting, weights in (("impressions", [len(mine) for mine in usable]), ("uniform", [1] * len(usable))):
        mean = gauc(labels, scores, groups, weighting)
        assert (mean.groups, mean.skipped) == (len(usable), len(found) - len(usable))
        if usable:
            assert mean.value == pytest.approx(np.average(areas, weights=weights))
        else:
            assert math.isnan(mean.value)


def test_gauc_by_hand():
    labels = [1, 0, 0, 1, 0, 1, 1]
    scores = [0.9, 0.2, 0.9, 0.1, 0.5, 0.3, 0.8]
    users = ["a", "a", "a", "b", "b", "c", "c"]
    assert gauc(labels, scores, users) == pytest.approx((3 * 0.75 / 5, 2, 1))
    assert gauc(labels, scores, users, "uniform") == pytest.approx((0.375, 2, 1))


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0.01, 0.99)), min_size=1, max_size=31))
def test_log_loss_agrees_with_scikit_learn(rows):
    labels, chances = np.array(rows).T
    assert log_loss(labels, chances) == pytest.approx(peer.log_loss(labels, chances, labels=[0, 1]))


def test_log_loss_of_certainty_is_finite():
    assert log_loss([1, 0], [1.0, 0.0]) == pytest.approx(0, abs=1e-6)
    assert log_loss([0], [1.0]) == pytest.approx(-math.log(1e-7), rel=1e-6)


def test_calibration_error_by_hand():
    chances = [0.1, 0.1, 0.2, 0.7, 0.8, 0.9]
    labels = [0, 1, 0, 1, 1, 0]
    # two bins of three: means 0.4 / 3 and 0.8, shares 1/3 and 2/3
    assert calibration_error(labels, chances, bins=2) == pytest.approx((3 * 0.2 + 3 * (0.8 - 2 / 3)) / 6)
    assert calibration_error(labels, chances, bins=1) == pytest.approx(abs(2.8 / 6 - 0.5))


def test_calibration_error_never_parts_equal_probabilities():
    labels = np.array([1] * 7 + [0] * 13)
    assert calibration_error(labels, np.full(20, 0.35), bins=5) == pytest.approx(0)
    chances = np.array([0.2] * 10 + [0.9] * 3 + [0.4] * 7)
    order = np.random.default_rng(0).permutation(20)
    assert calibration_error(labels, chances) == pytest.approx(calibration_error(labels[order], chances[order]))


def test_calibration_error_of_the_truth_is_small():
    rng = np.random.default_rng(5)
    chances = rng.random(20_011)
    labels = rng.random(20_011) < chances
    assert calibration_error(labels, chances) < 0.02
    assert calibration_error(labels, chances**2) == pytest.approx(1 / 2 - 1 / 3, abs=0.02)
