"""How good a guide's judgements are: accuracy, AUC, log loss, calibration; classes count alike.

A guide is asked for one class as often as for another, so every class weighs the same, however many
latents it has: chance is then ``1 / K``, 0.5 and ``ln K`` whatever was held out. Legend: N
judgements, K classes.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_CONFIDENCE_BINS = 10


@dataclass(frozen=True)
class BinScore:
    """Scores in one bin of noise levels; logarithms are natural."""

    sigma_low: float
    sigma_high: float
    accuracy: float
    """Share of the judgements that are right."""
    cross_entropy: float
    """Mean of ``-log p`` of the true class over judgements."""
    balanced_accuracy: float
    auc: float | None
    """Of two classes, or the mean of one against the rest; None where a class is missing."""
    log_loss: float
    """Mean over classes of their mean ``-log p`` of the true class."""
    ece: float
    """Expected calibration error over ten bins of confidence (Guo et al. 2017, Eq. 3)."""
    num: int
    """Judgements."""


@dataclass(frozen=True)
class Chance:
    """Scores of who knows nothing."""

    balanced_accuracy: float
    auc: float
    log_loss: float


def chance(num_classes: int) -> Chance:
    """Scores of a guide that finds all classes equally likely."""
    return Chance(1 / num_classes, 0.5, math.log(num_classes))


def bin_score(log_p_NK: Tensor, target_N: Tensor, *, bin_of_sigma: tuple[float, float]) -> BinScore:
    """Scores of judgements in one bin of noise levels."""
    probability_NK = log_p_NK.double().exp().cpu().numpy()
    target = target_N.cpu().numpy()
    entropy_N = -log_p_NK.double().cpu().numpy()[np.arange(len(target)), target]
    right_N = (probability_NK.argmax(axis=1) == target).astype(np.float64)
    weight_N = class_weights(target)
    return BinScore(
        *bin_of_sigma,
        accuracy=float(right_N.mean()),
        cross_entropy=float(entropy_N.mean()),
        balanced_accuracy=float(weight_N @ right_N),
        auc=_macro_auc(probability_NK, target),
        log_loss=float(weight_N @ entropy_N),
        ece=_calibration_error(probability_NK.max(axis=1), right_N, weight_N),
        num=len(target),
    )


def class_weights(target_N: Ints) -> Floats:
    """Weights that sum to one, and to the same for every class that is present."""
    count_K = np.bincount(target_N)
    weights: Floats = 1.0 / (count_K[target_N] * np.count_nonzero(count_K))
    return weights


def _macro_auc(probability_NK: Floats, target_N: Ints) -> float | None:
    num_classes = probability_NK.shape[1]
    if len(np.unique(target_N)) < num_classes:
        return None
    compared = (1,) if num_classes == 2 else tuple(range(num_classes))
    return float(np.mean([_auc(probability_NK[:, k], target_N == k) for k in compared]))


def _auc(score_N: Floats, positive_N: npt.NDArray[np.bool_]) -> float:
    """Probability that a positive scores above a negative; ties count half (Mann-Whitney)."""
    negatives = np.sort(score_N[~positive_N])
    below = np.searchsorted(negatives, score_N[positive_N], side="left")
    not_above = np.searchsorted(negatives, score_N[positive_N], side="right")
    return float((below + not_above).mean() / 2 / len(negatives))


def _calibration_error(confidence_N: Floats, right_N: Floats, weight_N: Floats) -> float:
    place_N = np.minimum((confidence_N * _CONFIDENCE_BINS).astype(np.int64), _CONFIDENCE_BINS - 1)
    gaps = np.bincount(place_N, weights=weight_N * (right_N - confidence_N))
    return float(np.abs(gaps).sum())
