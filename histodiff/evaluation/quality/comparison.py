"""Samples against real held-out images: every measure, its interval, and its floor.

Real images are cut into two halves that share no slide (or patient). What two halves of reality
measure against each other is the floor: no generator can be asked for less. Samples are measured
against each half in turn, as many as the smaller of all three sets has, because every measure but
the unbiased kernel distance depends on the count; that one takes all images. Values and replicates
come from one formula with weights; slides are drawn, never their patches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from histodiff.evaluation.quality.frechet import Moments, frechet_distance, moments
from histodiff.evaluation.quality.kernel import KernelDistance
from histodiff.evaluation.quality.neighbourhoods import neighbourhoods
from histodiff.runtime import generator_for

Floats = npt.NDArray[np.float64]

MEASURES = (
    "frechet_distance",
    "kernel_distance",
    "precision",
    "recall",
    "density",
    "coverage",
)
ENOUGH = 1000
"""Images below which a comparison says that it has few."""
_FEWEST = 20
"""Images of a set below which nothing is measured."""
_FEW_GROUPS = 8
_AT_MOST_ONE = ("precision", "recall", "coverage")


@dataclass(frozen=True)
class FeatureSet:
    """Features of images, with what is known of them."""

    features_ND: npt.NDArray[np.floating]
    groups_N: tuple[str, ...]
    """Slide or patient of each image; of samples, a name of its own for each."""
    labels_N: tuple[str, ...] | None = None
    """Class of each image; None where there are no classes."""

    def __len__(self) -> int:
        return len(self.features_ND)

    def rows(self, numbers: npt.NDArray[np.integer]) -> "FeatureSet":
        """The images with these numbers."""
        labels = self.labels_N
        return FeatureSet(
            self.features_ND[numbers],
            tuple(self.groups_N[number] for number in numbers),
            None if labels is None else tuple(labels[number] for number in numbers),
        )


@dataclass(frozen=True)
class Measure:
    """A measure with its interval, and the same measure between two halves of real images."""

    value: float
    low: float
    high: float
    floor: float
    floor_low: float
    floor_high: float


@dataclass(frozen=True)
class Quality:
    """What was measured of one set of samples."""

    num_images: int
    """Samples."""
    num_real: int
    """Real images."""
    num_compared: int
    """Images of every set in the measures that depend on the count."""
    num_groups: int
    """Slides or patients of the real images."""
    halves_share_slides: bool
    """The real images are of one slide, so halves are cut through it: the floor is too low."""
    measures: Mapping[str, Measure]
    """By the names in ``MEASURES``; empty where there are too few images."""
    warnings: tuple[str, ...]
    """What to know before the numbers are believed, one line each."""
    by_class: Mapping[str, "Quality"] = field(default_factory=dict)
    """The same for the samples and real images of each class that both have."""


def compare(samples: FeatureSet, real: FeatureSet, *, replicates: int, seed: int) -> Quality:
    """Measures samples against real images, in all and by class.

    Args:
        samples: Generated images.
        real: Held-out images.
        replicates: Bootstrap replicates of the 95 % intervals.
        seed: Draws halves, subsets and replicates.
    """
    first_N = _first_half(real.groups_N, seed=seed)
    whole = _compared(samples, real, first_N, replicates=replicates, seed=seed)
    if samples.labels_N is None or real.labels_N is None:
        return whole
    own, others = np.asarray(samples.labels_N), np.asarray(real.labels_N)
    shared = sorted(set(own.tolist()) & set(others.tolist()))
    by_class = {
        label: _compared(
            samples.rows(np.flatnonzero(own == label)),
            real.rows(np.flatnonzero(others == label)),
            first_N[others == label],
            replicates=replicates,
            seed=seed,
        )
        for label in (shared if len(shared) > 1 else ())
    }
    return replace(whole, by_class=by_class)


def _first_half(groups_N: Sequence[str], *, seed: int) -> npt.NDArray[np.bool_]:
    """Which images are in the first half: whole groups, largest first, each to the smaller half."""
    names, counts = np.unique(np.asarray(groups_N), return_counts=True)
    rng = generator_for(seed, "quality", "halves")
    if len(names) == 1:
        first_N = np.zeros(len(groups_N), bool)
        first_N[rng.permutation(len(groups_N))[: len(groups_N) // 2]] = True
        return first_N
    drawn = rng.permutation(len(names))
    order = drawn[np.argsort(-counts[drawn], kind="stable")]
    sizes, chosen = [0, 0], set()
    for place in order:
        half = int(sizes[1] < sizes[0])
        sizes[half] += int(counts[place])
        if half == 0:
            chosen.add(names[place])
    return np.array([group in chosen for group in groups_N], bool)


def _compared(
    samples: FeatureSet,
    real: FeatureSet,
    first_N: npt.NDArray[np.bool_],
    *,
    replicates: int,
    seed: int,
) -> Quality:
    num_groups = len(set(real.groups_N))
    if num_groups == 1:
        real = replace(real, groups_N=tuple(map(str, range(len(real)))))
    halves = [real.rows(np.flatnonzero(first_N)), real.rows(np.flatnonzero(~first_N))]
    count = min(len(samples), *(len(half) for half in halves))
    enough = count >= _FEWEST
    measures = {}
    if enough:
        drawn = [
            _Drawn.of(images, count=count, replicates=replicates, seed=seed, name=name)
            for name, images in zip(
                ("samples", "half 0", "half 1"), (samples, *halves), strict=True
            )
        ]
        measures = _measures(*drawn)
    return Quality(
        num_images=len(samples),
        num_real=len(real),
        num_compared=count if enough else 0,
        num_groups=num_groups,
        halves_share_slides=num_groups == 1,
        measures=measures,
        warnings=_warnings(samples, real, count, num_groups),
    )


def _warnings(
    samples: FeatureSet, real: FeatureSet, count: int, num_groups: int
) -> tuple[str, ...]:
    dimensions = samples.features_ND.shape[1]
    found = []
    if count < _FEWEST:
        found.append(
            f"nothing is measured of fewer than {_FEWEST} images: {len(samples)} samples and"
            f" {len(real)} real images in two halves leave {count}"
        )
    elif count < ENOUGH:
        found.append(
            f"{count} images of each set were compared; give {ENOUGH} samples and {2 * ENOUGH} real"
            " images or more"
        )
    if _FEWEST <= count <= dimensions:
        found.append(
            f"Frechet distance of {count} images in {dimensions} dimensions is far too high; it"
            " means something beside its floor alone"
        )
    if 1 < num_groups < _FEW_GROUPS:
        found.append(
            f"real images are of {num_groups} slides or patients: floor and intervals would be"
            " others with other slides"
        )
    if num_groups == 1:
        found.append("real images are of one slide, so the floor is too low; give more slides")
    return tuple(found)


@dataclass(frozen=True)
class _Drawn:
    """A set with the weights of its replicates; the first row of each is one for every image."""

    features_ND: npt.NDArray[np.floating]
    weights_RN: Floats
    cut: npt.NDArray[np.int64]
    """Numbers of the images in measures that depend on the count."""

    @classmethod
    def of(
        cls, images: FeatureSet, *, count: int, replicates: int, seed: int, name: str
    ) -> "_Drawn":
        _, group_N = np.unique(np.asarray(images.groups_N), return_inverse=True)
        num_groups = int(group_N.max()) + 1
        rng = generator_for(seed, "quality", "bootstrap", name)
        drawn_RG = rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=replicates)
        weights_RN = np.concatenate([np.ones((1, len(images))), drawn_RG[:, group_N]])
        cut = generator_for(seed, "quality", "cut", name).permutation(len(images))[:count]
        return cls(images.features_ND, weights_RN, np.sort(cut))

    @property
    def few_ND(self) -> npt.NDArray[np.floating]:
        """The features of as many images as all sets have."""
        return self.features_ND[self.cut]

    @cached_property
    def few_weights_RN(self) -> Floats:
        """Their weights; a replicate that draws none of them counts every image once."""
        weights_RN = self.weights_RN[:, self.cut]
        return np.where(weights_RN.sum(axis=1, keepdims=True) >= 2, weights_RN, 1.0)

    @cached_property
    def few_moments_R(self) -> list[Moments]:
        """Their mean and covariance in every replicate."""
        return [moments(self.few_ND, weight_N) for weight_N in self.few_weights_RN]


def _measures(samples: _Drawn, first: _Drawn, second: _Drawn) -> dict[str, Measure]:
    """Every measure of the samples against both halves, and of the halves against each other."""
    found: dict[str, Measure] = {}
    for measured in (_frechet, _kernel, _neighbours):
        own = [measured(samples, half) for half in (first, second)]
        floor = [measured(first, second), measured(second, first)]
        for name in own[0]:
            own_R, floor_R = (
                np.mean([each[name] for each in pair], axis=0) for pair in (own, floor)
            )
            found[name] = Measure(*_interval(name, own_R), *_interval(name, floor_R))
    return found


def _interval(name: str, values_R: Floats) -> tuple[float, float, float]:
    """The value, and the spread of the replicates put around it.

    Replicates hold images twice, which makes two sets more unlike: their mean is not the value.
    """
    value, drawn_R = float(values_R[0]), values_R[1:][np.isfinite(values_R[1:])]
    low, high = np.quantile(drawn_R, (0.025, 0.975)) - drawn_R.mean() + value
    lowest = -np.inf if name == "kernel_distance" else 0.0
    highest = 1.0 if name in _AT_MOST_ONE else np.inf
    return value, float(np.clip(low, lowest, value)), float(np.clip(high, value, highest))


def _frechet(tested: _Drawn, reference: _Drawn) -> dict[str, Floats]:
    pairs = zip(tested.few_moments_R, reference.few_moments_R, strict=True)
    return {"frechet_distance": np.array([frechet_distance(own, other) for own, other in pairs])}


def _kernel(tested: _Drawn, reference: _Drawn) -> dict[str, Floats]:
    kernels = KernelDistance.of(tested.features_ND, reference.features_ND)
    return {"kernel_distance": kernels.values(tested.weights_RN, reference.weights_RN)}


def _neighbours(tested: _Drawn, reference: _Drawn) -> dict[str, Floats]:
    """Neighbourhoods stay as they are; replicates draw the images that are asked about."""
    found = neighbourhoods(tested.few_ND, reference.few_ND)
    own_RN, other_RM = tested.few_weights_RN, reference.few_weights_RN
    return {
        "precision": own_RN @ found.precision_N / own_RN.sum(axis=1),
        "recall": other_RM @ found.recall_M / other_RM.sum(axis=1),
        "density": own_RN @ found.density_N / own_RN.sum(axis=1),
        "coverage": other_RM @ found.coverage_M / other_RM.sum(axis=1),
    }
