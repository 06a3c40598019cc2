"""From raw vectors to table rows: closed forms, limits of the spectrum, training rows only, the same later."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save
from sklearn.decomposition import PCA

from regard.data import geometry
from regard.data.geometry import Geometry
from regard.errors import InputError, SettingsError

N, D = 31, 7


def vectors(n: int = N, d: int = D, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 5 * rng.normal(size=d)


def covariance(rows: np.ndarray) -> np.ndarray:
    centred = rows - rows.mean(0)
    return centred.T @ centred / len(rows)


def soft_by_hand(matrix: np.ndarray, width: int, softness: float, shrink: float = 0.0) -> np.ndarray:
    """The formula of the paper by a singular value decomposition, times sqrt(n)."""
    u, s, _ = np.linalg.svd(matrix - matrix.mean(0), full_matrices=False)
    level = (s**2).sum() / matrix.shape[1]
    g = s / np.sqrt((1 - shrink) * s**2 + (shrink + softness) * level)
    return (math.sqrt(len(matrix)) * u * g)[:, :width]


def same_but_for_signs(found: np.ndarray, expected: np.ndarray, tolerance: float = 2e-5) -> None:
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found, expected * np.where(signs == 0, 1, signs), atol=tolerance)


@given(st.integers(9, 40), st.integers(1, 7), st.integers(1, 7), st.floats(0, 100), st.floats(0, 1))
def test_soft_is_the_formula(n: int, d: int, width: int, softness: float, shrink: float) -> None:
    matrix, width = vectors(n, d, seed=n), min(width, d)
    found = Geometry.fit(matrix, width, softness=softness, shrink=shrink).apply(matrix)
    assert (found.shape, found.dtype) == ((n, width), np.float32)
    same_but_for_signs(found, soft_by_hand(matrix, width, softness, shrink), 1e-4)


def test_pca_is_that_of_others() -> None:
    matrix = vectors()
    found = Geometry.fit(matrix, 3, mode="pca").apply(matrix)
    same_but_for_signs(found, PCA(3).fit_transform(matrix), 1e-4)


def test_pca_at_full_width_keeps_all_products() -> None:
    matrix = vectors()
    found, centred = Geometry.fit(matrix, mode="pca").apply(matrix), matrix - matrix.mean(0)
    np.testing.assert_allclose(found @ found.T, centred @ centred.T, atol=1e-3)


@pytest.mark.parametrize("width", [None, 3])
def test_whitened_rows_have_the_identity_for_covariance(width: int | None) -> None:
    matrix = vectors()
    found = Geometry.fit(matrix, width, mode="white").apply(matrix)
    np.testing.assert_allclose(covariance(found.astype(np.float64)), np.eye(width or D), atol=1e-5)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-5)
    np.testing.assert_array_equal(found, Geometry.fit(matrix, width, mode="soft", softness=0).apply(matrix))


def test_zca_is_the_inverse_root_of_the_covariance() -> None:
    matrix = vectors()
    values, axes = np.linalg.eigh(covariance(matrix))
    root = axes @ np.diag(values**-0.5) @ axes.T
    found = Geometry.fit(matrix, mode="zca")
    np.testing.assert_allclose(found.turn, root, atol=1e-9)
    np.testing.assert_allclose(found.apply(matrix), (matrix - matrix.mean(0)) @ root, atol=1e-5)


def test_shrinking_wholly_leaves_the_proportions() -> None:
    matrix = vectors()
    level = np.trace(covariance(matrix)) / D
    whole = Geometry.fit(matrix, mode="zca", shrink=1.0).apply(matrix)
    np.testing.assert_allclose(whole, (matrix - matrix.mean(0)) / math.sqrt(level), atol=1e-5)


def test_softness_goes_from_whitening_to_the_original() -> None:
    matrix = vectors()
    white, pca = (Geometry.fit(matrix, mode=mode, norm=1.0).apply(matrix) for mode in ("white", "pca"))
    close, far = (Geometry.fit(matrix, softness=value, norm=1.0).apply(matrix) for value in (1e-9, 1e9))
    np.testing.assert_allclose(close, white, atol=1e-5)
    np.testing.assert_allclose(far, pca, atol=1e-5)
    np.testing.assert_array_equal(Geometry.fit(matrix, softness=math.inf, norm=1.0).apply(matrix), pca)
    spreads = [
        np.ptp(np.log(np.diag(covariance(Geometry.fit(matrix, softness=value).apply(matrix)))))
        for value in (0.0, 0.1, 1.0, 10.0)
    ]
    assert spreads == sorted(spreads)


@given(st.floats(1e-3, 1e3), st.integers(2, 5))
def test_softness_means_the_same_at_any_scale_and_number_of_rows(scale: float, times: int) -> None:
    matrix = vectors()
    base = Geometry.fit(matrix, 4, softness=2.0).apply(matrix)
    np.testing.assert_allclose(Geometry.fit(scale * matrix, 4, softness=2.0).apply(scale * matrix), base, atol=1e-4)
    many = Geometry.fit(np.tile(matrix, (times, 1)), 4, softness=2.0).apply(matrix)
    np.testing.assert_allclose(many, base, atol=1e-4)


@pytest.mark.parametrize("mode", ["pca", "white", "soft", "zca"])
def test_rows_are_brought_to_a_stated_length(mode: geometry.Mode) -> None:
    matrix = vectors()
    found = Geometry.fit(matrix, mode=mode, norm=0.125).apply(matrix)
    assert math.sqrt((found.astype(np.float64) ** 2).sum(1).mean()) == pytest.approx(0.125, rel=1e-5)
    even = Geometry.fit(matrix, mode=mode, norm=0.125, equal=True)
    np.testing.assert_allclose(np.linalg.norm(even.apply(matrix), axis=1), 0.125, rtol=1e-5)
    np.testing.assert_array_equal(even.apply(even.mean[None]), np.zeros((1, D), np.float32))
    unit = Geometry.fit(matrix, mode=mode, equal=True).apply(matrix)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-5)


def test_only_the_rows_of_the_fit_count_and_later_ones_get_the_same() -> None:
    matrix, later = vectors(), vectors(5, seed=3)
    fitted = Geometry.fit(matrix, 4)
    both = fitted.apply(np.concatenate([matrix, later]))
    np.testing.assert_allclose(both[:N], fitted.apply(matrix), atol=1e-6)
    np.testing.assert_allclose(both[N:], np.concatenate([fitted.apply(row[None]) for row in later]), atol=1e-5)
    np.testing.assert_allclose(fitted.apply(matrix.mean(0)[None]), 0, atol=1e-6)  # an unknown item: the mean


def test_more_columns_than_axes_are_zero() -> None:
    matrix = vectors()
    wide = Geometry.fit(matrix, 11, mode="white")
    assert (wide.rank, wide.width) == (D, 11)
    np.testing.assert_array_equal(wide.apply(matrix)[:, D:], 0)
    np.testing.assert_array_equal(wide.apply(matrix)[:, :D], Geometry.fit(matrix, mode="white").apply(matrix))
    flat = matrix.copy()
    flat[:, 2] = 2 * flat[:, 0] - flat[:, 5]  # an axis without variance is not blown up
    found = Geometry.fit(flat, mode="white")
    assert found.rank == D - 1
    assert np.abs(found.apply(flat)).max() < 10
    few = Geometry.fit(matrix[:3], mode="zca")
    assert few.rank == 2
    assert np.isfinite(few.apply(matrix)).all()


def test_float32_and_a_far_mean_lose_nothing() -> None:
    matrix = vectors()
    far = (matrix + 1000).astype(np.float32)
    expected = soft_by_hand(far.astype(np.float64), 4, 1.0)
    same_but_for_signs(Geometry.fit(far, 4).apply(far), expected, 1e-5)


def test_pieces_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = vectors()
    whole = Geometry.fit(matrix, 4)
    monkeypatch.setattr(geometry, "_CHUNK", 5)
    parts = Geometry.fit(matrix, 4)
    np.testing.assert_allclose(parts.turn, whole.turn, atol=1e-9)
    np.testing.assert_allclose(parts.apply(matrix), whole.apply(matrix), atol=1e-6)


@pytest.mark.parametrize("softness", [0.5, math.inf])
def test_the_state_comes_back_exactly(softness: float) -> None:
    matrix = vectors()
    fitted = Geometry.fit(matrix, 4, softness=softness, shrink=0.1, norm=2.0, equal=True)
    again = Geometry.of(json.loads(json.dumps(fitted.facts())), load(save(fitted.arrays())))
    np.testing.assert_array_equal(again.apply(matrix), fitted.apply(matrix))
    assert (again.facts(), again.softness, again.width) == (fitted.facts(), softness, 4)
    assert "array" not in repr(again)


def test_signs_do_not_depend_on_the_library() -> None:
    turn = Geometry.fit(vectors(), mode="pca").turn
    assert (turn[np.abs(turn).argmax(0), np.arange(D)] > 0).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "zac"}, r"no mode 'zac' \(did you mean 'zca'\?\); known: pca, soft, white, zca"),
        ({"softness": -1.0}, "softness must be 0 or more"),
        ({"softness": math.nan}, "softness must be 0 or more"),
        ({"shrink": 1.5}, "shrink must be between 0 and 1, came 1.5"),
        ({"norm": 0.0}, "norm of a row must be more than 0"),
        ({"width": 0}, "cannot have width 0; expected 1 or more"),
        ({"mode": "zca", "width": 3}, "zca of vectors of 7 values cannot have width 3; expected the same"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Geometry.fit(vectors(), **options)


def test_vectors_that_cannot_be_fitted_are_refused() -> None:
    bad = vectors()
    bad[4, 2] = np.nan
    for matrix, words in (
        (bad, "row 4 holds nan or inf"),
        (vectors()[:1], "at least 2 training items, came 1"),
        (np.ones((5, 3)), "all vectors are equal"),
        (np.ones(5), r"expected vectors \(rows, values\)"),
        (np.ones((5, 0)), r"expected vectors \(rows, values\)"),
    ):
        with pytest.raises(InputError, match=words):
            Geometry.fit(matrix)
    with pytest.raises(InputError, match=r"expected vectors \(rows, 7\), came \(2, 3\)"):
        Geometry.fit(vectors()).apply(np.ones((2, 3)))
