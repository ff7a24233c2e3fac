"""k-means: planted clusters are found, the same for the same seed."""

import numpy as np
from sklearn.cluster import KMeans

from histodiff.features.clusters import clusters
from histodiff.features.neighbours import l2_normalised

RNG = np.random.default_rng(0)
MIDDLES = np.eye(3) * 5
OF = np.repeat([0, 1, 2], [80, 15, 5])
PLANTED = MIDDLES[OF] + RNG.normal(size=(100, 3)) * 0.2


def test_clusters_planted_ones_are_found_however_unequal():
    found = clusters(PLANTED, count=3, seed=0)
    assert len({(own, cluster) for own, cluster in zip(OF, found, strict=True)}) == 3


def test_clusters_are_as_tight_as_those_of_scikit_learn():
    rows = RNG.normal(size=(200, 6))
    found = clusters(rows, count=8, seed=1)
    unit = l2_normalised(rows)
    spread = sum(
        np.square(unit[found == c] - unit[found == c].mean(axis=0)).sum() for c in range(8)
    )
    assert spread <= 1.05 * KMeans(8, n_init=10, random_state=0).fit(unit).inertia_


def test_clusters_seed_decides():
    rows = RNG.normal(size=(60, 4))
    first = clusters(rows, count=6, seed=0)
    np.testing.assert_array_equal(first, clusters(rows, count=6, seed=0))
    assert (first != clusters(rows, count=6, seed=5)).any()


def test_clusters_of_equal_rows_is_one():
    assert clusters(np.ones((5, 3)), count=3, seed=0).tolist() == [0] * 5
    assert len(set(clusters(np.eye(2)[[0, 1, 0]], count=5, seed=0).tolist())) == 2
