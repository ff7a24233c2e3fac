"""Weights of bootstrap replicates: how often each unit (patient, label draw) was drawn.

``n - 1`` of n units are drawn with replacement and weighted ``n / (n - 1)``: with few units, the
plain bootstrap is too narrow by ``sqrt((n - 1) / n)``, and this one is not (Rao and Wu 1988,
"Resampling inference with complex survey data", Eq. 2.3 with m = n - 1). Units are drawn within
strata. A stratum of one unit cannot be resampled: it keeps its weight, and is named.

Legend of suffixes: R replicates, U units.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class UnitWeights:
    """Weights of units in every replicate: the same for all arms, so that arms are paired.

    ``units`` are sorted, so results do not depend on the order in which units are met.
    """

    units: tuple[str, ...]
    weights_RU: Floats
    degrees: int
    """Degrees of freedom: units minus strata."""
    alone: tuple[str, ...]
    """Units that are the only one of their stratum, and are never left out."""


def unit_weights(
    stratum: Mapping[str, int], *, replicates: int, rng: np.random.Generator
) -> UnitWeights:
    """Weights of the units whose strata (such as the class most of their patches have) are given.

    Raises:
        ValueError: There are no units.
    """
    if not stratum:
        raise ValueError("give one unit or more")
    units = tuple(sorted(stratum))
    members: defaultdict[int, list[int]] = defaultdict(list)
    for place, unit in enumerate(units):
        members[stratum[unit]].append(place)
    weights_RU = np.ones((replicates, len(units)))
    for _, places in sorted(members.items()):
        weights_RU[:, places] = rescaled_weights(len(places), replicates=replicates, rng=rng)
    alone = tuple(units[places[0]] for places in members.values() if len(places) == 1)
    return UnitWeights(units, weights_RU, len(units) - len(members), tuple(sorted(alone)))


def rescaled_weights(count: int, *, replicates: int, rng: np.random.Generator) -> Floats:
    """Weights ``(R, count)`` with mean and variance one; ones where there is one unit only."""
    if count == 1:
        return np.ones((replicates, 1))
    drawn_RU = rng.multinomial(count - 1, np.full(count, 1 / count), size=replicates)
    return drawn_RU.astype(np.float64) * np.float64(count / (count - 1))
