"""Pixels of patches: a ``Reader`` over a PatchIndex, for slides and patch sets alike.

Slides are opened when first needed and a few stay open. Rows are read slide by slide, whatever
order they are asked for in. What was read is shrunk once to ``patch_px`` with the index's filter. A
row that cannot be read becomes a failure in the block, never a blank patch.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from histodiff.data_prep.slides.image_decoder import ImageDecoder
from histodiff.data_prep.slides.opening import OpenedSlide, open_slide_at
from histodiff.data_prep.slides.patch_index import PatchIndex
from histodiff.data_prep.slides.pixels import shrunk
from histodiff.errors import SkipReason, SlideError
from histodiff.runtime import PixelBlock
from histodiff.storage import storage_path

MAX_OPEN_SLIDES = 8
MAX_RESIDENT_BYTES = 2**30


class PatchReader:
    """Reads patches of ``index`` by their numbers. Picklable; open slides do not travel."""

    def __init__(self, index: PatchIndex) -> None:
        self._index = index
        self._urls = dict(
            zip(index.slides["slide_id"].to_pylist(), index.slides["url"].to_pylist(), strict=True)
        )
        self._open: OrderedDict[str, OpenedSlide] = OrderedDict()
        self._images = ImageDecoder()

    def read(self, indices: Sequence[int]) -> PixelBlock:
        """Pixels of the patches numbered ``indices``, in that order.

        Returns:
            A block with ``positions`` 0..n-1 and pixels uint8 ``(n, patch_px, patch_px, 3)``.
        """
        rows = self._index.patches.take(np.asarray(indices, dtype=np.int64)).to_pylist()
        side = self._index.patch_px
        pixels = np.zeros((len(rows), side, side, 3), dtype=np.uint8)
        failures: dict[int, str] = {}
        for position in sorted(range(len(rows)), key=lambda number: _read_order(rows[number])):
            try:
                pixels[position] = self._patch(rows[position])
            except SlideError as error:
                failures[position] = str(error)
        return PixelBlock(np.arange(len(rows), dtype=np.int64), pixels, failures)

    def close(self) -> None:
        """Closes what is open."""
        while self._open:
            self._open.popitem()[1].close()
        self._images.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def _patch(self, row: dict[str, Any]) -> npt.NDArray[np.uint8]:
        x, y, side = row["x"], row["y"], row["read_px"]
        if row["path"]:
            region = self._decoded(row)[y : y + side, x : x + side]
        else:
            slide = self._slide(row["slide_id"])
            region = slide.reader.read(x, y, level=row["level"], width=side, height=side)
        if region.shape[:2] != (side, side):
            raise SlideError(SkipReason.UNREADABLE, f"{row['slide_id']}: smaller than when tiled")
        return shrunk(region, self._index.patch_px, self._index.resample)

    def _decoded(self, row: dict[str, Any]) -> npt.NDArray[np.uint8]:
        return self._images.decode(storage_path(self._urls[row["slide_id"]]), row["path"])

    def _slide(self, slide_id: str) -> OpenedSlide:
        if slide_id in self._open:
            self._open.move_to_end(slide_id)
            return self._open[slide_id]
        slide = open_slide_at(storage_path(self._urls[slide_id]))
        self._open[slide_id] = slide
        while len(self._open) > 1 and (
            len(self._open) > MAX_OPEN_SLIDES or self._resident_bytes() > MAX_RESIDENT_BYTES
        ):
            self._open.popitem(last=False)[1].close()
        return slide

    def _resident_bytes(self) -> int:
        return sum(slide.reader.resident_bytes for slide in self._open.values())


def _read_order(row: dict[str, Any]) -> tuple[str, str, int, int, int]:
    return (row["slide_id"], row["path"], row["level"], row["y"], row["x"])
