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
    counts: Mapping[str, Sequence[int]], *, at_most: int, each: int, seed: int
) -> list[str] | None:
    """Names of the groups that labels are taken from, in the order of their ranks.

    Args:
        counts: Labelled patches of every class, by group; all groups name the classes in one order.
        at_most: Groups in all.
        each: Patches wanted of every class.
        seed: Ranks the groups.

    Returns:
        None where no such set was found: none exists, or none among the first 20,000 tries of a
        depth-first search that leaves out what can no longer suffice.
    """
    ranked = sorted(counts, key=lambda group: (derived_seed(seed, "budget-group", group), group))
    table_GK = np.array([counts[group] for group in ranked], np.int64)
    size = min(at_most, len(ranked))
    found = _Search(np.minimum(table_GK, each), size, each).first()
    return None if found is None else [ranked[number] for number in found]


@dataclass
class _Search:
    """Depth-first in the order of ranks. Legend of suffixes: G groups, K classes."""

    table_GK: npt.NDArray[np.int64]
    size: int
    each: int
    tries: int = field(default=0)

    def first(self) -> list[int] | None:
        """Numbers of the groups of the first set that suffices."""
        return self._extended([], np.zeros(self.table_GK.shape[1], np.int64))

    def _extended(self, chosen: list[int], have_K: npt.NDArray[np.int64]) -> list[int] | None:
        left = self.size - len(chosen)
        if left == 0:
            return chosen if (have_K >= self.each).all() else None
        start = chosen[-1] + 1 if chosen else 0
        for number in range(start, len(self.table_GK) - left + 1):
            self.tries += 1
            if self.tries > _MOST_TRIES or not self._can_suffice(number, left, have_K):
                return None
            found = self._extended([*chosen, number], have_K + self.table_GK[number])
            if found is not None:
                return found
        return None

    def _can_suffice(self, start: int, left: int, have_K: npt.NDArray[np.int64]) -> bool:
        """Whether the fullest groups from ``start`` on have enough, each class and all together."""
        missing_K = np.maximum(self.each - have_K, 0)
        rest_GK = np.minimum(self.table_GK[start:], missing_K)
        fullest_K = np.sort(rest_GK, axis=0)[-left:].sum(axis=0)
        fullest = np.sort(rest_GK.sum(axis=1))[-left:].sum()
        return bool((fullest_K >= missing_K).all() and fullest >= missing_K.sum())
