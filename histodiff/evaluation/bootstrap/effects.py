"""Means and paired differences over label draws and test patients, with interval and p-value.

A study has one test set: every label draw is scored on the same patients. So a replicate draws
label draws and patients, each once, and a classifier counts by the product of both weights, in both
arms alike (the pigeonhole bootstrap of Owen 2007, arXiv 0712.1111). Patients drawn anew for each
label draw would average away what no number of label draws removes.

Three variances come from the same replicates: of draws alone (patients kept), of patients alone
(draws kept), of both. With independent effects of draw, patient and their meeting, of variances a,
b and c per mean, they are near ``a + c``, ``b + c`` and ``a + b + 3 c`` (Owen 2007, Theorem 3). The
variance of the mean, ``a + b + c``, is the first two minus their common part, as in two-way
clustering (Cameron, Gelbach and Miller 2011, Eq. 2.3); it is never taken to be below either.
Intervals and p-values are Student's t with that standard error, and Satterthwaite's degrees of
freedom: with eight draws, percentiles of replicates cover too little.

Legend of suffixes: R replicates, D label draws.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from histodiff.evaluation.bootstrap.replicates import ArmReplicates
from histodiff.evaluation.bootstrap.resampling import rescaled_weights
from histodiff.evaluation.statistics import FEWEST_SEEDS, Bounds, Verdict
from histodiff.runtime import generator_for

Floats = npt.NDArray[np.float64]

_FEWEST_UNIT_DEGREES = 2
_MOST_UNDEFINED = 0.05
_NO_SPREAD = 1e-20


@dataclass(frozen=True)
class Components:
    """Variances of a mean over label draws, by where they come from."""

    draws: float
    """Of draws alone, the patients kept: falls with the number of draws."""
    patients: float
    """Of patients alone, the draws kept."""
    meeting: float
    """The part of both that is of single draws on single patients: falls with the draws."""
    num_draws: int
    unit_degrees: int

    @property
    def total(self) -> float:
        """Of the mean."""
        return max(self.draws + self.patients - self.meeting, self.draws, self.patients)

    @property
    def degrees(self) -> float:
        """Satterthwaite's degrees of freedom (1946, Eq. 17), at least those of the scarcer."""
        return satterthwaite(self.total, (self.draws, self.num_draws - 1),
                             (self.patients, self.unit_degrees))  # fmt: skip


@dataclass(frozen=True)
class Effect:
    """A mean over label draws, or a paired difference of two.

    ``low``, ``high`` and ``p_value`` are None where ``untestable`` says why.
    """

    value: float
    low: float | None
    high: float | None
    p_value: float | None
    num_draws: int
    components: Components | None
    untestable: str | None

    def verdict(self, *, p_value: float | None, level: float) -> Verdict:
        """What a difference shows, by a p-value that may be adjusted."""
        if self.untestable is not None or p_value is None:
            return Verdict.NOT_TESTABLE
        if p_value >= 1 - level:
            return Verdict.NO_EFFECT
        return Verdict.BETTER if self.value > 0 else Verdict.WORSE


def arm_effect(
    arm: ArmReplicates, *, seed: int, level: float = 0.95, bounds: Bounds | None = None
) -> Effect | None:
    """Mean of an arm over its label draws; None where the metric is not defined.

    Args:
        arm: The metric of the arm.
        seed: Decides which label draws the replicates draw.
        level: Of the interval.
        bounds: Between what the metric lies; the interval is cut there.
    """
    return _effect(arm, seed=seed, level=level, bounds=bounds)


def paired_effect(
    arm: ArmReplicates,
    control: ArmReplicates,
    *,
    seed: int,
    level: float = 0.95,
    bounds: Bounds | None = None,
) -> Effect | None:
    """Mean of arm minus control over the label draws that both have.

    Both must come from the same ``UnitWeights``. None where they share no draw, or the metric is
    not defined.

    Args:
        arm: The metric of the arm.
        control: The metric of the control.
        seed: Decides which label draws the replicates draw.
        level: Of the interval.
        bounds: Between what the metric, not its difference, lies.
    """
    shared = set(arm.draws) & set(control.draws)
    if not shared:
        return None
    one, other = arm.of(shared), control.of(shared)
    differences = ArmReplicates(
        one.draws, one.value_D - other.value_D, one.values_RD - other.values_RD, one.degrees
    )
    between = None if bounds is None else bounds.of_difference
    return _effect(differences, seed=seed, level=level, bounds=between)


def satterthwaite(total: float, *parts: tuple[float, int]) -> float:
    """Degrees of freedom of a variance that is estimated from parts (variance, degrees)."""
    spread = sum(part**2 / degrees for part, degrees in parts)
    fewest = float(min(degrees for _, degrees in parts))
    return fewest if spread == 0 else max(fewest, total**2 / spread)


def _effect(arm: ArmReplicates, *, seed: int, level: float, bounds: Bounds | None) -> Effect | None:
    value = float(arm.value_D.mean())
    if math.isnan(value):
        return None
    num = len(arm.draws)
    untestable = _too_few(arm)
    if untestable is not None:
        return Effect(value, None, None, None, num, None, untestable)
    components = _components(arm, seed)
    if components.total < _NO_SPREAD:
        text = "no spread over label draws and patients, so nothing can be concluded"
        return Effect(value, None, None, None, num, components, text)
    error, degrees = math.sqrt(components.total), components.degrees
    half = float(stats.t.ppf((1 + level) / 2, degrees)) * error
    low, high = value - half, value + half
    if bounds is not None:
        low, high = max(low, bounds.low), min(high, bounds.high)
    p_value = float(2 * stats.t.sf(abs(value) / error, degrees))
    return Effect(value, low, high, p_value, num, components, None)


def _too_few(arm: ArmReplicates) -> str | None:
    """Why there is no interval, in words; None where there is one."""
    if len(arm.draws) < FEWEST_SEEDS:
        return f"fewer than {FEWEST_SEEDS} label draws, so nothing can be concluded"
    if arm.degrees < _FEWEST_UNIT_DEGREES:
        return "too few test patients to resample, so nothing can be concluded"
    undefined = float(np.isnan(arm.values_RD).any(axis=1).mean())
    if undefined > _MOST_UNDEFINED:
        return f"not defined in {undefined:.0%} of the replicates, so nothing can be concluded"
    return None


def _components(arm: ArmReplicates, seed: int) -> Components:
    defined_R = ~np.isnan(arm.values_RD).any(axis=1)
    values_RD = arm.values_RD[defined_R]
    rng = generator_for(seed, "label-draws", *arm.draws)
    num = len(arm.draws)
    shares_RD = rescaled_weights(num, replicates=len(arm.values_RD), rng=rng)[defined_R] / num
    draws = float((shares_RD @ arm.value_D).var())
    patients = float(values_RD.mean(axis=1).var())
    both = float((shares_RD * values_RD).sum(axis=1).var())
    meeting = min(max(both - draws - patients, 0.0), draws, patients)
    return Components(draws, patients, meeting, num, arm.degrees)
