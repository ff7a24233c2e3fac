"""The temperature of a classifier, from labelled patches that its like did not see.

For each part of the labelled patches in turn a classifier learns from the others and judges that
part; the temperature is the one under which all those labels are likeliest. No label beyond the
budget is used. Legend: N patches, K classes.
"""

from collections.abc import Callable

import numpy as np

from histodiff.classification.images import Images, RealImages
from histodiff.classification.learning_set import JoinMixing, LearningSet, learning_set
from histodiff.classification.pseudo_labels import fitted_temperature
from histodiff.classification.stand_ins import cross_fitted_parts
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.workflows.classify.opened import Predictor


def cross_fitted_temperature(
    fit: Callable[[LearningSet, int], Predictor],
    index: PatchIndex,
    real: RealImages,
    *,
    num_folds: int,
    seed: int,
) -> float:
    """The temperature of a classifier that ``fit`` makes of all labelled patches.

    Args:
        fit: A classifier of a part of them; also told the number of the fold.
        index: The labelled index.
        real: The labelled patches.
        num_folds: Parts that are held out in turn.
        seed: Deals patients out.

    Raises:
        ConfigError: A part, or what it leaves, lacks a class.
    """
    parts = cross_fitted_parts(
        index.patches, real.patches_N, num_folds=num_folds, seed=seed, why="calibration:"
    )
    num_classes = len(index.classes)
    said, truth = [], []
    for number, part in enumerate(parts):
        held_out = np.isin(real.patches_N, part)
        rest = learning_set(
            _where(real.images, ~held_out), None, num_classes=num_classes,
            mixing=JoinMixing(type="join"),
        )  # fmt: skip
        judged = _where(real.images, held_out)
        said.append(fit(rest, number)(judged.pixels_NHWC))
        truth.append(judged.target_N)
    return fitted_temperature(np.concatenate(said), np.concatenate(truth))


def _where(images: Images, chosen_N: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Images:
    return Images(images.pixels_NHWC[chosen_N], images.target_N[chosen_N])
