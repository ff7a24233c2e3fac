"""Few slides or patients that together have enough labelled patches of every class.

Labels from few patients are what a small study has. Groups are ranked by a hash of (seed, group)
and the first set in that order that suffices is taken (in the order of its ranks): the draw depends
on neither the order of the input nor the classes, and a larger budget takes the same groups
wherever they have enough for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from histodiff.runtime import derived_seed

_MOST_TRIES = 20_000


def few_groups(
    counts: Mapping[str, Sequence[int]], *, at_most: int, each: int, seed: int, spread: int = 1
) -> list[str] | None:
    """Names of the groups that labels are taken from, in the order of their ranks.

    Args:
        counts: Labelled patches of every class, by group; all groups name the classes in one order.
        at_most: Groups in all.
        each: Patches wanted of every class.
        seed: Ranks the groups.
        spread: Groups that every class must be in.

    Returns:
        None where no such set was found: none exists, or none among the first 20,000 tries of a
        depth-first search that leaves out what can no longer suffice.
    """
    ranked = sorted(counts, key=lambda group: (derived_seed(seed, "budget-group", group), group))
    table_GK = np.array([counts[group] for group in ranked], np.int64)
    size = min(at_most, len(ranked))
    found = _Search(np.minimum(table_GK, each), size, each, spread).first()
    return None if found is None else [ranked[number] for number in found]


@dataclass
class _Search:
    """Depth-first in the order of ranks. Legend of suffixes: G groups, K classes."""

    table_GK: npt.NDArray[np.int64]
    size: int
    each: int
    spread: int
    tries: int = field(default=0)

    def first(self) -> list[int] | None:
        """Numbers of the groups of the first set that suffices."""
        return self._extended([])

    def _extended(self, chosen: list[int]) -> list[int] | None:
        left = self.size - len(chosen)
        if left == 0:
            return chosen if self._can_suffice(len(self.table_GK), 0, chosen) else None
        start = chosen[-1] + 1 if chosen else 0
        for number in range(start, len(self.table_GK) - left + 1):
            self.tries += 1
            if self.tries > _MOST_TRIES or not self._can_suffice(number, left, chosen):
                return None
            found = self._extended([*chosen, number])
            if found is not None:
                return found
        return None

    def _can_suffice(self, start: int, left: int, chosen: list[int]) -> bool:
        """Whether the fullest groups from ``start`` on have enough, each class and all together."""
        missing_K = np.maximum(self.each - self.table_GK[chosen].sum(axis=0), 0)
        rest_GK = np.minimum(self.table_GK[start:], missing_K)
        last = max(len(rest_GK) - left, 0)
        fullest_K = np.sort(rest_GK, axis=0)[last:].sum(axis=0)
        fullest = np.sort(rest_GK.sum(axis=1))[last:].sum()
        spread_K = (self.table_GK[chosen] > 0).sum(axis=0)
        spread_K += np.minimum((self.table_GK[start:] > 0).sum(axis=0), left)
        enough = (fullest_K >= missing_K).all() and fullest >= missing_K.sum()
        return bool(enough and (spread_K >= self.spread).all())
