"""How many label draws an interval of a given half-width takes."""

import math
from dataclasses import dataclass

from scipy import stats

from histodiff.evaluation.bootstrap.effects import Components, satterthwaite

_MOST = 10_000


@dataclass(frozen=True)
class DrawsNeeded:
    """How many label draws, on the same test patients.

    ``num`` is None where no number suffices: with ever more draws the half-width falls to
    ``least_half_width``, which the test patients alone leave.
    """

    num: int | None
    least_half_width: float


def draws_needed(components: Components, *, half_width: float, level: float = 0.95) -> DrawsNeeded:
    """The fewest label draws, at least three, that are expected to give the half-width.

    With n draws in place of m, the variance of draws is ``m / n`` times what it is, that of the
    patients themselves (without their meeting with draws) stays.
    """
    least = _half_width(components, None, level)
    if least > half_width:
        return DrawsNeeded(None, least)
    low, high = 2, 3  # `low` draws are too few, or fewer than are looked at
    while _half_width(components, high, level) > half_width:
        if high > _MOST:
            return DrawsNeeded(None, least)
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if _half_width(components, middle, level) > half_width:
            low = middle
        else:
            high = middle
    return DrawsNeeded(high, least)


def _half_width(found: Components, num_draws: int | None, level: float) -> float:
    """Expected half-width with ``num_draws``; None: with no end of them."""
    patients = max(found.patients - found.meeting, 0.0)
    draws = 0.0 if num_draws is None else found.draws * found.num_draws / num_draws
    total = patients + draws
    degrees = float(found.unit_degrees)
    if num_draws is not None:
        parts = (patients, found.unit_degrees), (draws, num_draws - 1)
        degrees = satterthwaite(total, *parts)
    return float(stats.t.ppf((1 + level) / 2, degrees)) * math.sqrt(total)
