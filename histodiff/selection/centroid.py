"""Centroid agreement (HistoDiffusion, section 1.4 of its released selection).

Features are L2-normalised. A class centroid is the mean of the features of its real, labelled
images. A sample is kept if the nearest centroid is that of the class it was asked for; kept samples
are ordered by distance to it. Distance is the mean squared difference over feature dimensions.

Legend of suffixes: N samples or images, K classes, D feature dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histodiff.errors import ConfigError
from histodiff.features.neighbours import l2_normalised
from histodiff.samples import Decision
from histodiff.selection.config import Reason

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Candidates:
    """Samples to decide on: ids, classes asked for, features, nearest real similarity."""

    samples: Sequence[int]
    labels: Sequence[str]
    features_ND: npt.NDArray[np.floating]
    real_similarity_N: npt.NDArray[np.floating]


def class_centroids(
    features_ND: npt.NDArray[np.floating], labels: Sequence[str], *, classes: Sequence[str]
) -> Floats:
    """Mean normalised feature of every class, ``(K, D)``.

    Raises:
        ConfigError: A class has no labelled image.
    """
    normalised = l2_normalised(features_ND)
    named = np.asarray(labels)
    empty = [name for name in classes if not (named == name).any()]
    if empty:
        raise ConfigError(
            f"the labelled subset has no image of {', '.join(empty)}; raise the label budget"
        )
    return np.stack([normalised[named == name].mean(axis=0) for name in classes])


def centroid_distances(features_ND: npt.NDArray[np.floating], centroids_KD: Floats) -> Floats:
    """Mean squared difference of every normalised feature to every centroid, ``(N, K)``."""
    normalised = l2_normalised(features_ND)
    squares = (
        (normalised**2).sum(axis=1)[:, None]
        + (centroids_KD**2).sum(axis=1)[None, :]
        - 2.0 * normalised @ centroids_KD.T
    )
    distances: Floats = np.maximum(squares, 0.0) / normalised.shape[1]
    return distances


def centroid_decisions(
    candidates: Candidates, *, centroids_KD: Floats, classes: Sequence[str], max_per_class: int
) -> list[Decision]:
    """One decision per sample; ties in distance go to the smaller sample number."""
    distances_NK = centroid_distances(candidates.features_ND, centroids_KD)
    own_N = np.array([classes.index(label) for label in candidates.labels], np.int64)
    nearest_N = distances_NK.argmin(axis=1)
    own_distance_N = distances_NK[np.arange(len(own_N)), own_N]
    rank = _ranks(own_N, own_distance_N, nearest_N == own_N, np.asarray(candidates.samples))
    return [
        Decision(
            sample=int(candidates.samples[row]),
            label=candidates.labels[row],
            rank=rank[row] if 0 <= rank[row] < max_per_class else None,
            reason=_reason(rank[row], max_per_class),
            distance=float(own_distance_N[row]),
            nearest=classes[int(nearest_N[row])],
            real_similarity=float(candidates.real_similarity_N[row]),
        )
        for row in range(len(own_N))
    ]


def _ranks(
    own_N: npt.NDArray[np.int64],
    distance_N: Floats,
    agrees_N: npt.NDArray[np.bool_],
    samples_N: npt.NDArray[np.int64],
) -> list[int]:
    """Rank within its class of every sample that agrees, by distance; -1 for the others."""
    rank = np.full(len(own_N), -1, np.int64)
    for label in np.unique(own_N):
        members = np.flatnonzero((own_N == label) & agrees_N)
        order = np.lexsort((samples_N[members], distance_N[members]))
        rank[members[order]] = np.arange(len(members))
    return [int(value) for value in rank]


def _reason(rank: int, max_per_class: int) -> Reason:
    if rank < 0:
        return Reason.OTHER_CENTROID
    return Reason.ACCEPTED if rank < max_per_class else Reason.OVER_CAP
