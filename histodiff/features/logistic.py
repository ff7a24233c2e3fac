"""Logistic regression on features, with soft and weighted targets.

What a few labels say of fixed features, by a convex problem with one solution (L-BFGS of SciPy, in
float64): no steps, no seed. Features are standardised first. Legend: N images, D features, K
classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

Floats = npt.NDArray[np.float64]

_TINY = 1e-8
_MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class LogisticModel:
    """A linear classifier of standardised features."""

    mean_D: Floats
    scale_D: Floats
    weight_DK: Floats
    bias_K: Floats

    def probability(self, features_ND: npt.NDArray[np.floating]) -> Floats:
        """Probability of every class, (N, K)."""
        standard_ND = (np.asarray(features_ND, np.float64) - self.mean_D) / self.scale_D
        found: Floats = softmax(standard_ND @ self.weight_DK + self.bias_K, axis=1)
        return found

    def arrays(self) -> dict[str, Floats]:
        """Its numbers by name, as ``logistic_model`` takes them."""
        return dict(vars(self))


def logistic_model(arrays: Mapping[str, Any]) -> LogisticModel:
    """The model with these numbers."""
    return LogisticModel(**{name: np.asarray(value, np.float64) for name, value in arrays.items()})


def fitted_logistic(
    features_ND: npt.NDArray[np.floating],
    target_NK: npt.NDArray[np.floating],
    *,
    inverse_penalty: float,
) -> LogisticModel:
    """The model with the least penalised cross-entropy.

    Args:
        features_ND: Features.
        target_NK: Probability of every class, times the weight of the image.
        inverse_penalty: One over the weight of half the squared norm, beside the sum of losses:
            ``C`` of scikit-learn. Biases are free.
    """
    features = np.asarray(features_ND, np.float64)
    target = np.asarray(target_NK, np.float64)
    mean_D = features.mean(axis=0)
    scale_D = np.maximum(features.std(axis=0), _TINY)
    standard_ND = (features - mean_D) / scale_D
    num_features, num_classes = features.shape[1], target.shape[1]
    weight_N1 = target.sum(axis=1, keepdims=True)
    total = float(weight_N1.sum())

    def parts(packed: Floats) -> tuple[Floats, Floats]:
        matrix = packed.reshape(num_features + 1, num_classes)
        return matrix[:-1], matrix[-1]

    def loss_and_gradient(packed: Floats) -> tuple[float, Floats]:
        weight_DK, bias_K = parts(packed)
        logits_NK = standard_ND @ weight_DK + bias_K
        penalty = weight_DK / inverse_penalty
        loss = -(target * log_softmax(logits_NK, axis=1)).sum() + 0.5 * (penalty * weight_DK).sum()
        residual_NK = weight_N1 * softmax(logits_NK, axis=1) - target
        slope = np.vstack([standard_ND.T @ residual_NK + penalty, residual_NK.sum(axis=0)])
        return float(loss) / total, slope.ravel() / total

    found = minimize(
        loss_and_gradient, np.zeros((num_features + 1) * num_classes), jac=True,
        method="L-BFGS-B", options={"maxiter": _MAX_ITERATIONS, "gtol": 1e-9, "ftol": 1e-15},
    )  # fmt: skip
    weight_DK, bias_K = parts(found.x)
    return LogisticModel(mean_D, scale_D, weight_DK, bias_K)
