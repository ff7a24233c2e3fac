"""What the reading of patches is measured against, and the slide that it is measured on.

``BareOpenSlide`` is what anyone would write with OpenSlide. ``TileDecoder`` reads and decodes the
JPEG tiles below a region and does nothing else: no reader can be faster on one core.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import openslide
import tifffile

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
    """Decodes the tiles of level 0 that an aligned region is made of."""

    def __init__(self, path: Path) -> None:
        self._tiff = tifffile.TiffFile(path)
        self._page = self._tiff.pages.first
        self._tiles_per_row = self._page.imagewidth // BENCH_TILE_PX

    def read(self, x: int, y: int, side_px: int) -> npt.NDArray[np.uint8]:
        """Level-0 pixels of a region whose edges are edges of tiles, uint8 ``(side, side, 3)``."""
        tiles = side_px // BENCH_TILE_PX
        column, row = x // BENCH_TILE_PX, y // BENCH_TILE_PX
        pixels = np.empty((side_px, side_px, 3), dtype=np.uint8)
        for down in range(tiles):
            for right in range(tiles):
                top, left = down * BENCH_TILE_PX, right * BENCH_TILE_PX
                number = (row + down) * self._tiles_per_row + column + right
                pixels[top : top + BENCH_TILE_PX, left : left + BENCH_TILE_PX] = self._tile(number)
        return pixels

    def close(self) -> None:
        """Closes the file."""
        self._tiff.close()

    def _tile(self, number: int) -> npt.NDArray[np.uint8]:
        handle = self._tiff.filehandle
        handle.seek(self._page.dataoffsets[number])
        data = handle.read(self._page.databytecounts[number])
        decoded = self._page.decode(data, number, jpegtables=self._page.jpegtables)[0]
        return np.asarray(decoded).reshape(BENCH_TILE_PX, BENCH_TILE_PX, 3)
