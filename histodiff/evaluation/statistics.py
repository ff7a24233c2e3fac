"""Intervals over seeds, paired differences against a control, and what they allow to be said.

Plain numbers in and out. Intervals are Student's t. Where the values have bounds, so has their
mean, and the interval is cut there: what is cut cannot hold the mean, so no coverage is lost. A
verdict needs three seeds and differences that differ: two values leave one degree of freedom, and
equal ones no spread to judge by.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy import stats

FEWEST_SEEDS = 3
"""Paired values below which there is no verdict."""
_EQUAL = 1e-12
"""Values closer than this differ by rounding alone."""


class Verdict(StrEnum):
    """What the interval of a difference says."""

    BETTER = "better"
    WORSE = "worse"
    NO_EFFECT = "no effect shown"
    NOT_TESTABLE = "not testable"


@dataclass(frozen=True)
class Bounds:
    """Between what a value lies by its definition."""

    low: float
    high: float

    @property
    def of_difference(self) -> "Bounds":
        """Between what the difference of two such values lies."""
        return Bounds(self.low - self.high, self.high - self.low)


SCORE = Bounds(0.0, 1.0)
"""Of accuracies, AUC and their like."""


@dataclass(frozen=True)
class Interval:
    """A mean with its t interval.

    ``low`` and ``high`` are None when there is one value only, or when all are equal: no spread can
    be estimated from either.
    """

    mean: float
    low: float | None
    high: float | None
    num: int

    @property
    def verdict(self) -> Verdict:
        """What the interval says where it is one of differences."""
        if self.untestable is not None or self.low is None or self.high is None:
            return Verdict.NOT_TESTABLE
        if self.low <= 0 <= self.high:
            return Verdict.NO_EFFECT
        return Verdict.BETTER if self.low > 0 else Verdict.WORSE

    @property
    def untestable(self) -> str | None:
        """Why there is no verdict, in a sentence; None where there is one."""
        if self.num == 1:
            return "One seed has no interval, so nothing can be concluded."
        if self.num < FEWEST_SEEDS:
            return f"{self.num} seeds are fewer than {FEWEST_SEEDS}, so nothing can be concluded."
        if self.low is None:
            return (
                f"All {self.num} paired differences are equal: a spread of zero gives no interval,"
                " so nothing can be concluded."
            )
        return None


def mean_interval(
    values: Sequence[float], *, level: float = 0.95, bounds: Bounds | None = None
) -> Interval:
    """Mean and Student's t interval of independent values (one per seed).

    Args:
        values: The values.
        level: Of the interval.
        bounds: Between what the values lie by their definition; None for any numbers.

    Raises:
        ValueError: There are no values, or one is not finite or out of bounds.
    """
    numbers = _finite(values, bounds)
    mean = float(numbers.mean())
    if len(numbers) == 1 or np.ptp(numbers) < _EQUAL:
        return Interval(mean, None, None, len(numbers))
    half = _half_width(numbers, level)
    low, high = mean - half, mean + half
    if bounds is not None:
        low, high = max(low, bounds.low), min(high, bounds.high)
    return Interval(mean, low, high, len(numbers))


def paired_difference(
    treatment: Sequence[float],
    control: Sequence[float],
    *,
    level: float = 0.95,
    bounds: Bounds | None = None,
) -> Interval:
    """Mean of treatment minus control, paired by position (the same seed in both arms).

    Args:
        treatment: One value per seed.
        control: One value per seed, in the same order.
        level: Of the interval.
        bounds: Between what the values, not their differences, lie by definition.

    Raises:
        ValueError: The two differ in length, are empty, or hold a value that is not finite or out
            of bounds.
    """
    if len(treatment) != len(control):
        raise ValueError(f"{len(treatment)} treatment values against {len(control)} controls")
    differences = _finite(treatment, bounds) - _finite(control, bounds)
    between = None if bounds is None else bounds.of_difference
    return mean_interval(differences.tolist(), level=level, bounds=between)


def _finite(
    values: Sequence[float], bounds: Bounds | None
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    numbers = np.asarray(values, np.float64)
    if not len(numbers) or not np.isfinite(numbers).all():
        raise ValueError("give one finite number or more")
    if bounds is not None and (numbers.min() < bounds.low or numbers.max() > bounds.high):
        raise ValueError(f"give numbers from {bounds.low:g} to {bounds.high:g}")
    return numbers


def _half_width(numbers: np.ndarray[tuple[int], np.dtype[np.float64]], level: float) -> float:
    quantile = stats.t.ppf((1 + level) / 2, len(numbers) - 1)
    return float(quantile * numbers.std(ddof=1) / math.sqrt(len(numbers)))
