"""Logistic regression on standardised principal components, for a few labels and many features.

    minimise  sum_n w_n (-log p(y_n | f_n)) + penalty / 2 |W|^2,   sum_n w_n = 1

over features that are standardised, turned into principal components and scaled so that their
variances sum to one, so that a penalty means the same for any number of features. Every class
weighs the same. The optimum is unique; it is found by L-BFGS. Legend: R rows, D features, P
components, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from histodiff.guidance.scores import class_weights

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
_TINY = 1e-6
_TOLERANCE = 1e-7
_MOST_STEPS = 500


@dataclass(frozen=True)
class Components:
    """Standardised principal components of features: ``(f - mean) basis``."""

    mean_D: Floats
    basis_DP: Floats

    def of(self, features_RD: npt.NDArray[np.floating]) -> Floats:
        """Components of features (R, P)."""
        found: Floats = (features_RD - self.mean_D) @ self.basis_DP
        return found


@dataclass(frozen=True)
class Regression:
    """``logits = (f - mean) W^T + b``."""

    mean_D: Floats
    weight_KD: Floats
    bias_K: Floats


def components_of(features_RD: npt.NDArray[np.floating], *, most: int) -> Components:
    """The components with the largest variances, at most ``most``, of variance one together."""
    mean_D = features_RD.mean(axis=0, dtype=np.float64)
    centred_RD = features_RD - mean_D
    scale_D = np.maximum(centred_RD.std(axis=0), _TINY)
    standard_RD = centred_RD / scale_D
    rows, size = standard_RD.shape
    if rows < size:
        variance, turned_RR = np.linalg.eigh(standard_RD @ standard_RD.T / rows)
        order = _largest(variance, most)
        basis_DP = standard_RD.T @ turned_RR[:, order] / np.sqrt(rows * variance[order])
    else:
        variance, basis_DD = np.linalg.eigh(standard_RD.T @ standard_RD / rows)
        order = _largest(variance, most)
        basis_DP = basis_DD[:, order]
    total = max(float(variance[order].sum()), _TINY)
    return Components(mean_D, basis_DP / scale_D[:, None] / np.sqrt(total))


def regressions(
    features_RD: npt.NDArray[np.floating],
    target_R: Ints,
    *,
    num_classes: int,
    penalties: Sequence[float],
    components: int,
) -> list[Regression]:
    """One regression for each penalty.

    Args:
        features_RD: Features.
        target_R: Class numbers.
        num_classes: K.
        penalties: Weights of ``|W|^2 / 2``.
        components: Components that are kept at most.
    """
    found = components_of(features_RD, most=components)
    scores_RP = found.of(features_RD)
    start = np.zeros((num_classes, scores_RP.shape[1] + 1))
    fitted: dict[float, Floats] = {}
    for penalty in sorted(set(penalties), reverse=True):  # each is a good start for the next
        start = fitted[penalty] = _fit(scores_RP, target_R, start, penalty)
    return [
        Regression(found.mean_D, fitted[penalty][:, :-1] @ found.basis_DP.T, fitted[penalty][:, -1])
        for penalty in penalties
    ]


def log_probabilities(regression: Regression, features_RD: npt.NDArray[np.floating]) -> Floats:
    """``log p`` (R, K) of features."""
    logits_RK = (features_RD - regression.mean_D) @ regression.weight_KD.T + regression.bias_K
    found: Floats = special.log_softmax(logits_RK, axis=1)
    return found


def _fit(scores_RP: Floats, target_R: Ints, start_KP: Floats, penalty: float) -> Floats:
    """Weights with the bias in the last column."""
    weight_R = class_weights(target_R)
    wanted_RK = np.eye(len(start_KP))[target_R]

    def loss_and_gradient(flat: Floats) -> tuple[float, Floats]:
        given_KP = flat.reshape(start_KP.shape)
        log_p_RK = special.log_softmax(scores_RP @ given_KP[:, :-1].T + given_KP[:, -1], axis=1)
        loss = -float(weight_R @ (wanted_RK * log_p_RK).sum(axis=1))
        slope_RK = weight_R[:, None] * (np.exp(log_p_RK) - wanted_RK)
        gradient_KP = np.concatenate([slope_RK.T @ scores_RP, slope_RK.sum(axis=0)[:, None]], 1)
        gradient_KP[:, :-1] += penalty * given_KP[:, :-1]
        return loss + penalty / 2 * float(np.square(given_KP[:, :-1]).sum()), gradient_KP.ravel()

    found = optimize.minimize(
        loss_and_gradient, start_KP.ravel(), jac=True, method="L-BFGS-B",
        options={"maxiter": _MOST_STEPS, "gtol": _TOLERANCE, "ftol": 1e-12},
    )  # fmt: skip
    best: Floats = found.x.reshape(start_KP.shape)
    return best


def _largest(variance: Floats, most: int) -> Ints:
    """Places of the largest variances that are not zero, descending."""
    order = np.argsort(variance)[::-1][:most]
    kept: Ints = order[variance[order] > _TINY * max(float(variance.max()), _TINY)]
    return kept
