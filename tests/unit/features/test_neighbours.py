"""Cosine neighbours against loops."""

import numpy as np

from histodiff.features.neighbours import l2_normalised, nearest_similarity


def test_nearest_similarity_in_blocks_equals_loops():
    rng = np.random.default_rng(1)
    queries, references = rng.normal(size=(6, 4)), rng.normal(size=(11, 4))
    expected = [
        max(q @ r / (np.linalg.norm(q) * np.linalg.norm(r)) for r in references) for q in queries
    ]
    np.testing.assert_allclose(nearest_similarity(queries, references, block=3), expected)


def test_nearest_similarity_of_a_copy_is_one():
    references = np.random.default_rng(2).normal(size=(5, 3))
    np.testing.assert_allclose(nearest_similarity(references[2:3] * 9.0, references), [1.0])


def test_l2_normalised_zero_row_stays_zero():
    np.testing.assert_array_equal(
        l2_normalised(np.array([[0.0, 0.0], [3.0, 4.0]])), [[0, 0], [0.6, 0.8]]
    )
