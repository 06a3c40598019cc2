"""Bootstrap: against the formula of a mean's error, and against a loop of resamples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from regard.evaluate import bootstrap
from regard.evaluate.bootstrap import interval, resampled_means


def test_the_interval_is_that_of_a_normal_mean():
    values = np.random.default_rng(0).gamma(2, size=5003)
    low, high = interval(resampled_means([values], 4000, seed=1)[:, 0])
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_it_agrees_with_scipy():
    values = np.random.default_rng(0).random(97) ** 3
    theirs = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(5))
    low, high = interval(resampled_means([values], 4000, seed=1)[:, 0])
    assert (low, high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.006)


def test_columns_share_their_users_and_gaps_are_left_out():
    rng = np.random.default_rng(0)
    values = rng.random((41, 3))
    values[::2, 1] = np.nan
    values[:, 2] = values[:, 0] + 0.25
    means = resampled_means(values.T, 60, seed=3)
    np.testing.assert_allclose(means[:, 2], means[:, 0] + 0.25, rtol=1e-6)
    draw = np.random.default_rng(3)
    for row in means:
        picked = values[draw.integers(0, 41, 41)]
        np.testing.assert_allclose(row, np.nanmean(picked, axis=0), rtol=1e-6)


def test_blocks_do_not_change_the_draws(monkeypatch):
    values = np.random.default_rng(0).random((5, 31))
    whole = resampled_means(values, 23, seed=3)
    monkeypatch.setattr(bootstrap, "BLOCK", 31 * 4)
    np.testing.assert_allclose(resampled_means(values, 23, seed=3), whole, rtol=1e-6)


def test_small_and_empty_cases():
    constant = np.full(13, 0.3)
    assert interval(resampled_means([constant], 50, seed=0)[:, 0]) == pytest.approx((0.3, 0.3), rel=1e-12)
    assert resampled_means([constant], 0, seed=0).shape == (0, 1)
    assert interval(np.zeros(0)) == (None, None)
    nobody = resampled_means([np.full(13, np.nan), constant], 50, seed=0)
    assert np.isnan(nobody[:, 0]).all()
    assert interval(nobody[:, 0]) == (None, None)
    one = np.array([0.7] + [np.nan] * 4)
    assert interval(resampled_means([one], 50, seed=0)[:, 0]) == pytest.approx((0.7, 0.7))
