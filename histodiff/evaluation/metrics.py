"""Metrics of a classifier, per patch and per slide, with intervals over slides.

``METRICS`` speak of decisions and ranks, the higher the better; ``CALIBRATION`` of the
probabilities themselves, the lower the better.

Every metric is a function of weights on the test patches: weights of one give the value, and the
number of times each slide was drawn gives a bootstrap replicate. So value and interval come from
one formula. Patches of a slide are not independent: slides are drawn, never patches.

Legend of suffixes: N patches, K classes, R replicates, S slides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auc", "sensitivity", "specificity")
CALIBRATION = ("ece", "log_loss")
_ECE_BINS = 15
_SMALLEST_PROBABILITY = 1e-12


@dataclass(frozen=True)
class Scored:
    """Test patches (or slides) with what the classifier said.

    ``probability_NK`` sums to one over K; ``target_N`` are class numbers; ``slide_N`` slide ids.
    """

    probability_NK: Floats
    target_N: Ints
    slide_N: tuple[str, ...]


def metric_values(scored: Scored, *, positive: int | None) -> dict[str, float | None]:
    """Every metric of ``METRICS`` and ``CALIBRATION``; None where it is not defined.

    AUC and the like are not defined where a class is missing.

    Args:
        scored: Predictions and truth.
        positive: Class that sensitivity and specificity speak of; None averages one-vs-rest over
            the classes.
    """
    weights_RN = np.ones((1, len(scored.target_N)))
    return {
        name: None if np.isnan(values_R[0]) else float(values_R[0])
        for name, values_R in _weighted_metrics(scored, weights_RN, positive).items()
    }


def bootstrap_intervals(
    scored: Scored, *, positive: int | None, replicates: int, rng: np.random.Generator
) -> dict[str, tuple[float, float] | None]:
    """95 % percentile interval of every metric over test slides drawn with replacement.

    Slides are drawn within the class that most of their patches have, so that no replicate lacks a
    class. None where the metric is not defined.
    """
    weights_RN = _slide_weights(scored, replicates, rng)
    intervals: dict[str, tuple[float, float] | None] = {}
    for name, values_R in _weighted_metrics(scored, weights_RN, positive).items():
        low, high = np.quantile(values_R, (0.025, 0.975))
        intervals[name] = None if np.isnan(low) else (float(low), float(high))
    return intervals


def slide_level(scored: Scored) -> Scored | None:
    """One row per slide: mean probability over its patches; None if a slide has two labels."""
    slides = sorted(set(scored.slide_N))
    named = np.asarray(scored.slide_N)
    members = [np.flatnonzero(named == slide) for slide in slides]
    if any(len(set(scored.target_N[rows].tolist())) > 1 for rows in members):
        return None
    return Scored(
        np.stack([scored.probability_NK[rows].mean(axis=0) for rows in members]),
        np.array([scored.target_N[rows[0]] for rows in members], np.int64),
        tuple(slides),
    )


def confusion(scored: Scored, weights_RN: Floats) -> Floats:
    """Weighted counts ``(R, K, K)``, truth by prediction."""
    num_classes = scored.probability_NK.shape[1]
    predicted_N = scored.probability_NK.argmax(axis=1)
    cell_N = scored.target_N * num_classes + predicted_N
    cells = np.eye(num_classes**2)[cell_N]
    counts_RKK: Floats = (weights_RN @ cells).reshape(-1, num_classes, num_classes)
    return counts_RKK


def weighted_auc(score_N: Floats, positive_N: npt.NDArray[np.bool_], weights_RN: Floats) -> Floats:
    """Probability that a positive scores above a negative, ties counting half, ``(R,)``.

    NaN where there is no positive or no negative.
    """
    order = np.argsort(score_N, kind="stable")
    starts = np.flatnonzero(np.diff(score_N[order], prepend=-np.inf))  # of groups of equal scores
    weights_RN, positive_N = weights_RN[:, order], positive_N[order]
    positives_RG = np.add.reduceat(weights_RN * positive_N, starts, axis=1)
    negatives_RG = np.add.reduceat(weights_RN * ~positive_N, starts, axis=1)
    below_RG = np.cumsum(negatives_RG, axis=1) - 0.5 * negatives_RG
    pairs_R = positives_RG.sum(axis=1) * negatives_RG.sum(axis=1)
    return _ratio((positives_RG * below_RG).sum(axis=1), pairs_R)


def expected_calibration_error(
    scored: Scored, weights_RN: Floats, *, num_bins: int = _ECE_BINS
) -> Floats:
    """Mean gap between confidence and accuracy over bins of confidence, ``(R,)``.

    Guo et al. 2017 (arXiv 1706.04599), Eq. 3: bins of equal width of the largest probability, each
    weighted by what lies in it.
    """
    gaps_R: Floats = np.abs(weights_RN @ calibration_gaps(scored, num_bins=num_bins)).sum(axis=1)
    return _ratio(gaps_R, weights_RN.sum(axis=1))


def calibration_gaps(scored: Scored, *, num_bins: int = _ECE_BINS) -> Floats:
    """Right (1 or 0) minus confidence, in the column of its bin, ``(N, bins)``."""
    confidence_N = scored.probability_NK.max(axis=1)
    right_N = scored.probability_NK.argmax(axis=1) == scored.target_N
    bin_N = np.clip(np.ceil(confidence_N * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    gap_NB = np.zeros((len(bin_N), num_bins))
    gap_NB[np.arange(len(bin_N)), bin_N] = right_N - confidence_N
    return gap_NB


def log_loss(scored: Scored, weights_RN: Floats) -> Floats:
    """Mean of ``-ln p`` of the true class, ``(R,)``; a probability of zero counts as 1e-12."""
    return _ratio(weights_RN @ losses(scored), weights_RN.sum(axis=1))


def losses(scored: Scored) -> Floats:
    """``-ln p`` of the true class, ``(N,)``; a probability of zero counts as 1e-12."""
    true_N = scored.probability_NK[np.arange(len(scored.target_N)), scored.target_N]
    loss_N: Floats = -np.log(np.maximum(true_N, _SMALLEST_PROBABILITY))
    return loss_N


def metrics_of_counts(counts_RKK: Floats, *, positive: int | None) -> dict[str, Floats]:
    """Every metric of decisions from counts, truth by prediction; each ``(R,)``.

    NaN where it is not defined. A class without truth is left out of a mean over classes.
    """
    truth_RK, said_RK = counts_RKK.sum(axis=2), counts_RKK.sum(axis=1)
    right_RK = np.diagonal(counts_RKK, axis1=1, axis2=2)
    total_R = counts_RKK.sum(axis=(1, 2))
    recall_RK = _ratio(right_RK, truth_RK)
    f1_RK = np.where(truth_RK > 0, _ratio(2 * right_RK, truth_RK + said_RK), np.nan)
    others_RK = total_R[:, None] - truth_RK
    specificity_RK = _ratio(others_RK - (said_RK - right_RK), others_RK)
    chosen = slice(None) if positive is None else slice(positive, positive + 1)
    return {
        "accuracy": _ratio(right_RK.sum(axis=1), total_R),
        "balanced_accuracy": _mean_of_present(recall_RK),
        "macro_f1": _mean_of_present(f1_RK),
        "sensitivity": _mean_of_present(recall_RK[:, chosen]),
        "specificity": _mean_of_present(specificity_RK[:, chosen]),
    }


def _weighted_metrics(
    scored: Scored, weights_RN: Floats, positive: int | None
) -> dict[str, Floats]:
    decided = metrics_of_counts(confusion(scored, weights_RN), positive=positive)
    found = {
        **decided,
        "auc": _macro_auc(scored, weights_RN),
        "ece": expected_calibration_error(scored, weights_RN),
        "log_loss": log_loss(scored, weights_RN),
    }
    return {name: found[name] for name in (*METRICS, *CALIBRATION)}


def _macro_auc(scored: Scored, weights_RN: Floats) -> Floats:
    """AUC of two classes, or the mean of one-vs-rest; NaN if a class is missing."""
    each = [
        weighted_auc(scored.probability_NK[:, k], scored.target_N == k, weights_RN)
        for k in ranked_classes(scored.probability_NK.shape[1])
    ]
    mean_R: Floats = np.stack(each).mean(axis=0)
    return mean_R


def ranked_classes(num_classes: int) -> tuple[int, ...]:
    """Classes whose one-vs-rest AUC are averaged: of two classes, both have the same."""
    return (1,) if num_classes == 2 else tuple(range(num_classes))


def _slide_weights(scored: Scored, replicates: int, rng: np.random.Generator) -> Floats:
    slides, slide_of_N = np.unique(np.asarray(scored.slide_N), return_inverse=True)
    label_S = [np.bincount(scored.target_N[slide_of_N == s]).argmax() for s in range(len(slides))]
    drawn_RS = np.zeros((replicates, len(slides)))
    for label in sorted(set(label_S)):
        members = np.flatnonzero(np.asarray(label_S) == label)
        shares = np.full(len(members), 1 / len(members))
        drawn_RS[:, members] = rng.multinomial(len(members), shares, size=replicates)
    return drawn_RS[:, slide_of_N]


def _ratio(part: Floats, whole: Floats) -> Floats:
    """``part / whole``, NaN where ``whole`` is zero."""
    quotient: Floats = np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
    return quotient


def _mean_of_present(values_RK: Floats) -> Floats:
    """Mean over the classes that are defined; NaN where none is."""
    present_RK = ~np.isnan(values_RK)
    return _ratio(np.where(present_RK, values_RK, 0.0).sum(axis=1), present_RK.sum(axis=1) * 1.0)


def positive_class(classes: Sequence[str], named: str | None) -> int | None:
    """Number of the positive class: the named one, else the last of two, else None."""
    if named is not None:
        return list(classes).index(named)
    return 1 if len(classes) == 2 else None
