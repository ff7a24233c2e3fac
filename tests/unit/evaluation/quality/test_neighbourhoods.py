"""Precision, recall, density and coverage against loops and known answers."""

import numpy as np
import pytest

from histodiff.evaluation.quality.neighbourhoods import neighbourhoods


def radius(rows: np.ndarray, place: int, k: int) -> float:
    return sorted(float(np.linalg.norm(rows[place] - other)) for other in rows)[k]


def test_neighbourhoods_equal_loops():
    rng = np.random.default_rng(0)
    samples, real = rng.normal(size=(17, 3)) * 1.3 + 0.5, rng.normal(size=(23, 3))
    found = neighbourhoods(samples, real)

    def gap(n: int, m: int) -> float:
        return float(np.linalg.norm(samples[n] - real[m]))

    for n in range(17):
        within = [gap(n, m) <= radius(real, m, 3) for m in range(23)]
        assert found.precision_N[n] == any(within)
        assert found.density_N[n] == sum(gap(n, m) < radius(real, m, 5) for m in range(23)) / 5
    for m in range(23):
        assert found.recall_M[m] == any(gap(n, m) <= radius(samples, n, 3) for n in range(17))
        assert found.coverage_M[m] == any(gap(n, m) < radius(real, m, 5) for n in range(17))


def test_equal_sets_are_precise_recalled_covered_and_of_density_one():
    rows = np.random.default_rng(1).normal(size=(60, 4))
    found = neighbourhoods(rows, rows)
    assert found.precision_N.mean() == found.recall_M.mean() == found.coverage_M.mean() == 1
    assert found.density_N.mean() == pytest.approx(1, abs=0.2)  # ties at the rim may round away


def test_far_sets_have_nothing_in_common():
    rows = np.random.default_rng(2).normal(size=(30, 4))
    found = neighbourhoods(rows + 100, rows)
    for each in (found.precision_N, found.recall_M, found.density_N, found.coverage_M):
        assert each.sum() == 0


def test_one_mode_of_two_is_precise_and_recalls_half():
    rng = np.random.default_rng(3)
    near, far = rng.normal(size=(100, 3)), rng.normal(size=(100, 3)) + 50
    found = neighbourhoods(rng.normal(size=(100, 3)), np.concatenate([near, far]))
    assert found.precision_N.mean() > 0.8
    assert found.recall_M[:100].mean() > 0.8
    assert found.recall_M[100:].sum() == found.coverage_M[100:].sum() == 0


def test_too_few_images_raise():
    with pytest.raises(ValueError, match="6 images"):
        neighbourhoods(np.zeros((5, 2)), np.zeros((9, 2)))
