"""Intervals over seeds, and paired differences against a control. Plain numbers in and out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Interval:
    """A mean with its t interval; ``low`` and ``high`` are None when there is one value only."""

    mean: float
    low: float | None
    high: float | None
    num: int


def mean_interval(values: Sequence[float], *, level: float = 0.95) -> Interval:
    """Mean and Student's t interval of independent values (one per seed).

    Raises:
        ValueError: There are no values, or one is not finite.
    """
    numbers = _finite(values)
    mean = float(numbers.mean())
    if len(numbers) == 1:
        return Interval(mean, None, None, 1)
    half = _half_width(numbers, level)
    return Interval(mean, mean - half, mean + half, len(numbers))


def paired_difference(
    treatment: Sequence[float], control: Sequence[float], *, level: float = 0.95
) -> Interval:
    """Mean of treatment minus control, paired by position (the same seed in both arms).

    Raises:
        ValueError: The two differ in length, are empty, or hold a value that is not finite.
    """
    if len(treatment) != len(control):
        raise ValueError(f"{len(treatment)} treatment values against {len(control)} controls")
    differences = _finite(treatment) - _finite(control)
    return mean_interval(differences.tolist(), level=level)


def _finite(values: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    numbers = np.asarray(values, np.float64)
    if not len(numbers) or not np.isfinite(numbers).all():
        raise ValueError("give one finite number or more")
    return numbers


def _half_width(numbers: np.ndarray[tuple[int], np.dtype[np.float64]], level: float) -> float:
    quantile = stats.t.ppf((1 + level) / 2, len(numbers) - 1)
    return float(quantile * numbers.std(ddof=1) / math.sqrt(len(numbers)))
