"""Frechet distance of two sets of features, each taken for a Gaussian (Heusel et al. 2017, Eq. 6).

    d^2 = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)

Each covariance is kept as a root, S = R^T R, from a QR decomposition of the centred features. The
eigenvalues of S1 S2 are then the squared singular values of R1 R2^T, and the trace of the matrix
root is their sum: nothing is squared and rooted again, no complex part is cut off, and sets with
fewer images than dimensions need no special case. Legend: N images, D dimensions.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Mean ``(D,)``, and a root ``(min(N, D), D)`` of the covariance: ``root^T root``."""

    mean_D: Floats
    root_KD: Floats


def moments(features_ND: npt.NDArray[np.floating], weight_N: Floats | None = None) -> Moments:
    """Mean and unbiased covariance, float64.

    Args:
        features_ND: Features.
        weight_N: How often each row counts; by default once.

    Raises:
        ValueError: Rows count less than twice in all.
    """
    rows = np.asarray(features_ND, np.float64)
    weights = np.ones(len(rows)) if weight_N is None else weight_N
    total = weights.sum()
    if total < 2:
        raise ValueError(f"a covariance needs two images or more, not {total:g}")
    counted = weights > 0
    mean_D = weights @ rows / total
    centred = np.sqrt(weights[counted, None] / (total - 1)) * (rows[counted] - mean_D)
    return Moments(mean_D, np.asarray(np.linalg.qr(centred, mode="r"), np.float64))


def frechet_distance(first: Moments, second: Moments) -> float:
    """The squared Frechet distance, as FID is; not negative."""
    shift_D = first.mean_D - second.mean_D
    trace_of_root = np.linalg.svd(first.root_KD @ second.root_KD.T, compute_uv=False).sum()
    traces = np.square(first.root_KD).sum() + np.square(second.root_KD).sum()
    return max(0.0, float(shift_D @ shift_D + traces - 2 * trace_of_root))
