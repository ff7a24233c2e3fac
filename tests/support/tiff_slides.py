"""Tiled TIFF slides whose scale, levels and tiles a test decides, and damage to single tiles."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import tifffile

Pixels = npt.NDArray[np.uint8]
TILE_PX = 128
_CENTIMETRE = 3
_MAKER = "Aperio Image Library test\r\n"


@dataclass(frozen=True)
class TileBytes:
    """Where the bytes of a tile lie."""

    offset: int
    size: int


def write_svs(
    path: Path,
    levels: Sequence[Pixels],
    *,
    mpp: float,
    power: float | None = None,
    compression: str = "jpeg",
    tile_px: int = TILE_PX,
) -> Path:
    """Writes levels, largest first, as an Aperio-like SVS; ``power`` fits ``mpp`` by default."""
    height, width = levels[0].shape[:2]
    path.parent.mkdir(parents=True, exist_ok=True)
    about = f"|AppMag = {power or 10 / mpp:g}|MPP = {mpp:g}"
    with tifffile.TiffWriter(path) as tiff:
        for number, level in enumerate(levels):
            size = f"{width}x{height} [0,0 {width}x{height}] ({tile_px}x{tile_px})"
            if number:
                size += f" -> {level.shape[1]}x{level.shape[0]}"
            tiff.write(
                level, tile=(tile_px, tile_px), photometric="rgb", compression=compression,
                compressionargs={"level": 90} if compression == "jpeg" else None,
                description=f"{_MAKER}{size} Q=90{about}", metadata=None,
            )  # fmt: skip
            if not number and len(levels) > 1:  # where scanners put it, in strips
                small = cv2.resize(level, (64, 64), interpolation=cv2.INTER_AREA)
                description = f"{_MAKER}{width}x{height} -> 64x64 - {about}"
                tiff.write(small, photometric="rgb", description=description, metadata=None)
    return path


def write_generic_tiff(
    path: Path, levels: Sequence[Pixels], *, mpp: tuple[float, float] | None
) -> Path:
    """Writes levels as a plain tiled TIFF; ``mpp`` (x, y) goes into the resolution tags."""
    path.parent.mkdir(parents=True, exist_ok=True)
    resolution = None if mpp is None else (10_000 / mpp[0], 10_000 / mpp[1])
    with tifffile.TiffWriter(path) as tiff:
        for number, level in enumerate(levels):
            tiff.write(
                level, tile=(TILE_PX, TILE_PX), photometric="rgb", compression="jpeg",
                compressionargs={"level": 90}, metadata=None, subfiletype=int(number > 0),
                resolution=resolution, resolutionunit=_CENTIMETRE if resolution else None,
            )  # fmt: skip
    return path


def pyramid(pixels: Pixels, downsamples: Sequence[float]) -> list[Pixels]:
    """Level 0 and smaller ones by area averaging, their sizes rounded down as scanners do."""
    height, width = pixels.shape[:2]
    smaller = [
        cv2.resize(pixels, (int(width / each), int(height / each)), interpolation=cv2.INTER_AREA)
        for each in downsamples
    ]
    return [pixels, *(np.asarray(level, np.uint8) for level in smaller)]


def tiles_of(path: Path, *, level: int) -> list[TileBytes]:
    """Offsets and sizes of the tiles of a level, row by row."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.series[0].levels[level].keyframe
        pairs = zip(page.dataoffsets, page.databytecounts, strict=True)
        return [TileBytes(int(offset), int(size)) for offset, size in pairs]


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Puts other bytes into a file, whose size stays."""
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(data)


def tissue_pixels(side_px: int, *, seed: int = 0) -> Pixels:
    """Tissue-coloured texture without glass, different everywhere."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 30, (side_px // 8, side_px // 8, 1)).astype(np.float32)
    smooth = cv2.resize(coarse, (side_px, side_px), interpolation=cv2.INTER_CUBIC)[..., np.newaxis]
    noise = rng.normal(0, 8, (side_px, side_px, 3))
    pixels = np.array([190.0, 120.0, 165.0]) + smooth + noise
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)
