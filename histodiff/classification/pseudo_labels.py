"""Patches whose labels a model guesses: which of them join the labelled ones, and how sure.

The label is soft: what a calibrated teacher says, for every class. Semi-supervised learning of this
kind is what synthesis must beat (You et al. 2023, arXiv 2302.10586). Patches join round the classes
that are guessed, as samples do, so that any beginning is as balanced as they allow. Legend: N
patches, K classes.
"""

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from histodiff.runtime import generator_for

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

_TINY = 1e-12
_LOWEST, _HIGHEST = 0.1, 1000.0


class Choice(StrEnum):
    """Which guessed patches come first within their class."""

    RANDOM = "random"
    """Any, drawn by the seed."""
    CONFIDENT = "confident"
    """Those that the teacher is surest of."""


class Weighting(StrEnum):
    """How much a guessed patch counts."""

    NONE = "none"
    """As much as a labelled one."""
    CONFIDENCE = "confidence"
    """From 0, where all classes are equally likely, to 1, where one is certain."""


def pseudo_labelled(probability_NK: Floats, *, count: int, choice: Choice, seed: int) -> Numbers:
    """Rows of the patches that join, in their order; fewer than ``count`` where there are fewer."""
    classes_N = probability_NK.argmax(axis=1)
    confidence_N = probability_NK.max(axis=1)
    by_class = []
    for number in range(probability_NK.shape[1]):
        rows = np.flatnonzero(classes_N == number)
        order = generator_for(seed, "pseudo-label", number).permutation(len(rows))
        if choice is Choice.CONFIDENT:
            order = order[np.argsort(-confidence_N[rows[order]], kind="stable")]
        by_class.append(rows[order])
    return round_the_classes(by_class)[:count]


def round_the_classes(by_class: Sequence[npt.NDArray[np.integer]]) -> Numbers:
    """One of each class after the other, each class in its own order."""
    ranked = [
        (rank, number, int(row))
        for number, rows in enumerate(by_class)
        for rank, row in enumerate(rows)
    ]
    return np.array([row for _, _, row in sorted(ranked)], np.int64)


def soft_targets(probability_NK: Floats, *, weighting: Weighting) -> npt.NDArray[np.float32]:
    """Probabilities times the weight of each patch."""
    if weighting is Weighting.NONE:
        return probability_NK.astype(np.float32)
    chance = 1 / probability_NK.shape[1]
    weight_N1 = (probability_NK.max(axis=1, keepdims=True) - chance) / (1 - chance)
    target_NK: npt.NDArray[np.float32] = (weight_N1 * probability_NK).astype(np.float32)
    return target_NK


def tempered(probability_NK: Floats, temperature: float) -> Floats:
    """Probabilities as they are at a temperature: ``p^(1/T)``, normalised."""
    scaled = np.log(np.maximum(probability_NK, _TINY)) / temperature
    raised = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    found: Floats = raised / raised.sum(axis=1, keepdims=True)
    return found


def fitted_temperature(probability_NK: Floats, target_N: Numbers) -> float:
    """The temperature under which labels that were held out are likeliest.

    Guo et al. 2017 (arXiv 1706.04599); the log loss is convex in one over the temperature.
    """
    rows = np.arange(len(target_N))

    def loss(inverse: float) -> float:
        true_N = tempered(probability_NK, 1 / inverse)[rows, target_N]
        return float(-np.log(np.maximum(true_N, _TINY)).mean())

    found = minimize_scalar(
        loss, bounds=(1 / _HIGHEST, 1 / _LOWEST), method="bounded", options={"xatol": 1e-6}
    )
    return 1 / float(found.x)
