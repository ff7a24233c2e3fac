"""Metrics of every classifier of an arm in every replicate of the test patients.

A metric is a function of what each unit (patient) adds to it: its confusion counts, its gaps of
calibration, its loss, and, for AUC, the pairs that it wins against every other unit. These are
counted once per classifier, and a replicate is a product with its weights: thousands of replicates
of thousands of patches take no more than a few matrix products.

Legend of suffixes: N patches, U units, K classes, R replicates, D label draws, B bins.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histodiff.evaluation.bootstrap.resampling import UnitWeights
from histodiff.evaluation.metrics import (
    CALIBRATION,
    METRICS,
    Scored,
    calibration_gaps,
    losses,
    metrics_of_counts,
    ranked_classes,
    weighted_auc,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

ALL_METRICS = (*METRICS, *CALIBRATION)
_MANY_UNITS = 400
"""Units above which pairs of units take longer than the patches one after the other."""
_BLOCK = 64


@dataclass(frozen=True)
class Predictions:
    """What one classifier said of the test patches (or slides), and whose each is.

    ``unit_N`` names what is resampled: patients, or slides where patients are unknown. ``item_N``
    names the patches themselves; arms are paired only where they scored the same.
    """

    scored: Scored
    unit_N: tuple[str, ...]
    item_N: tuple[str, ...]


@dataclass(frozen=True)
class ArmReplicates:
    """One metric of an arm: of each label draw, as measured and in every replicate of the units.

    ``value_D`` and ``values_RD`` are NaN where the metric is not defined (a class is missing).
    """

    draws: tuple[int, ...]
    value_D: Floats
    values_RD: Floats
    degrees: int
    """Degrees of freedom of the units."""

    def of(self, draws: Collection[int]) -> "ArmReplicates":
        """The same of some draws only, in ascending order."""
        kept = sorted(draws)
        places = [self.draws.index(draw) for draw in kept]
        return ArmReplicates(
            tuple(kept), self.value_D[places], self.values_RD[:, places], self.degrees
        )


def replicated(
    classifiers: Mapping[int, Predictions],
    weights: UnitWeights,
    *,
    positive: int | None,
    metrics: Collection[str] = ALL_METRICS,
) -> dict[str, ArmReplicates]:
    """The metrics of an arm.

    Args:
        classifiers: Predictions by label draw (seed).
        weights: Of all units of the study.
        positive: Class of sensitivity and specificity; None averages one-vs-rest over classes.
        metrics: Which of ``ALL_METRICS``.

    Raises:
        ValueError: There is no classifier, or a unit without weights.
    """
    if not classifiers:
        raise ValueError("give predictions of one classifier or more")
    draws = tuple(sorted(classifiers))
    # the first row counts every unit once: the value itself
    all_RU = np.vstack([np.ones(len(weights.units)), weights.weights_RU])
    each = [_values(classifiers[draw], weights.units, all_RU, positive, metrics) for draw in draws]
    return {
        name: ArmReplicates(
            draws,
            np.array([values[name][0] for values in each]),
            np.stack([values[name][1:] for values in each], axis=1),
            weights.degrees,
        )
        for name in metrics
    }


def _values(
    predictions: Predictions,
    units: tuple[str, ...],
    weights_RU: Floats,
    positive: int | None,
    metrics: Collection[str],
) -> dict[str, Floats]:
    """Metrics ``(R,)`` of one classifier by name."""
    scored = predictions.scored
    unit_N = _places(predictions.unit_N, units)
    num_classes = scored.probability_NK.shape[1]
    cell_N = scored.target_N * num_classes + scored.probability_NK.argmax(axis=1)
    cells_UC = np.zeros((len(units), num_classes**2))
    np.add.at(cells_UC, (unit_N, cell_N), 1.0)
    counts_RKK = (weights_RU @ cells_UC).reshape(-1, num_classes, num_classes)
    found = metrics_of_counts(counts_RKK, positive=positive)
    total_R = counts_RKK.sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        if "ece" in metrics:
            gaps_UB = _sums(calibration_gaps(scored), unit_N, len(units))
            found["ece"] = np.abs(weights_RU @ gaps_UB).sum(axis=1) / total_R
        if "log_loss" in metrics:
            loss_U1 = _sums(losses(scored)[:, None], unit_N, len(units))
            found["log_loss"] = (weights_RU @ loss_U1)[:, 0] / total_R
        if "auc" in metrics:
            found["auc"] = _macro_auc(scored, unit_N, weights_RU)
    return {name: found[name] for name in metrics}


def _places(names: tuple[str, ...], units: tuple[str, ...]) -> Ints:
    numbers = {unit: place for place, unit in enumerate(units)}
    unknown = next((name for name in names if name not in numbers), None)
    if unknown is not None:
        raise ValueError(f"'{unknown}' is none of the units that have weights")
    return np.array([numbers[name] for name in names], np.int64)


def _sums(values_NB: Floats, unit_N: Ints, num_units: int) -> Floats:
    """Sums over the patches of every unit, ``(U, B)``."""
    sums_UB = np.zeros((num_units, values_NB.shape[1]))
    np.add.at(sums_UB, unit_N, values_NB)
    return sums_UB


def _macro_auc(scored: Scored, unit_N: Ints, weights_RU: Floats) -> Floats:
    each = [
        _auc(scored.probability_NK[:, k], scored.target_N == k, unit_N, weights_RU)
        for k in ranked_classes(scored.probability_NK.shape[1])
    ]
    mean_R: Floats = np.stack(each).mean(axis=0)
    return mean_R


def _auc(
    score_N: Floats, positive_N: npt.NDArray[np.bool_], unit_N: Ints, weights_RU: Floats
) -> Floats:
    """AUC of every replicate from the pairs that units win of each other; NaN without pairs."""
    num_units = weights_RU.shape[1]
    if num_units > _MANY_UNITS:
        blocks = (weights_RU[at : at + _BLOCK] for at in range(0, len(weights_RU), _BLOCK))
        return np.concatenate(
            [weighted_auc(score_N, positive_N, block_RU[:, unit_N]) for block_RU in blocks]
        )
    wins_UU = _wins(score_N, positive_N, unit_N, num_units)
    positives_U = np.bincount(unit_N[positive_N], minlength=num_units).astype(np.float64)
    negatives_U = np.bincount(unit_N[~positive_N], minlength=num_units).astype(np.float64)
    pairs_R = (weights_RU @ positives_U) * (weights_RU @ negatives_U)
    won_R = ((weights_RU @ wins_UU) * weights_RU).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        auc_R: Floats = won_R / pairs_R
    return auc_R


def _wins(
    score_N: Floats, positive_N: npt.NDArray[np.bool_], unit_N: Ints, num_units: int
) -> Floats:
    """Pairs in which a positive of the row's unit scores above a negative of the column's.

    Ties count half. ``(U, U)``.
    """
    _, group_N = np.unique(score_N, return_inverse=True)
    negatives_GU = np.zeros((int(group_N.max()) + 1, num_units))
    np.add.at(negatives_GU, (group_N[~positive_N], unit_N[~positive_N]), 1.0)
    below_GU = np.cumsum(negatives_GU, axis=0) - 0.5 * negatives_GU
    wins_UU = np.zeros((num_units, num_units))
    np.add.at(wins_UU, unit_N[positive_N], below_GU[group_N[positive_N]])
    return wins_UU
