"""Realism of a sample: how far inside the neighbourhood of some real image it lies.

Kynkaanniemi et al. 2019 (arXiv 1904.06991), Eq. 3: the largest, over real images, of the radius of
its neighbourhood over the distance to it. At 1 or more the sample is inside one, as the precision
of Eq. 1 counts. Legend of suffixes: N samples, M real images, B block, D dimensions.
"""

import numpy as np
import numpy.typing as npt

from histodiff.features.neighbours import Floats, euclidean_distances

_TINY = 1e-12
_BLOCK = 1024


def realism_scores(
    samples_ND: npt.NDArray[np.floating],
    real_MD: npt.NDArray[np.floating],
    *,
    neighbours: int,
    narrowest: float,
) -> Floats:
    """The score of every sample.

    Args:
        samples_ND: Features of the samples.
        real_MD: Features of real images.
        neighbours: A neighbourhood reaches to this neighbour among the real images.
        narrowest: Share of the neighbourhoods that count, the narrowest.

    Raises:
        ValueError: There are no more real images than neighbours.
    """
    if len(real_MD) <= neighbours:
        raise ValueError(f"{neighbours} neighbours need more real images than {len(real_MD)}")
    radius_M = _radii(real_MD, neighbours)
    kept = radius_M <= np.quantile(radius_M, narrowest, method="higher")
    centres_MD, radius_M = np.asarray(real_MD)[kept], radius_M[kept]
    scores = [np.empty(0)]
    for start in range(0, len(samples_ND), _BLOCK):
        distance_BM = euclidean_distances(samples_ND[start : start + _BLOCK], centres_MD)
        ratio_BM = radius_M / np.maximum(distance_BM, _TINY)
        ratio_BM[(distance_BM <= radius_M) & (ratio_BM < 1)] = 1.0  # copies have no radius
        scores.append(ratio_BM.max(axis=1))
    return np.concatenate(scores)


def _radii(real_MD: npt.NDArray[np.floating], neighbours: int) -> Floats:
    """Distance of every image to its k-th nearest other one."""
    radii = np.empty(len(real_MD))
    for start in range(0, len(real_MD), _BLOCK):
        distances = euclidean_distances(real_MD[start : start + _BLOCK], real_MD)
        distances[np.arange(len(distances)), np.arange(start, start + len(distances))] = 0.0
        radii[start : start + _BLOCK] = np.partition(distances, neighbours, axis=1)[:, neighbours]
    return radii
