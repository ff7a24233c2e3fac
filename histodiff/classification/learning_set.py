"""What a classifier learns from: real images, and images that join them, with soft targets.

Added images may be surer or less sure of their class: a target is a probability of every class,
times the weight of the image. Which image a sample takes is drawn in two steps. First a real one,
in every arm the same; then, with one probability for all classes, it makes way for an added one of
its class. So the share of added images is equal in all classes, and where an image comes from tells
nothing of its class. Legend: N images, K classes, B samples of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from histodiff.classification.images import Images, Pixels
from histodiff.config import Config
from histodiff.errors import ConfigError
from histodiff.runtime import generators_for

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]


class JoinMixing(Config):
    """As if all images lay in one heap: added ones have the share that they have in number."""

    type: Literal["join"]


class ReplaceMixing(Config):
    """Added images have a share of their own, however many there are."""

    type: Literal["replace"]
    probability: float = Field(gt=0, lt=1)
    """Probability that a real image makes way for an added one of its class."""


MixingConfig = Annotated[JoinMixing | ReplaceMixing, Field(discriminator="type")]
"""How real and added images share the batches; the number of steps is the same."""


@dataclass(frozen=True)
class AddedImages:
    """Images that join the labelled ones: pixels uint8, targets ``(N, K)`` times weight."""

    pixels_NHWC: Pixels
    target_NK: Floats

    def __len__(self) -> int:
        return len(self.pixels_NHWC)

    @property
    def class_N(self) -> Numbers:
        """The likeliest class of every image."""
        return _likeliest(self.target_NK)


@dataclass(frozen=True)
class LearningSet:
    """Real images first, then added ones."""

    pixels_NHWC: Pixels
    target_NK: Floats
    """Probability of every class, times the weight of the image."""
    num_real: int
    added_share: float
    """Probability that a sample of a class is an added image, where the class has any."""

    @cached_property
    def class_N(self) -> Numbers:
        """The likeliest class of every image."""
        return _likeliest(self.target_NK)


def _likeliest(target_NK: Floats) -> Numbers:
    classes_N: Numbers = target_NK.argmax(axis=1).astype(np.int64)
    return classes_N


def hard_targets(target_N: Numbers, *, num_classes: int) -> Floats:
    """Probability 1 of the class of every image."""
    return np.eye(num_classes, dtype=np.float32)[target_N]


def added_images(images: Images, *, num_classes: int) -> AddedImages:
    """Images whose classes are certain, to be added."""
    return AddedImages(images.pixels_NHWC, hard_targets(images.target_N, num_classes=num_classes))


def learning_set(
    real: Images, added: AddedImages | None, *, num_classes: int, mixing: MixingConfig
) -> LearningSet:
    """Real images and what joins them, if anything.

    Raises:
        ConfigError: Images are added to a class that has no real one.
    """
    target_NK = hard_targets(real.target_N, num_classes=num_classes)
    if added is None or not len(added):
        return LearningSet(real.pixels_NHWC, target_NK, len(real), 0.0)
    alone = sorted(set(added.class_N.tolist()) - set(real.target_N.tolist()))
    if alone:
        raise ConfigError(
            f"images of class number {alone[0]} would be added, but none is labelled; raise the"
            " budget so that every class has a label"
        )
    share = (
        mixing.probability
        if isinstance(mixing, ReplaceMixing)
        else len(added) / (len(real) + len(added))
    )
    return LearningSet(
        np.concatenate([real.pixels_NHWC, added.pixels_NHWC]),
        np.concatenate([target_NK, added.target_NK]),
        len(real),
        share,
    )


def drawn_images(
    images: LearningSet, *, seed: int, indices: Sequence[int], balanced: bool
) -> Numbers:
    """The image that each global sample index takes: a real one, or an added one in its place."""
    class_N = images.class_N
    rows = drawn_rows(class_N[: images.num_real], seed=seed, indices=indices, balanced=balanced)
    if images.added_share == 0:
        return rows
    added_of = {
        number: images.num_real + np.flatnonzero(class_N[images.num_real :] == number)
        for number in np.unique(class_N[: images.num_real]).tolist()
    }
    for place, rng in enumerate(generators_for(seed, "added-row", indices)):
        candidates = added_of[int(class_N[rows[place]])]
        if len(candidates) and rng.random() < images.added_share:
            rows[place] = candidates[rng.integers(len(candidates))]
    return rows


def image_weights(images: LearningSet, *, balanced: bool) -> Floats:
    """How often ``drawn_images`` takes each image, relative to the mean over all, (N,).

    For classifiers that see all images at once.
    """
    class_N = images.class_N
    real_N = np.arange(len(class_N)) < images.num_real
    weight_N = np.zeros(len(class_N))
    present = np.unique(class_N[real_N])
    for number in present:
        real, added = (np.flatnonzero((class_N == number) & own) for own in (real_N, ~real_N))
        class_share = 1 / len(present) if balanced else len(real) / images.num_real
        added_share = images.added_share if len(added) else 0.0
        weight_N[real] = class_share * (1 - added_share) / len(real)
        if len(added):
            weight_N[added] = class_share * added_share / len(added)
    return (weight_N * len(weight_N)).astype(np.float32)


def drawn_rows(target_N: Numbers, *, seed: int, indices: Sequence[int], balanced: bool) -> Numbers:
    """The image that each global sample index takes; ``balanced`` draws the class first."""
    members = [np.flatnonzero(target_N == target) for target in np.unique(target_N)]
    everything = np.arange(len(target_N))
    rows = []
    for rng in generators_for(seed, "classifier-row", indices):
        chosen = members[rng.integers(len(members))] if balanced else everything
        rows.append(chosen[rng.integers(len(chosen))])
    return np.array(rows, np.int64)
