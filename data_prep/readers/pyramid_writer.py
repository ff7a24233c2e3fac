"""Writes pictures as tiled JPEG pyramids (SVS), as scanners of Aperio do."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile

from histodiff.data_prep.readers.resampling import resized

_TILE_PX = 256
_QUALITY = 85
_LEAST_LEVEL_PX = 512


def write_pyramid(path: Path, pixels: npt.NDArray[np.uint8], *, mpp: float) -> None:
    """Writes pixels as a tiled JPEG pyramid that OpenSlide opens as Aperio, with ``mpp``."""
    height, width = pixels.shape[:2]
    scratch = path.with_suffix(".part")
    with tifffile.TiffWriter(scratch, bigtiff=False) as tiff:
        level = pixels
        while True:
            tiff.write(
                level,
                tile=(_TILE_PX, _TILE_PX),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": _QUALITY},
                description=_description(width, height, level.shape[1], level.shape[0], mpp),
                metadata=None,
                subfiletype=0 if level is pixels else 1,
            )
            if min(level.shape[:2]) < 2 * _LEAST_LEVEL_PX:
                break
            level = resized(level, width=level.shape[1] // 2, height=level.shape[0] // 2)
    scratch.replace(path)


def _description(width: int, height: int, level_width: int, level_height: int, mpp: float) -> str:
    size = f"{width}x{height} [0,0 {width}x{height}] ({_TILE_PX}x{_TILE_PX})"
    if (level_width, level_height) != (width, height):
        size += f" -> {level_width}x{level_height}"
    return (
        f"Aperio Image Library histodiff generated\r\n{size} JPEG/YCC Q={_QUALITY}"
        f"|AppMag = {10 / mpp:g}|MPP = {mpp:g}"
    )
