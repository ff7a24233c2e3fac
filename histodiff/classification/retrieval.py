"""Real patches of a pool that look like the labelled ones, labelled as what they look like.

Nearest images of what a generator was trained on match or beat its samples in many tasks (Burg et
al. 2023, arXiv 2304.10253): an arm that samples must beat. Legend: N labelled patches, M patches of
the pool, D features.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histodiff.classification.pseudo_labels import round_the_classes
from histodiff.features.neighbours import l2_normalised, nearest_by_distance

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Retrieved:
    """Patches of the pool in the order in which they join."""

    row_N: Numbers
    """Row in the pool."""
    labelled_N: Numbers
    """Row of the labelled patch that each looks like."""


def retrieved(
    pool_MD: npt.NDArray[np.floating],
    labelled_ND: npt.NDArray[np.floating],
    target_N: Numbers,
    *,
    count: int,
) -> Retrieved:
    """The patches of the pool that are nearest to labelled ones; none is taken twice.

    A patch of the pool belongs to the labelled patch that it is nearest to by angle. The nearest of
    every labelled patch come first, then the second nearest, and so on, round the classes: no
    labelled patch fills the set alone.

    Args:
        pool_MD: Features of the pool.
        labelled_ND: Features of the labelled patches.
        target_N: Class numbers of these.
        count: How many are wanted; fewer are returned where the pool has fewer.
    """
    nearest = nearest_by_distance(l2_normalised(pool_MD), l2_normalised(labelled_ND))
    owner_M, distance_M = nearest.reference_N, nearest.distance_N
    taken: Counter[int] = Counter()
    ranked: list[tuple[int, float, int]] = []
    for row in np.argsort(distance_M, kind="stable").tolist():
        owner = int(owner_M[row])
        ranked.append((taken[owner], float(distance_M[row]), row))
        taken[owner] += 1
    rows = np.array([row for _, _, row in sorted(ranked)], np.int64)
    class_of_row = target_N[owner_M[rows]]
    chosen = round_the_classes([rows[class_of_row == k] for k in np.unique(target_N)])[:count]
    return Retrieved(chosen, owner_M[chosen])
