"""Parts of the labelled images, so that a model can judge each without having seen its slide.

Whole groups (patients, or slides) are dealt out class by class. Legend: N images.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from histodiff.errors import ConfigError
from histodiff.runtime import derived_seed

Numbers = npt.NDArray[np.int64]


def dealt_folds(
    groups: Sequence[str], target_N: Numbers, *, count: int, seed: int, field: str
) -> Numbers:
    """The fold of every image, from 0: the one that is held out when the image is judged.

    Args:
        groups: The patient or slide of every image.
        target_N: Its class.
        count: Folds, as far as every class has as many groups.
        seed: Decides which group is in which fold.
        field: Config field that asks for folds, for the error.

    Raises:
        ConfigError: A class would be missing from what is left beside some fold.
    """
    named = np.asarray(groups, dtype=object)
    main = {
        group: int(np.bincount(target_N[named == group]).argmax()) for group in sorted(set(groups))
    }
    dealt = sorted(main, key=lambda group: (main[group], derived_seed(seed, "folds", group), group))
    sizes = [sum(own == label for own in main.values()) for label in set(target_N.tolist())]
    used = max(2, min(count, *sizes))
    fold_of = {group: place % used for place, group in enumerate(dealt)}
    fold_N = np.array([fold_of[group] for group in groups], np.int64)
    for fold in range(used):
        if set(target_N[fold_N != fold].tolist()) != set(target_N.tolist()):
            raise ConfigError(
                f"{field}: judging images by models that never saw their slide takes two labelled"
                " slides (patients) of every class; raise the budget, or leave the rule out"
            )
    return fold_N
