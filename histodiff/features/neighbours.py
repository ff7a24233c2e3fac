"""Neighbours of feature vectors, exactly, in blocks: by angle, or by distance.

Legend of suffixes: N queries, M references, D feature dimensions.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Nearest(NamedTuple):
    """The nearest reference of every query."""

    distance_N: Floats
    """Euclidean."""
    reference_N: npt.NDArray[np.int64]
    """Its row."""


def l2_normalised(features_ND: npt.NDArray[np.floating]) -> Floats:
    """Every row divided by its Euclidean norm; a row of zeros stays zero."""
    rows = np.asarray(features_ND, np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    normalised: Floats = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return normalised


def nearest_similarity(
    queries_ND: npt.NDArray[np.floating],
    references_MD: npt.NDArray[np.floating],
    *,
    block: int = 4096,
) -> Floats:
    """Largest cosine similarity of every query to any reference, in [-1, 1]."""
    references = l2_normalised(references_MD)
    queries = l2_normalised(queries_ND)
    nearest = np.full(len(queries), -np.inf)
    for start in range(0, len(references), block):
        similarity = queries @ references[start : start + block].T
        nearest = np.maximum(nearest, similarity.max(axis=1))
    return nearest


def euclidean_distances(
    queries_ND: npt.NDArray[np.floating], references_MD: npt.NDArray[np.floating]
) -> Floats:
    """Distances ``(N, M)`` of all pairs, float64.

    Taken from the norms and one product, which rounds: equal rows may be about 1e-8 of their norm
    apart.
    """
    queries = np.asarray(queries_ND, np.float64)
    references = np.asarray(references_MD, np.float64)
    middle_D = references.mean(axis=0)  # smaller norms round less
    queries, references = queries - middle_D, references - middle_D
    squared_NM = -2 * queries @ references.T
    squared_NM += np.square(queries).sum(axis=1)[:, None]
    squared_NM += np.square(references).sum(axis=1)
    distances_NM: Floats = np.sqrt(np.maximum(squared_NM, 0.0, out=squared_NM), out=squared_NM)
    return distances_NM


def nearest_by_distance(
    queries_ND: npt.NDArray[np.floating],
    references_MD: npt.NDArray[np.floating],
    *,
    block: int = 4096,
) -> Nearest:
    """The nearest reference of every query by Euclidean distance, the first among equals."""
    queries = np.asarray(queries_ND, np.float64)
    distance_N = np.full(len(queries), np.inf)
    reference_N = np.zeros(len(queries), np.int64)
    for start in range(0, len(references_MD), block):
        distances_NB = euclidean_distances(queries, references_MD[start : start + block])
        found_N = distances_NB.argmin(axis=1)
        nearest_N = distances_NB[np.arange(len(queries)), found_N]
        closer_N = nearest_N < distance_N
        distance_N[closer_N] = nearest_N[closer_N]
        reference_N[closer_N] = start + found_N[closer_N]
    return Nearest(distance_N, reference_N)
