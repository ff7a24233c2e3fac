"""A small picture of a whole slide, read block by block so that memory stays bounded."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histodiff.data_prep.slides.pixels import resized
from histodiff.data_prep.slides.readers import SlideReader

MAX_SIDE_PX = 4096
_BLOCK_PX = 512


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
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    for top in range(0, height, _BLOCK_PX):
        for left in range(0, width, _BLOCK_PX):
            block = pixels[top : top + _BLOCK_PX, left : left + _BLOCK_PX]
            block[:] = _block(reader, block.shape[:2], left, top, level, downsample)
    return Thumbnail(pixels, info.bounds_x, info.bounds_y, downsample)


def best_level(level_downsamples: tuple[float, ...], downsample: float) -> int:
    """The coarsest level that is not coarser than ``downsample`` (by more than 1 %)."""
    fitting = [
        level for level, own in enumerate(level_downsamples) if own <= max(1.0, downsample) * 1.01
    ]
    return max(fitting, key=lambda level: level_downsamples[level])


def _block(
    reader: SlideReader, shape: tuple[int, ...], left: int, top: int, level: int, downsample: float
) -> npt.NDArray[np.uint8]:
    height, width = shape
    info = reader.info
    scale = downsample / info.level_downsamples[level]
    region = reader.read(
        info.bounds_x + round(left * downsample),
        info.bounds_y + round(top * downsample),
        level=level,
        width=max(1, round(width * scale)),
        height=max(1, round(height * scale)),
    )
    return resized(region, width=width, height=height)
