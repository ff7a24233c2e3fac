"""Samples that are closer to a training image than real images of other slides ever are.

An image's closeness is its distance to the nearest training image over the mean distance of that
training image to its own neighbours in training: empty tissue is close to everything, and would
otherwise look copied (Stein et al. 2023, arXiv 2306.04675, on what plain distances miss). Held-out
images, measured alike, say how close is innocent. Features may be given for several symmetries of
an image, of which the closest counts, so that turned and flipped copies are found too.

Legend: G symmetries, N images, M training images, D dimensions.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histodiff.features.neighbours import Floats, euclidean_distances, nearest_by_distance

_NEIGHBOURS = 10
"""Training images that say how crowded the place of one is."""


@dataclass(frozen=True)
class Closeness:
    """How close each image is to training."""

    relative_N: Floats
    """Distance to the nearest training image, over the spacing of training images there."""
    distance_N: Floats
    """Distance to the nearest training image."""
    training_N: npt.NDArray[np.int64]
    """Its row."""


@dataclass(frozen=True)
class Memorisation:
    """What of a set of samples is suspiciously close to training."""

    threshold: float
    """Relative distance at or below which a sample is flagged."""
    quantile: float
    """Share of held-out images at or below the threshold: what chance flags."""
    num_held_out: int
    """Held-out images that set the threshold."""
    flagged: npt.NDArray[np.int64]
    """Rows of the flagged samples, the closest first."""
    closer_than_any: int
    """Samples closer than every held-out image."""
    samples: Closeness
    """Of all samples."""

    @property
    def share(self) -> float:
        """Share of the samples that are flagged."""
        return len(self.flagged) / len(self.samples.relative_N)

    def most_suspicious(self, count: int) -> npt.NDArray[np.int64]:
        """Rows of the samples closest to training, flagged or not."""
        return np.argsort(self.samples.relative_N, kind="stable")[:count]


def memorisation(
    samples_GND: npt.NDArray[np.floating],
    training_MD: npt.NDArray[np.floating],
    held_out_GND: npt.NDArray[np.floating],
    *,
    quantile: float,
) -> Memorisation:
    """Flags samples by what held-out images do.

    Args:
        samples_GND: Features of the samples under each symmetry; one symmetry finds plain copies.
        training_MD: Features of the training images.
        held_out_GND: Features of real images of other slides, under the same symmetries.
        quantile: Share of held-out images that may lie at or below the threshold. 0 takes the
            closest of them, which one near duplicate across slides can ruin.

    Raises:
        ValueError: Symmetries differ, or there are too few images.
    """
    if len(samples_GND) != len(held_out_GND):
        raise ValueError("samples and held-out images need features of the same symmetries")
    if len(training_MD) < 2 or not held_out_GND.shape[1]:
        raise ValueError("give two training images and one held-out image or more")
    samples = closeness(samples_GND, training_MD)
    innocent_N = np.sort(closeness(held_out_GND, training_MD).relative_N)
    allowed = int(quantile * len(innocent_N))
    threshold = float(innocent_N[max(allowed - 1, 0)])
    order = np.argsort(samples.relative_N, kind="stable")
    return Memorisation(
        threshold=threshold,
        quantile=float((innocent_N <= threshold).mean()),
        num_held_out=len(innocent_N),
        flagged=order[samples.relative_N[order] <= threshold],
        closer_than_any=int((samples.relative_N < innocent_N[0]).sum()),
        samples=samples,
    )


def closeness(
    images_GND: npt.NDArray[np.floating], training_MD: npt.NDArray[np.floating]
) -> Closeness:
    """How close each image is to training, under the symmetry that is closest."""
    found = [nearest_by_distance(images_ND, training_MD) for images_ND in images_GND]
    distances_GN = np.stack([one.distance_N for one in found])
    best_N = distances_GN.argmin(axis=0)
    every = np.arange(distances_GN.shape[1])
    training_N = np.stack([one.reference_N for one in found])[best_N, every]
    distance_N = distances_GN[best_N, every]
    spacing_N = _spacing(training_MD, training_N)
    relative_N = np.divide(
        distance_N, spacing_N, out=np.zeros_like(distance_N), where=spacing_N > 0
    )  # training images without spacing are copies of each other
    return Closeness(relative_N, distance_N, training_N)


def _spacing(
    training_MD: npt.NDArray[np.floating], wanted_N: npt.NDArray[np.int64], *, block: int = 1024
) -> Floats:
    """Mean distance of the wanted training images to their nearest others in training."""
    rows, place_N = np.unique(wanted_N, return_inverse=True)
    neighbours = min(_NEIGHBOURS, len(training_MD) - 1)
    means = np.empty(len(rows))
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        distances = euclidean_distances(training_MD[rows[part]], training_MD)
        distances[np.arange(len(distances)), rows[part]] = np.inf
        means[part] = np.partition(distances, neighbours - 1, axis=1)[:, :neighbours].mean(axis=1)
    spacing_N: Floats = means[place_N]
    return spacing_N
