"""Cosine neighbours, exactly, in blocks.

Legend of suffixes: N queries, M references, D feature dimensions.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


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
