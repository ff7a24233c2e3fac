"""Kernel distance (KID) of two sets of features: squared MMD, unbiased (Binkowski et al. 2018).

    k(x, y) = (x . y / D + 1)^3

The estimate is the U-statistic over all pairs (Gretton et al. 2012, Eq. 3) rather than a mean over
random subsets: it has the same expectation and less spread. It may be negative. Legend: N images of
one set, M of the other, D dimensions, R replicates.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def polynomial_kernel(
    first_ND: npt.NDArray[np.floating], second_MD: npt.NDArray[np.floating]
) -> Floats:
    """The kernel of every pair, float64 ``(N, M)``."""
    first, second = np.asarray(first_ND, np.float64), np.asarray(second_MD, np.float64)
    kernel_NM: Floats = (first @ second.T / first.shape[1] + 1.0) ** 3
    return kernel_NM


@dataclass(frozen=True)
class KernelDistance:
    """The kernels of two sets, from which the distance and its replicates come by one formula."""

    within_NN: Floats
    within_MM: Floats
    between_NM: Floats

    @classmethod
    def of(
        cls, first_ND: npt.NDArray[np.floating], second_MD: npt.NDArray[np.floating]
    ) -> "KernelDistance":
        """The kernels of the two sets."""
        return cls(
            polynomial_kernel(first_ND, first_ND),
            polynomial_kernel(second_MD, second_MD),
            polynomial_kernel(first_ND, second_MD),
        )

    def value(self) -> float:
        """The unbiased squared distance."""
        num_first, num_second = self.between_NM.shape
        return float(self.values(np.ones((1, num_first)), np.ones((1, num_second)))[0])

    def values(self, weights_RN: Floats, weights_RM: Floats) -> Floats:
        """The distance ``(R,)`` when rows count as often as the weights say.

        Pairs of an image with itself never count. NaN where one image has all the weight of a set.
        """
        within_R = _mean_of_pairs(self.within_NN, weights_RN)
        within_R += _mean_of_pairs(self.within_MM, weights_RM)
        cross_R = ((weights_RN @ self.between_NM) * weights_RM).sum(axis=1)
        pairs_R = weights_RN.sum(axis=1) * weights_RM.sum(axis=1)
        values_R: Floats = within_R - 2 * cross_R / pairs_R
        return values_R


def _mean_of_pairs(kernel_NN: Floats, weights_RN: Floats) -> Floats:
    """Weighted mean of the kernel over pairs of different images."""
    own_N = np.diagonal(kernel_NN)
    total_R = ((weights_RN @ kernel_NN) * weights_RN).sum(axis=1) - weights_RN**2 @ own_N
    pairs_R = weights_RN.sum(axis=1) ** 2 - (weights_RN**2).sum(axis=1)
    mean_R: Floats = np.divide(
        total_R, pairs_R, out=np.full_like(total_R, np.nan), where=pairs_R > 0
    )
    return mean_R
