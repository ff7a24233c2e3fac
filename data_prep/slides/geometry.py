"""Where patches lie: the read plan at a wanted scale, the grid of a slide, the crops of an image.

Scale is microns per pixel (mpp) only. A patch is read from the coarsest level that is fine enough
and shrunk once; asking for more detail than there is is TOO_COARSE, never an enlargement.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from histodiff.data_prep.slides.readers import SlideInfo
from histodiff.data_prep.slides.thumbnails import best_level
from histodiff.errors import SkipReason, SlideError

MPP_TOLERANCE = 0.01
"""Largest relative difference between wanted and effective mpp."""
ANISOTROPY_TOLERANCE = 0.02
"""Largest relative difference between mpp in x and in y."""

Fit = Literal["crop", "resize"]


@dataclass(frozen=True)
class ReadPlan:
    """How every patch of a slide is read."""

    level: int
    read_px: int
    """Side read, in pixels of ``level``."""
    side: int
    """The same side in level-0 pixels, rounded up."""
    effective_mpp: float
    """Microns per pixel after shrinking to ``patch_px``."""


@dataclass(frozen=True)
class Region:
    """A square of an image of a patch set, in the image's own pixels."""

    x: int
    y: int
    read_px: int
    effective_mpp: float | None


def mean_mpp(mpp_x: float, mpp_y: float) -> float:
    """Microns per pixel of a slide.

    Raises:
        SlideError: MISSING_MPP: x and y differ too much for square patches.
    """
    if abs(mpp_x / mpp_y - 1) > ANISOTROPY_TOLERANCE:
        raise SlideError(
            SkipReason.MISSING_MPP,
            f"mpp is {mpp_x:g} in x but {mpp_y:g} in y; give one mpp for the slide in `scale_csv`",
        )
    return float((mpp_x * mpp_y) ** 0.5)


def read_plan(info: SlideInfo, *, slide_mpp: float, mpp: float, patch_px: int) -> ReadPlan:
    """How to read patches of ``patch_px`` at ``mpp`` from a slide that has ``slide_mpp``.

    Raises:
        SlideError: TOO_COARSE: the slide has less detail than is wanted.
    """
    downsample = mpp / slide_mpp
    _check_detail(slide_mpp, mpp)
    level = best_level(info.level_downsamples, downsample)
    own = info.level_downsamples[level]
    read_px = max(patch_px, round(patch_px * downsample / own))
    return ReadPlan(
        level=level,
        read_px=read_px,
        side=int(np.ceil(read_px * own - 1e-6)),
        effective_mpp=slide_mpp * own * read_px / patch_px,
    )


def slide_grid(
    info: SlideInfo, plan: ReadPlan, *, patch_px: int, stride_px: int
) -> npt.NDArray[np.int64]:
    """Level-0 corners ``(n, 2)`` of all whole patches inside the scanned bounds, row by row.

    Raises:
        SlideError: TOO_SMALL: not one patch fits.
    """
    step = plan.read_px * info.level_downsamples[plan.level] * stride_px / patch_px
    xs = _starts(info.bounds_width, plan.side, step) + info.bounds_x
    ys = _starts(info.bounds_height, plan.side, step) + info.bounds_y
    if not len(xs) or not len(ys):
        raise SlideError(
            SkipReason.TOO_SMALL,
            f"{info.bounds_width}x{info.bounds_height} px hold no patch of {plan.side} px;"
            " lower patch_px or mpp",
        )
    grid_y, grid_x = np.meshgrid(ys, xs, indexing="ij")
    return np.stack([grid_x.ravel(), grid_y.ravel()], axis=1)


def image_regions(
    width: int, height: int, *, image_mpp: float | None, mpp: float | None, patch_px: int, fit: Fit
) -> list[Region]:
    """The patches of one image of a patch set, row by row.

    Args:
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        image_mpp: Its microns per pixel, None if unknown.
        mpp: The wanted scale, None if any will do.
        patch_px: Side of a patch after reading.
        fit: ``crop``: as many whole patches at the wanted scale as fit, centred (at the image's own
            scale where either is unknown). ``resize``: the central square, shrunk as a whole.

    Raises:
        SlideError: TOO_COARSE or TOO_SMALL.
    """
    if fit == "resize":
        return [_central_square(width, height, image_mpp, patch_px)]
    read_px = patch_px
    if image_mpp is not None and mpp is not None:
        _check_detail(image_mpp, mpp)
        read_px = max(patch_px, round(patch_px * mpp / image_mpp))
    columns, rows = width // read_px, height // read_px
    if not columns or not rows:
        raise SlideError(
            SkipReason.TOO_SMALL,
            f"{width}x{height} px hold no patch of {read_px} px; lower patch_px or use fit: resize",
        )
    left, top = (width - columns * read_px) // 2, (height - rows * read_px) // 2
    effective = None if image_mpp is None else image_mpp * read_px / patch_px
    return [
        Region(left + column * read_px, top + row * read_px, read_px, effective)
        for row in range(rows)
        for column in range(columns)
    ]


def same_scale(effective_mpp: float | None, mpp: float | None) -> bool:
    """Whether a patch has the wanted scale, to 1 %; False where either is unknown."""
    if effective_mpp is None or mpp is None:
        return False
    return abs(effective_mpp / mpp - 1) <= MPP_TOLERANCE + 1e-9


def _check_detail(own_mpp: float, mpp: float) -> None:
    if own_mpp > mpp * (1 + MPP_TOLERANCE):
        raise SlideError(
            SkipReason.TOO_COARSE,
            f"has {own_mpp:.4g} um/px, coarser than the wanted {mpp:.4g}; it is never enlarged",
        )


def _central_square(width: int, height: int, image_mpp: float | None, patch_px: int) -> Region:
    side = min(width, height)
    if side < patch_px:
        raise SlideError(
            SkipReason.TOO_SMALL,
            f"{width}x{height} px are less than patch_px {patch_px}; patches are never enlarged",
        )
    effective = None if image_mpp is None else image_mpp * side / patch_px
    return Region((width - side) // 2, (height - side) // 2, side, effective)


def _starts(length: int, side: int, step: float) -> npt.NDArray[np.int64]:
    count = int((length - side) // step) + 1 if length >= side else 0
    return np.round(np.arange(count) * step).astype(np.int64)
