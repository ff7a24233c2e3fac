"""A small picture of a whole slide, read block by block so that memory stays bounded.

A part that cannot be decoded is marked and left white; the rest of the slide is not lost with it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histodiff.data_prep.readers.reader import Box, Pixels, SlideReader
from histodiff.data_prep.readers.resampling import resized
from histodiff.errors import SlideError

MAX_SIDE_PX = 4096
_BLOCK_PX = 512
_MAX_READ_PX = 4096
"""Longest side that is read at once, 48 MiB."""
_SMALL_BLOCK_PX = 16


@dataclass(frozen=True)
class Thumbnail:
    """The scanned part of a slide at low resolution."""

    pixels: npt.NDArray[np.uint8]
    """uint8 ``(H, W, 3)``."""
    x: int
    y: int
    """Level-0 corner of the picture."""
    downsample: float
    """Level-0 pixels per pixel of the picture."""
    unreadable: npt.NDArray[np.bool_]
    """Where the slide could not be decoded, boolean ``(H, W)``, to some pixels."""


def thumbnail(
    reader: SlideReader, *, downsample: float, max_side_px: int = MAX_SIDE_PX
) -> Thumbnail:
    """The slide, shrunk by ``downsample`` or by more where it would exceed ``max_side_px``."""
    info = reader.info
    longest = max(info.bounds_width, info.bounds_height)
    downsample = max(1.0, downsample, longest / max_side_px)
    width = max(1, int(info.bounds_width / downsample))
    height = max(1, int(info.bounds_height / downsample))
    level = best_level(info.level_downsamples, downsample)
    picture = Thumbnail(
        np.full((height, width, 3), 255, dtype=np.uint8),
        info.bounds_x,
        info.bounds_y,
        downsample,
        np.zeros((height, width), dtype=np.bool_),
    )
    side = _block_px(downsample / info.level_downsamples[level])
    for top, left in _corners(0, 0, height, width, side):
        _fill(picture, reader, level, top, left, side)
    return picture


def _block_px(shrinkage: float) -> int:
    """Side of a block, so that what is read for it stays small however large the slide is."""
    return max(_SMALL_BLOCK_PX, min(_BLOCK_PX, int(_MAX_READ_PX / shrinkage)))


def _fill(
    picture: Thumbnail, reader: SlideReader, level: int, top: int, left: int, side: int
) -> None:
    """Reads one block of the picture; one that is damaged in small pieces."""
    block = picture.pixels[top : top + side, left : left + side]
    try:
        block[:] = _block(reader, block.shape[:2], left, top, level, picture.downsample)
    except SlideError:
        if side == _SMALL_BLOCK_PX:
            picture.unreadable[top : top + side, left : left + side] = True
            return
        height, width = block.shape[:2]
        for small_top, small_left in _corners(top, left, height, width, _SMALL_BLOCK_PX):
            _fill(picture, reader, level, small_top, small_left, _SMALL_BLOCK_PX)


def _corners(top: int, left: int, height: int, width: int, side: int) -> Iterator[tuple[int, int]]:
    for down in range(top, top + height, side):
        for right in range(left, left + width, side):
            yield down, right


def best_level(level_downsamples: tuple[float, ...], downsample: float) -> int:
    """The coarsest level that is not coarser than ``downsample`` (by more than 1 %)."""
    fitting = [
        level for level, own in enumerate(level_downsamples) if own <= max(1.0, downsample) * 1.01
    ]
    return max(fitting, key=lambda level: level_downsamples[level])


def _block(
    reader: SlideReader, shape: tuple[int, ...], left: int, top: int, level: int, downsample: float
) -> Pixels:
    height, width = shape
    info = reader.info
    scale = downsample / info.level_downsamples[level]
    box = Box(
        x=info.bounds_x + round(left * downsample),
        y=info.bounds_y + round(top * downsample),
        level=level,
        width=max(1, round(width * scale)),
        height=max(1, round(height * scale)),
    )
    reader.prepare([box])
    region = reader.read(box.x, box.y, level=level, width=box.width, height=box.height)
    return resized(region, width=width, height=height)
