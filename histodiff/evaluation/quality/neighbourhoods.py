"""Precision, recall, density and coverage: which images lie in neighbourhoods of the other set.

The neighbourhood of an image is the ball around its features that reaches to its k-th nearest
neighbour in its own set. Precision and recall are those of Kynkaanniemi et al. 2019 (arXiv
1904.06991, Eq. 1 and 2, k = 3); density and coverage those of Naeem et al. 2020 (arXiv 2002.09797,
Eq. 3 and 4, k = 5). Each is the mean of one number per image. Legend: N samples, M real images.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histodiff.features.neighbours import Floats, euclidean_distances

PRECISION_NEIGHBOURS, DENSITY_NEIGHBOURS = 3, 5
FEWEST = DENSITY_NEIGHBOURS + 1
"""Images that a set must have for its neighbourhoods to exist."""


@dataclass(frozen=True)
class Neighbourhoods:
    """What each image contributes; a measure is the mean over its images."""

    precision_N: Floats
    """1 where a sample lies in the neighbourhood of a real image: it looks real."""
    recall_M: Floats
    """1 where a real image lies in the neighbourhood of a sample: it could have been drawn."""
    density_N: Floats
    """Real neighbourhoods that a sample lies in, over k; may exceed 1 where real images crowd."""
    coverage_M: Floats
    """1 where the neighbourhood of a real image has a sample."""


def neighbourhoods(
    samples_ND: npt.NDArray[np.floating], real_MD: npt.NDArray[np.floating]
) -> Neighbourhoods:
    """Compares the two sets.

    Raises:
        ValueError: A set has fewer than ``FEWEST`` images.
    """
    fewest = min(len(samples_ND), len(real_MD))
    if fewest < FEWEST:
        raise ValueError(f"neighbourhoods need {FEWEST} images of either set or more, not {fewest}")
    between_NM = euclidean_distances(samples_ND, real_MD)
    among_samples_NN = euclidean_distances(samples_ND, samples_ND)
    among_real_MM = euclidean_distances(real_MD, real_MD)
    real_M = _radii(among_real_MM, PRECISION_NEIGHBOURS)
    sampled_N = _radii(among_samples_NN, PRECISION_NEIGHBOURS)
    inside_NM = between_NM < _radii(among_real_MM, DENSITY_NEIGHBOURS)
    return Neighbourhoods(
        precision_N=np.asarray((between_NM <= real_M).any(axis=1), np.float64),
        recall_M=np.asarray((between_NM <= sampled_N[:, None]).any(axis=0), np.float64),
        density_N=inside_NM.sum(axis=1) / DENSITY_NEIGHBOURS,
        coverage_M=np.asarray(inside_NM.any(axis=0), np.float64),
    )


def _radii(distances_NN: Floats, neighbours: int) -> Floats:
    """Distance of every image to its k-th nearest other one; the nearest of all is itself."""
    radii_N: Floats = np.partition(distances_NN, neighbours, axis=1)[:, neighbours]
    return radii_N
