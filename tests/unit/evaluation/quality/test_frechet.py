"""Frechet distance against closed forms and scipy's matrix root."""

import numpy as np
import pytest
from scipy import linalg

from histodiff.evaluation.quality.frechet import frechet_distance, moments


def whitened(num: int, dimensions: int, seed: int) -> np.ndarray:
    """Features with mean 0 and covariance exactly the identity."""
    rows = np.random.default_rng(seed).normal(size=(num, dimensions))
    rows -= rows.mean(axis=0)
    factor = np.linalg.cholesky(np.cov(rows, rowvar=False))
    return np.linalg.solve(factor, rows.T).T


def distance(first: np.ndarray, second: np.ndarray) -> float:
    return frechet_distance(moments(first), moments(second))


def test_equal_sets_have_distance_zero():
    rows = np.random.default_rng(0).normal(size=(200, 30))
    assert distance(rows, rows) == pytest.approx(0, abs=1e-10)


def test_shifted_gaussians_have_the_squared_shift():
    shift = np.arange(5.0)
    found = distance(whitened(300, 5, 1), whitened(200, 5, 2) + shift)
    assert found == pytest.approx(shift @ shift, rel=1e-10)


def test_scaled_gaussians_have_the_closed_form():
    found = distance(whitened(300, 4, 1), 3.0 * whitened(200, 4, 2) + 1.0)
    assert found == pytest.approx(4 * 1.0 + 4 * (3 - 1) ** 2, rel=1e-10)


def test_correlated_gaussians_equal_the_matrix_root_of_scipy():
    rng = np.random.default_rng(3)
    first = rng.normal(size=(400, 6)) @ rng.normal(size=(6, 6))
    second = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6)) + 0.3
    c1, c2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    shift = first.mean(axis=0) - second.mean(axis=0)
    wanted = shift @ shift + np.trace(c1 + c2 - 2 * np.real(linalg.sqrtm(c1 @ c2)))
    assert distance(first, second) == pytest.approx(wanted, rel=1e-9)


def test_fewer_images_than_dimensions_equal_the_same_images_in_their_subspace():
    rng = np.random.default_rng(4)
    first, second = rng.normal(size=(40, 6)), rng.normal(size=(30, 6)) + 0.5
    turn = np.linalg.qr(rng.normal(size=(100, 6)))[0].T  # a plane in 100 dimensions
    assert distance(first @ turn, second @ turn) == pytest.approx(distance(first, second), rel=1e-9)


def test_weights_count_rows_as_often_as_copies_would():
    rows = np.random.default_rng(5).normal(size=(20, 3))
    weights = np.array([0.0, 3.0, 1.0, 2.0] * 5)
    copies = np.repeat(rows, weights.astype(int), axis=0)
    other = moments(rows + 1.0)
    found = frechet_distance(moments(rows, weights), other)
    assert found == pytest.approx(frechet_distance(moments(copies), other), rel=1e-10)


def test_one_image_has_no_covariance():
    with pytest.raises(ValueError, match="two images"):
        moments(np.zeros((1, 3)))
