"""Clusters of feature vectors: k-means with the start of Arthur and Vassilvitskii (k-means++).

Legend of suffixes: N images, D feature dimensions.
"""

import warnings

import numpy as np
import numpy.typing as npt
from scipy.cluster.vq import kmeans2

from histodiff.features.neighbours import Floats, l2_normalised
from histodiff.runtime import generator_for

_STARTS = 5
_ITERATIONS = 100


def clusters(
    features_ND: npt.NDArray[np.floating], *, count: int, seed: int
) -> npt.NDArray[np.int64]:
    """The cluster of every row at length one, from 0; the best of a few starts.

    Clusters are as many as ``count``, or fewer where rows are, or are equal.
    """
    rows = l2_normalised(features_ND)
    distinct = len(np.unique(rows, axis=0))
    if distinct <= 1:
        return np.zeros(len(rows), np.int64)
    found = [_run(rows, min(count, distinct), seed, start) for start in range(_STARTS)]
    best = min(found, key=lambda one: one[0])[1]
    return np.unique(best, return_inverse=True)[1].astype(np.int64)


def _run(rows: Floats, count: int, seed: int, start: int) -> tuple[float, npt.NDArray[np.int64]]:
    """Sum of squared distances to the middles, and the cluster of every row."""
    rng = generator_for(seed, "clusters", start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a cluster that ran empty: it is dropped
        middles, cluster_N = kmeans2(rows, count, iter=_ITERATIONS, minit="++", rng=rng)
    return float(np.square(rows - middles[cluster_N]).sum()), cluster_N
