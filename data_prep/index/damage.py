"""Damaged parts of a slide: which patches they cost, and a picture in which they cost no others.

A picture marks damage in coarse blocks. Every patch near one is read: what cannot be decoded is
lost; what can is put into the picture, so that it is judged by its own pixels. The holes that are
left are filled from around them before tissue is looked for: white would pass for glass.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from histodiff.data_prep.index.geometry import ReadPlan
from histodiff.data_prep.readers.reader import Box, Pixels, SlideReader
from histodiff.data_prep.readers.resampling import resized
from histodiff.data_prep.readers.thumbnails import Thumbnail
from histodiff.data_prep.tissue.tissue_mask import rectangle_fractions
from histodiff.errors import SlideError


@dataclass(frozen=True)
class Damage:
    """What damage there is, in patches and in the picture."""

    patches: npt.NDArray[np.bool_]
    """Which patches cannot be decoded, ``(n,)``."""
    picture: Thumbnail
    """The picture, with all that patches could show of it; the rest is white and marked."""


def found_damage(
    reader: SlideReader, plan: ReadPlan, corners: npt.NDArray[np.int64], picture: Thumbnail
) -> Damage:
    """Reads the patches near damage in the picture; without any, nothing is read.

    Args:
        reader: The slide.
        plan: How its patches are read.
        corners: Level-0 corners of all patches ``(n, 2)``.
        picture: The slide, small.
    """
    damaged = np.zeros(len(corners), dtype=np.bool_)
    if not picture.unreadable.any():
        return Damage(damaged, picture)
    mended = replace(picture, pixels=picture.pixels.copy(), unreadable=picture.unreadable.copy())
    for number in np.flatnonzero(_near_damage(plan, corners, picture)):
        pixels = _read(reader, plan, corners[number])
        damaged[number] = pixels is None
        if pixels is not None:
            _put(mended, pixels, corners[number], plan)
    return Damage(damaged, mended)


def damage_filled(picture: Thumbnail) -> Thumbnail:
    """The picture with the nearest readable colour in every hole."""
    if not picture.unreadable.any() or picture.unreadable.all():
        return picture
    nearest = ndimage.distance_transform_edt(
        picture.unreadable, return_distances=False, return_indices=True
    )
    return replace(picture, pixels=picture.pixels[tuple(nearest)])


def _near_damage(
    plan: ReadPlan, corners: npt.NDArray[np.int64], picture: Thumbnail
) -> npt.NDArray[np.bool_]:
    squares = np.floor((corners - [picture.x, picture.y]) / picture.downsample).astype(np.int64)
    width, height = (2 + round(side / picture.downsample) for side in (plan.width, plan.height))
    fractions = rectangle_fractions(picture.unreadable, squares, side_w=width, side_h=height)
    return np.asarray(fractions > 0)


def _read(reader: SlideReader, plan: ReadPlan, corner: npt.NDArray[np.int64]) -> Pixels | None:
    """The pixels of a patch, None where they cannot be decoded."""
    box = Box(int(corner[0]), int(corner[1]), plan.level, plan.read_width, plan.read_height)
    try:
        reader.prepare([box])
        return reader.read(box.x, box.y, level=box.level, width=box.width, height=box.height)
    except SlideError:
        return None


def _put(picture: Thumbnail, pixels: Pixels, corner: npt.NDArray[np.int64], plan: ReadPlan) -> None:
    """Puts a patch into the picture, over the pixels that it covers by half or more."""
    first = (corner - [picture.x, picture.y]) / picture.downsample
    left, top = (max(0, int(each)) for each in np.round(first))
    last = first + np.array([plan.width, plan.height]) / picture.downsample
    right, bottom = (int(each) for each in np.round(last))
    place = np.s_[top:bottom, left:right]
    height, width = picture.unreadable[place].shape
    if height and width:
        picture.pixels[place] = resized(pixels, width=width, height=height)
        picture.unreadable[place] = False
