"""Parts of labelled images that share no patient or slide, so that each can be judged unseen.

Whole groups are dealt out class by class. Legend: N images.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from histodiff.runtime import derived_seed, generator_for

Numbers = npt.NDArray[np.int64]
_DEALS = 200
"""Deals that are tried where groups have several classes."""


def dealt_folds(
    groups: Sequence[str],
    target_N: Numbers,
    *,
    count: int,
    seed: int,
    purpose: str,
    complete: bool = False,
) -> Numbers | None:
    """The fold of every image, from 0: the one that is held out when the image is judged.

    What is left beside a fold has every class.

    Args:
        groups: The patient or slide of every image.
        target_N: Its class.
        count: Folds, as far as every class is in as many groups.
        seed: Decides which group is in which fold.
        purpose: Keeps the deals of one seed apart.
        complete: Whether every fold has every class itself, and there are ``count``.

    Returns:
        (N,), or None where the groups cannot be dealt so.
    """
    named, classes = np.asarray(groups, dtype=object), np.unique(target_N)
    names = sorted(set(groups))
    main = {name: int(np.bincount(target_N[named == name]).argmax()) for name in names}
    fewest = min(len(set(named[target_N == label])) for label in classes)
    used = count if complete else max(2, min(count, fewest))
    if len(names) < used:
        return None
    in_order = sorted(names, key=lambda name: (main[name], derived_seed(seed, purpose, name), name))
    for deal in range(_DEALS):
        order = np.arange(len(names))
        if deal:
            order = generator_for(seed, purpose, "deal", deal).permutation(len(names))
        fold_of = {in_order[number]: place % used for place, number in enumerate(order)}
        fold_N = np.array([fold_of[group] for group in groups], np.int64)
        sides = [fold_N != fold for fold in range(used)]
        if complete:
            sides += [fold_N == fold for fold in range(used)]
        if all(len(np.unique(target_N[side])) == len(classes) for side in sides):
            return fold_N
    return None
