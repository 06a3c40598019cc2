"""Negatives: their distribution by chi-square, and what an owner has is never drawn."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from regard.data.negatives import Negatives


def test_uniform_negatives_are_distinct_and_each_allowed_item_is_as_likely():
    sampler = Negatives(np.ones(12, np.int64), 3, np.array([0, 0, 0, 1, 0]), np.array([2, 5, 11, 7, 5]))
    owners = np.repeat([0, 1, 2], 20_000)
    drawn, counts = sampler.draw(owners, 4, np.random.default_rng(0))
    assert (counts == 4).all()
    rows = np.sort(drawn.reshape(-1, 4), axis=1)
    assert (np.diff(rows, axis=1) > 0).all()
    for owner, left_out in enumerate([{2, 5, 11}, {7}, set()]):
        seen = np.bincount(rows[owners == owner].ravel(), minlength=12)
        allowed = [item for item in range(1, 12) if item not in left_out]
        assert seen.sum() == seen[allowed].sum()
        assert chisquare(seen[allowed]).pvalue > 0.001
    np.testing.assert_allclose(np.exp(sampler.log_rates(4))[1:], 4 / 11, rtol=1e-6)
    assert sampler.log_rates(4)[0] == -np.inf


def test_popular_negatives_follow_the_training_counts():
    weights = np.array([9, 5, 0, 1, 7, 2, 30, 11])
    sampler = Negatives(weights, 2, np.array([0, 0, 0]), np.array([6, 2, 3]))
    owners = np.repeat([0, 1], 20_000)
    drawn, counts = sampler.draw(owners, 3, np.random.default_rng(0))
    assert (counts == 3).all()
    for owner, left_out in enumerate([{6, 2, 3}, {2}]):
        seen = np.bincount(drawn.reshape(-1, 3)[owners == owner].ravel(), minlength=8)
        allowed = [item for item in range(1, 8) if item not in left_out]
        share = weights[allowed] / weights[allowed].sum()
        assert seen.sum() == seen[allowed].sum()
        assert chisquare(seen[allowed], seen.sum() * share).pvalue > 0.001
    rates = np.exp(sampler.log_rates(3))
    np.testing.assert_allclose(rates[1:], 3 * weights[1:] / 56, rtol=1e-6)


@given(
    st.lists(st.integers(0, 3), min_size=8, max_size=8),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 7)), max_size=30),
    st.integers(1, 9),
)
def test_negatives_leave_out_what_the_owner_has_whatever_is_left(weights, pairs, many):
    owner, item = np.array(pairs, np.int64).reshape(-1, 2).T
    sampler = Negatives(np.array(weights), 3, owner, item)
    drawn, counts = sampler.draw(np.array([2, 0, 1, 0]), many, np.random.default_rng(1))
    parts = np.split(drawn, np.cumsum(counts)[:-1])
    for mine, part in zip([2, 0, 1, 0], parts, strict=True):
        left = {at for at in range(1, 8) if weights[at]} - {other for who, other in pairs if who == mine}
        assert len(part) == min(many, len(left))
        assert set(part.tolist()) <= left
    assert sampler.left.tolist() == [
        len({at for at in range(1, 8) if weights[at]} - {other for who, other in pairs if who == mine})
        for mine in range(3)
    ]
