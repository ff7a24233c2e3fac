"""Realism: at one it is the precision of Kynkaanniemi et al.; outliers lie below."""

import numpy as np
import pytest

from histodiff.evaluation.quality.neighbourhoods import PRECISION_NEIGHBOURS, neighbourhoods
from histodiff.selection.realism import realism_scores

RNG = np.random.default_rng(0)
REAL = RNG.normal(size=(60, 5))


def scores(samples, real=REAL, **changes):
    return realism_scores(samples, real, **{"neighbours": 3, "narrowest": 1.0, **changes})


def test_realism_of_one_is_what_counts_for_precision():
    samples = RNG.normal(size=(200, 5)) * 1.5
    expected = neighbourhoods(samples, REAL).precision_N
    assert 0 < expected.mean() < 1
    found = scores(samples, neighbours=PRECISION_NEIGHBOURS) >= 1
    np.testing.assert_array_equal(found, expected.astype(bool))


def test_realism_equals_a_naive_loop():
    samples = RNG.normal(size=(20, 5)) * 2
    radii = [np.sort([np.linalg.norm(a - b) for b in REAL])[3] for a in REAL]
    expected = [
        max(r / np.linalg.norm(s - c) for c, r in zip(REAL, radii, strict=True)) for s in samples
    ]
    np.testing.assert_allclose(scores(samples), expected, rtol=1e-6)


def test_realism_planted_outliers_are_below_one():
    outliers = RNG.normal(size=(10, 5)) + 40
    assert (scores(outliers) < 0.5).all()
    assert (scores(REAL + 1e-6) >= 1).all()


def test_realism_wide_neighbourhoods_may_be_left_out():
    real = np.concatenate([REAL, [[100.0] * 5]])  # one patch like no other reaches everywhere
    outlier = np.full((1, 5), 30.0)
    assert scores(outlier, real)[0] >= 1
    assert scores(outlier, real, narrowest=0.9)[0] < 1


def test_realism_of_a_copy_of_equal_images_is_one():
    real = np.repeat(REAL[:5], 6, axis=0)
    assert scores(REAL[:1], real)[0] == 1


def test_realism_too_few_real_images_is_an_error():
    with pytest.raises(ValueError, match="more real images"):
        scores(REAL, REAL[:3])
