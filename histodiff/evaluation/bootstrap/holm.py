"""Holm's correction for a family of comparisons."""

from collections.abc import Sequence


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p-values, in the order given: reject where one is below the level.

    Holm 1979, "A simple sequentially rejective multiple test procedure": the i-th smallest of m
    is multiplied by ``m - i + 1``; no adjusted value is below an earlier one, or above 1. The
    chance of any false rejection in the family stays below the level, whatever their dependence.

    Args:
        p_values: One per comparison; None where it could not be tested. It stays None, and counts
            in m all the same: what was planned and failed makes nothing easier for the others.
    """
    planned = len(p_values)
    tested = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * planned
    largest = 0.0
    for rank, (p, place) in enumerate(tested):
        largest = max(largest, min(1.0, p * (planned - rank)))
        adjusted[place] = largest
    return adjusted
