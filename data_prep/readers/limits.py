"""What the reading of patches is measured against, and the slide that it is measured on.

``BareOpenSlide`` is what anyone would write with OpenSlide. ``TileDecoder`` reads and decodes the
JPEG tiles below a region with the fastest exact decoder known here, and does nothing else: no
reader can be faster on one core.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openslide
import tifffile

from histodiff.data_prep.readers.byte_source import ByteRange, LocalBytes
from histodiff.data_prep.readers.jpeg import decode_tile, tile_prefix
from histodiff.data_prep.readers.tiled_tiff import tiff_index_of
from histodiff.errors import ConfigError
from histodiff.storage import storage_path

BENCH_TILE_PX = 256
BENCH_MPP = 0.25
_QUALITY = 80


def write_bench_slide(path: Path, field: npt.NDArray[np.uint8], *, repeats: int) -> None:
    """Writes ``field`` repeated in both directions as an Aperio SVS of one level, JPEG 4:2:0.

    ``field`` is uint8 ``(side, side, 3)``, its side a multiple of the tile's 256 px.
    """
    side = field.shape[0] * repeats
    pixels = np.tile(field, (repeats, repeats, 1))
    description = (
        f"Aperio Image Library histodiff bench\r\n{side}x{side} [0,0 {side}x{side}]"
        f" ({BENCH_TILE_PX}x{BENCH_TILE_PX}) JPEG/YCC Q={_QUALITY}|AppMag = 40|MPP = {BENCH_MPP}"
    )
    with tifffile.TiffWriter(path, bigtiff=False) as tiff:
        tiff.write(
            pixels,
            tile=(BENCH_TILE_PX, BENCH_TILE_PX),
            photometric="rgb",
            compression="jpeg",
            compressionargs={"level": _QUALITY},
            subsampling=(2, 2),
            description=description,
            metadata=None,
        )


class BareOpenSlide:
    """OpenSlide's ``read_region``, and nothing around it."""

    def __init__(self, path: Path) -> None:
        self._slide = openslide.OpenSlide(str(path))

    def read(self, x: int, y: int, side_px: int) -> npt.NDArray[np.uint8]:
        """Level-0 pixels, uint8 ``(side, side, 3)``."""
        region = self._slide.read_region((x, y), 0, (side_px, side_px))
        return np.ascontiguousarray(np.asarray(region)[..., :3])

    def close(self) -> None:
        """Closes the slide."""
        self._slide.close()


class TileDecoder:
    """Fetches and decodes the JPEG tiles of level 0 that a region touches, and nothing else."""

    def __init__(self, path: Path) -> None:
        index = tiff_index_of(storage_path(path))
        if index is None or not index.is_jpeg:
            raise ConfigError(f"slide={path}: its tiles are no JPEG; there is no limit to measure")
        self._level = index.levels[0]
        self._prefix = tile_prefix(self._level.jpeg_tables, ycbcr=self._level.is_ycbcr)
        self._source = LocalBytes(storage_path(path))

    def read(self, x: int, y: int, side_px: int) -> Iterator[npt.NDArray[np.uint8]]:
        """The decoded tiles, one at a time."""
        level = self._level
        columns = range(x // level.tile_width, -(-(x + side_px) // level.tile_width))
        rows = range(y // level.tile_height, -(-(y + side_px) // level.tile_height))
        for row in rows:
            for column in columns:
                yield self._tile(row * level.tiles_across + column)

    def close(self) -> None:
        """Closes the file."""
        self._source.close()

    def _tile(self, number: int) -> npt.NDArray[np.uint8]:
        level = self._level
        wanted = ByteRange(int(level.offsets[number]), int(level.sizes[number]))
        (data,) = self._source.read([wanted])
        pixels = np.empty((level.tile_height, level.tile_width, 3), np.uint8)
        decode_tile(data, self._prefix, out=pixels)
        return pixels
