"""Kernel distance against loops, scikit-learn, and its expectation for Gaussians."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import polynomial_kernel as sklearn_kernel

from histodiff.evaluation.quality.kernel import KernelDistance, polynomial_kernel


def naive(first: np.ndarray, second: np.ndarray) -> float:
    def k(x: np.ndarray, y: np.ndarray) -> float:
        return (float(x @ y) / len(x) + 1) ** 3

    def within(rows: np.ndarray) -> float:
        pairs = [k(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
        return float(np.mean(pairs))

    between = np.mean([k(a, b) for a in first for b in second])
    return within(first) + within(second) - 2 * float(between)


def test_kernel_equals_scikit_learn():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(7, 5)), rng.normal(size=(9, 5))
    np.testing.assert_allclose(
        polynomial_kernel(first, second), sklearn_kernel(first, second, degree=3, coef0=1)
    )


def test_value_equals_loops():
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(8, 4)), rng.normal(size=(11, 4)) + 0.4
    found = KernelDistance.of(first, second).value()
    assert found == pytest.approx(naive(first, second), rel=1e-12)


def test_shifted_gaussians_have_the_closed_form_on_average():
    # In one dimension the features of the kernel are sqrt(3) x, sqrt(3) x^2 and x^3
    shift = 0.5
    wanted = 3 * shift**2 + 3 * shift**4 + (shift**3 + 3 * shift) ** 2
    rng = np.random.default_rng(2)
    values = [
        KernelDistance.of(rng.normal(size=(30, 1)), rng.normal(size=(40, 1)) + shift).value()
        for _ in range(4000)
    ]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values) - wanted) < 4 * error
    assert error < 0.1 * wanted  # else the test would say nothing


def test_sets_of_one_distribution_have_zero_on_average_and_go_below_it():
    rng = np.random.default_rng(3)
    values = [
        KernelDistance.of(rng.normal(size=(20, 6)), rng.normal(size=(20, 6))).value()
        for _ in range(2000)
    ]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))
    assert min(values) < 0


def test_weights_leave_out_pairs_of_an_image_with_itself():
    rng = np.random.default_rng(4)
    first, second = rng.normal(size=(5, 3)), rng.normal(size=(6, 3))
    weights = np.array([2.0, 0.0, 1.0, 1.0, 1.0])
    found = KernelDistance.of(first, second).values(weights[None], np.ones((1, 6)))[0]
    kernel = polynomial_kernel(first, first)
    pairs = [(weights[i] * weights[j], kernel[i, j]) for i in range(5) for j in range(5) if i != j]
    within = sum(w * k for w, k in pairs) / sum(w for w, _ in pairs)
    other = polynomial_kernel(second, second)
    between = weights @ polynomial_kernel(first, second).mean(axis=1) / weights.sum()
    wanted = within + (other.sum() - np.trace(other)) / 30 - 2 * between
    assert found == pytest.approx(wanted, rel=1e-12)
