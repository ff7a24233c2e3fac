"""Where what is: outlines of tissue sections on the glass, and regions of classes inside."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from histodiff.data_prep.generated.fields import Field, enlarged, smooth_noise

_SMALL = 8
"""Layouts are drawn this many times smaller."""
_REGION_PX = 560
_LYMPHOCYTE_SHRINK = 1.7
_MARGIN = 0.05
"""Width of the bare glass along the border, relative to the slide."""
_SEPTUM = 0.16
"""Width of the stroma between regions, relative to the regions."""


class TissueClass(StrEnum):
    """What a region shows."""

    GLAND = "gland"
    LYMPHOCYTES = "lymphocytes"
    STROMA = "stroma"
    TUMOUR = "tumour"


CLASSES = tuple(TissueClass)
_WEIGHTS = {
    TissueClass.GLAND: 0.34,
    TissueClass.LYMPHOCYTES: 0.16,
    TissueClass.STROMA: 0.26,
    TissueClass.TUMOUR: 0.24,
}


@dataclass(frozen=True)
class Layout:
    """Layout of a slide at full size."""

    tissue: Field
    """0 outside of the sections, 1 inside, with a soft edge."""
    regions: npt.NDArray[np.uint8]
    """Number of the class in `CLASSES`."""


def slide_layout(rng: np.random.Generator, *, height: int, width: int) -> Layout:
    """One to three sections with regions of all classes."""
    small = (height // _SMALL, width // _SMALL)
    outline = _sections(rng, *small)
    regions = _regions(rng, *small)
    rough = smooth_noise(rng, height=height // 2, width=width // 2, scale_px=11)
    distance = enlarged(outline, height=height // 2, width=width // 2) + 0.006 * rough
    edge = np.clip(distance * 40 + 0.5, 0, 1).astype(np.float32)
    return Layout(
        tissue=np.clip(enlarged(edge, height=height, width=width), 0, 1),
        regions=_nearest(regions, height, width),
    )


def field_layout(*, height: int, width: int, tissue_class: TissueClass) -> Layout:
    """Tissue of one class all over."""
    return Layout(
        tissue=np.ones((height, width), dtype=np.float32),
        regions=np.full((height, width), CLASSES.index(tissue_class), dtype=np.uint8),
    )


def _sections(rng: np.random.Generator, height: int, width: int) -> Field:
    """Positive inside the sections, about the distance to the edge as a fraction of their size."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    y, x = y / height, x / width
    margin = np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y))
    warp_x = smooth_noise(rng, height=height, width=width, scale_px=width / 4)
    warp_y = smooth_noise(rng, height=height, width=width, scale_px=width / 4)
    ragged = smooth_noise(rng, height=height, width=width, scale_px=width / 22)
    x, y = x + 0.055 * warp_x, y + 0.055 * warp_y
    inside = np.full((height, width), -1.0, dtype=np.float32)
    for centre_x, centre_y, half_width, half_height in _places(rng):
        turn = rng.uniform(-0.5, 0.5)
        along = np.cos(turn) * (x - centre_x) + np.sin(turn) * (y - centre_y)
        across = -np.sin(turn) * (x - centre_x) + np.cos(turn) * (y - centre_y)
        power = rng.uniform(2.0, 3.2)
        radius = (np.abs(along / half_width) ** power + np.abs(across / half_height) ** power) ** (
            1 / power
        )
        inside = np.maximum(inside, 1 - radius)
    glass = np.clip(6 * (_MARGIN - margin), 0, None)  # all around
    return np.asarray(inside + 0.03 * ragged - glass)


def _places(rng: np.random.Generator) -> Sequence[tuple[float, float, float, float]]:
    match rng.integers(0, 3):
        case 0:
            return [(0.5, 0.5, 0.40, 0.34)]
        case 1:
            return [(0.29, 0.48, 0.19, 0.38), (0.72, 0.54, 0.19, 0.34)]
        case _:
            return [(0.38, 0.40, 0.29, 0.27), (0.74, 0.76, 0.16, 0.14)]


def _regions(rng: np.random.Generator, height: int, width: int) -> npt.NDArray[np.uint8]:
    """A warped Voronoi diagram with a class per cell, and stroma where two classes meet.

    Cells of lymphocytes are smaller than the others.
    """
    count = max(len(CLASSES) + 2, round(height * width * (_SMALL / _REGION_PX) ** 2))
    seeds = rng.uniform(0, 1, (count, 2)) * [height, width]
    weights = np.array([_WEIGHTS[name] for name in CLASSES])
    drawn = rng.choice(len(CLASSES), count - len(CLASSES), p=weights / weights.sum())
    classes = rng.permutation(np.concatenate([np.arange(len(CLASSES)), drawn])).astype(np.uint8)
    step = _REGION_PX / _SMALL
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    y = y + step / 5 * smooth_noise(rng, height=height, width=width, scale_px=step / 2)
    x = x + step / 5 * smooth_noise(rng, height=height, width=width, scale_px=step / 2)
    nearest = np.full((len(CLASSES), height, width), np.inf, dtype=np.float32)
    for (seed_y, seed_x), name in zip(seeds, classes, strict=True):
        shrink = _LYMPHOCYTE_SHRINK if CLASSES[name] == TissueClass.LYMPHOCYTES else 1.0
        distance = np.hypot(y - np.float32(seed_y), x - np.float32(seed_x)) * np.float32(shrink)
        np.minimum(nearest[name], distance, out=nearest[name])
    first, second = np.sort(nearest, axis=0)[:2]
    regions = nearest.argmin(axis=0).astype(np.uint8)
    regions[second - first < _SEPTUM * step] = CLASSES.index(TissueClass.STROMA)
    return np.asarray(regions)


def _nearest(regions: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    rows = np.minimum(np.arange(height) // _SMALL, regions.shape[0] - 1)
    columns = np.minimum(np.arange(width) // _SMALL, regions.shape[1] - 1)
    return np.asarray(regions[rows[:, None], columns[None, :]])
