"""Whether samples show what they were drawn as: a classifier's word against the class asked for.

Samples are drawn with a number of each class that was chosen, not found: replicates draw samples
with replacement within each class. The intervals hold for these networks and any other noise, not
for networks of other labels. Legend of suffixes: N samples, K classes, R replicates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histodiff.evaluation.metrics import Scored, confusion
from histodiff.runtime import generator_for

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean over samples, between 0 and 1, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassAgreement:
    """What was said of the samples of one class."""

    num_samples: int
    share: Estimate
    """Of them, those whose most probable class it is."""
    mean_probability: Estimate
    """Of the class that was asked for."""


@dataclass(frozen=True)
class Agreement:
    """What was said of all samples; every sample counts alike."""

    num_samples: int
    share: Estimate
    """Of samples whose most probable class is the one asked for; of equal ones the first counts."""
    mean_probability: Estimate
    """Of the class that was asked for."""
    by_class: Mapping[str, ClassAgreement]
    """Of every class that has samples."""
    confusion: Mapping[str, Mapping[str, int]]
    """Samples by the class asked for, then by the most probable class."""


def agreement(
    probability_NK: Floats,
    intended_N: npt.NDArray[np.int64],
    classes: Sequence[str],
    *,
    replicates: int,
    seed: int,
) -> Agreement:
    """Agreement of a classifier with the classes that samples were asked for.

    Args:
        probability_NK: What the classifier says, ``(N, K)``.
        intended_N: Number of the class that each sample was asked for.
        classes: Names of the K classes.
        replicates: Bootstrap replicates of the intervals.
        seed: Draws them.

    Raises:
        ValueError: There are no samples.
    """
    if not len(intended_N):
        raise ValueError("give one sample or more")
    right_N = (probability_NK.argmax(axis=1) == intended_N).astype(np.float64)
    own_N = probability_NK[np.arange(len(intended_N)), intended_N]
    rng = generator_for(seed, "quality", "bootstrap", "agreement")
    members = {k: np.flatnonzero(intended_N == k) for k in np.unique(intended_N).tolist()}
    sums_KR2, by_class = [], {}
    for k, rows in members.items():
        values_N2 = np.stack([right_N[rows], own_N[rows]], axis=1)
        sums_R2 = _weights(len(rows), replicates, rng) @ values_N2
        sums_KR2.append(sums_R2)
        share, probability = _estimates(sums_R2, len(rows))
        by_class[classes[k]] = ClassAgreement(len(rows), share, probability)
    share, probability = _estimates(np.sum(sums_KR2, axis=0), len(intended_N))
    ones_1N = np.ones((1, len(intended_N)))
    counts_KK = confusion(Scored(probability_NK, intended_N, ()), ones_1N)[0]
    table = {
        classes[k]: dict(zip(classes, counts_KK[k].astype(int).tolist(), strict=True))
        for k in members
    }
    return Agreement(len(intended_N), share, probability, by_class, table)


def _weights(count: int, replicates: int, rng: np.random.Generator) -> Floats:
    """How often each sample was drawn, ``(1 + R, count)``; once each in the first row."""
    drawn_RN = rng.multinomial(count, np.full(count, 1 / count), size=replicates)
    return np.concatenate([np.ones((1, count)), drawn_RN])


def _estimates(sums_R2: Floats, count: int) -> tuple[Estimate, Estimate]:
    """Means from sums of two values over ``count`` samples; the first row is the value."""
    means_R2 = sums_R2 / count
    low_2, high_2 = np.quantile(means_R2[1:], (0.025, 0.975), axis=0)
    first, second = (
        Estimate(float(means_R2[0, n]), float(low_2[n]), float(high_2[n])) for n in (0, 1)
    )
    return first, second
