"""Whether two pictures show the same tissue: where each place of one lies in the other, how well.

Blobs of equal surroundings are paired; any two pairs give a similarity, and the one with which most
other pairs agree is kept (RANSAC over all pairs of pairs, so that nothing is random). From there an
affine map is fitted, because pictures are often stretched a little by what was done to them. Then
one picture is laid over the other and the two are correlated where they overlap.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from histodiff.data_prep.duplicates.keypoints import Keypoints

_MAX_SEEDS = 32
"""Best pairs of blobs from which similarities are made; all pairs vote on the affine map."""
_TOLERANCE_PX = 3.0
_SIZE_TOLERANCE = np.log(1.65)
"""How far the sizes of two blobs may differ from what the zoom says."""
_MIN_APART_PX = 10.0
_MAX_ZOOM = 2.5
_MAX_STRETCH = 2.0
_LOOSENESS = (4.0, 3.0, 2.5, 2.0, 1.5, 1.2, 1.0, 1.0, 1.0)
"""Tolerances of the affine fits: wide at first, as a similarity fits a stretched picture badly."""
_MIN_AFFINE_PAIRS = 5
_STEP_PX = 2
_MIN_SHARED_PLACES = 64

Places = npt.NDArray[np.complex128]
"""``x + iy`` in pixels of a working picture."""
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Registration:
    """An affine map from the first picture to the second: ``a z + b conj(z) + c``."""

    linear: tuple[complex, complex]
    """``a`` and ``b``; ``b`` alone is a mirrored similarity."""
    shift: complex
    num_inliers: int
    """Pairs of blobs that agree with it."""

    def __call__(self, places: Places) -> Places:
        """Where places of the first picture lie in the second."""
        return self.linear[0] * places + self.linear[1] * places.conj() + self.shift

    @property
    def zoom(self) -> float:
        """Enlargement from the first picture to the second, along both directions together."""
        return float(abs(abs(self.linear[0]) ** 2 - abs(self.linear[1]) ** 2) ** 0.5)

    @property
    def stretch(self) -> float:
        """Enlargement along the most against that along the least enlarged direction, from 1."""
        large, small = sorted(map(abs, self.linear), reverse=True)
        return float((large + small) / max(large - small, 1e-9))


@dataclass(frozen=True)
class Overlap:
    """How well two pictures agree where they show the same place."""

    correlation: float
    """Normalised cross-correlation of what was compared, -1 to 1."""
    fraction: float
    """Shared part of the picture that shows less tissue, 0 to 1."""


def registered(first: Keypoints, second: Keypoints) -> Registration | None:
    """The map on which most pairs of blobs agree; None where no two of them do."""
    one, other = _matches(first, second)
    places, targets = first.position[one], second.position[other]
    log_sizes = np.log(second.size_px[other] / first.size_px[one])
    found = [_consensus(places, targets, log_sizes, mirrored) for mirrored in (False, True)]
    usable = [registration for registration in found if registration is not None]
    return max(usable, key=lambda registration: registration.num_inliers, default=None)


def overlap(first: Floats, second: Floats, by: Registration) -> Overlap:
    """Lays ``second`` over ``first`` (details of working pictures) and compares both."""
    height, width = first.shape
    y, x = np.mgrid[0:height:_STEP_PX, 0:width:_STEP_PX]
    target = by((x + 1j * y).ravel())
    # a map is known to about a pixel: places that far outside count as the border
    shared = (target.real >= -1) & (target.imag >= -1)
    shared &= (target.real <= second.shape[1]) & (target.imag <= second.shape[0])
    if shared.sum() < _MIN_SHARED_PLACES:
        return Overlap(correlation=0.0, fraction=0.0)
    ours = first[y, x].ravel()[shared]
    seen = [target.imag[shared], target.real[shared]]
    theirs = ndimage.map_coordinates(second, seen, order=1, mode="nearest")
    smaller = min(first.size, second.size / by.zoom**2)
    fraction = shared.mean() * first.size / smaller
    return Overlap(_correlation(ours, theirs), float(min(1.0, fraction)))


def _matches(
    first: Keypoints, second: Keypoints
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Blobs that are each other's nearest, the most alike first."""
    alike = first.features @ second.features.T
    alike[first.bright[:, None] != second.bright] = -1
    if not alike.size:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    nearest = alike.argmax(axis=1)
    mutual = np.flatnonzero(alike.argmax(axis=0)[nearest] == np.arange(len(alike)))
    order = np.argsort(-alike[mutual, nearest[mutual]], kind="stable")
    return mutual[order], nearest[mutual[order]]


def _consensus(
    places: Places, targets: Places, log_sizes: npt.NDArray[np.float64], mirrored: bool
) -> Registration | None:
    """The affine map that grows out of the best similarity."""
    seeds = slice(_MAX_SEEDS)
    turned = places.conj() if mirrored else places
    factor, shift = _hypotheses(turned[seeds], targets[seeds], log_sizes[seeds])
    if not len(factor):
        return None
    zoom = np.abs(factor)[:, None]
    off = np.abs(factor[:, None] * turned + shift[:, None] - targets)
    off /= _TOLERANCE_PX * np.maximum(1, zoom)
    agree = (off < 1) & (np.abs(np.log(zoom) - log_sizes) < _SIZE_TOLERANCE)
    best = int((agree * (2 - off)).sum(axis=1).argmax())  # most pairs, among equals the tightest
    linear = (0j, complex(factor[best])) if mirrored else (complex(factor[best]), 0j)
    similarity = Registration(linear, complex(shift[best]), int(agree[best].sum()))
    return _refined(similarity, places, targets)


def _hypotheses(
    places: Places, targets: Places, log_sizes: npt.NDArray[np.float64]
) -> tuple[Places, Places]:
    """Similarities through any two pairs, if the sizes of the blobs bear them out."""
    one, other = np.triu_indices(len(places), 1)
    apart = places[other] - places[one]
    apart_there = targets[other] - targets[one]
    usable = (np.abs(apart) > _MIN_APART_PX) & (np.abs(apart_there) > _MIN_APART_PX)
    one, other = one[usable], other[usable]
    factor = apart_there[usable] / apart[usable]
    zoom = np.log(np.abs(factor))
    usable = np.abs(zoom) < np.log(_MAX_ZOOM)
    usable &= np.abs(zoom - log_sizes[one]) < _SIZE_TOLERANCE
    usable &= np.abs(zoom - log_sizes[other]) < _SIZE_TOLERANCE
    factor, one = factor[usable], one[usable]
    return factor, targets[one] - factor * places[one]


def _refined(start: Registration, places: Places, targets: Places) -> Registration:
    """Fits an affine map to the pairs that agree, and again to those that agree with that."""
    best = current = start
    for looseness in _LOOSENESS:
        limit = looseness * _TOLERANCE_PX * max(1.0, current.zoom)
        agree = np.abs(current(places) - targets) < limit
        if agree.sum() < _MIN_AFFINE_PAIRS:
            break
        current = _least_squares(places[agree], targets[agree])
        if current.stretch > _MAX_STRETCH:
            break
        if looseness == 1 and current.num_inliers >= best.num_inliers:
            best = current
    return best


def _least_squares(places: Places, targets: Places) -> Registration:
    """The affine map that fits all pairs best."""
    terms = np.stack([places, places.conj(), np.ones_like(places)], axis=1)
    solution = np.linalg.lstsq(terms, targets, rcond=None)[0]
    direct, mirrored, shift = map(complex, solution)
    return Registration((direct, mirrored), shift, len(places))


def _correlation(first: Floats, second: Floats) -> float:
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / scale) if scale > 0 else 0.0
