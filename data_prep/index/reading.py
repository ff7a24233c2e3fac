"""Pixels of patches, for slides and patch sets alike.

A ``RowReader`` is given rows of the table of patches and holds only the index's slides; a
``PatchReader`` takes the rows from an index in memory by their numbers.
Slides are opened when first needed, by the reader that tiled them, and a few stay open. Rows are
read slide by slide, and the bytes of many patches of a slide are fetched together; who asks for
neighbours one after the other spares decoding the tiles that they share. What was read is shrunk
once to ``patch_px`` with the index's filter; a small image of a patch set is padded or enlarged as
its source says. A row that cannot be read becomes a failure in the
block, never a blank patch; a connection that breaks is a TransientError, and fails no row. A remote
slide is held to the version in which this reader first saw it.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from histodiff.data_prep.index.patch_index import IndexedSlides, PatchIndex, file_name_of
from histodiff.data_prep.index.series import series_levels
from histodiff.data_prep.readers.image_decoder import ImageDecoder
from histodiff.data_prep.readers.opening import OpenedSlide, open_slide_at, was_tile_by_tile
from histodiff.data_prep.readers.reader import Box
from histodiff.data_prep.readers.resampling import enlarge_into, pad_into, shrink_into
from histodiff.data_prep.readers.tiff_index import TiffIndex
from histodiff.errors import ArtifactCorrupt, SkipReason, SlideError
from histodiff.runtime import PixelBlock, ReadBytes
from histodiff.storage import (
    FileFacts,
    StoragePath,
    file_facts,
    is_local,
    read_bytes,
    storage_path,
)
from histodiff.telemetry.metrics import (
    TILE_DECODED_BYTES,
    TILE_FETCHED_BYTES,
    TILE_SHOWN_BYTES,
    total,
)

MAX_OPEN_SLIDES = 8
MAX_RESIDENT_BYTES = 2**30
MAX_TOGETHER = 256
"""Patches of a slide whose bytes are fetched together."""

Row = dict[str, Any]


def read_so_far() -> ReadBytes:
    """What reading has taken in this process."""
    return ReadBytes(total(TILE_DECODED_BYTES), total(TILE_SHOWN_BYTES), total(TILE_FETCHED_BYTES))


class RowReader:
    """Reads patches of ``slides``. Picklable; open slides do not travel."""

    def __init__(self, slides: IndexedSlides) -> None:
        self._index = slides
        self._open: OrderedDict[str, OpenedSlide] = OrderedDict()
        self._images = ImageDecoder()
        self._facts: dict[str, FileFacts] = {}

    def read_rows(self, table: pa.Table) -> PixelBlock:
        """Pixels of the patches in ``table``, in that order.

        Args:
            table: Columns ``slide_id``, ``path``, ``x``, ``y``, ``level``, ``read_width`` and
                ``read_height`` of a table of patches.

        Returns:
            A block with ``positions`` 0..n-1 and pixels uint8 ``(n, patch_px, patch_px, 3)``.

        Raises:
            ArtifactCorrupt: A file of the index itself is missing or broken.
        """
        rows = table.to_pylist()
        TILE_SHOWN_BYTES.inc(sum(3 * row["read_width"] * row["read_height"] for row in rows))
        side = self._index.facts.patch_px
        pixels = np.zeros((len(rows), side, side, 3), dtype=np.uint8)
        failures: dict[int, str] = {}
        for positions in _together(rows):
            try:
                self._prepare([rows[position] for position in positions])
            except SlideError as error:
                failures |= dict.fromkeys(positions, str(error))
                continue
            for position in positions:
                try:
                    self._read_into(pixels[position], rows[position])
                except SlideError as error:
                    pixels[position] = 0  # tiles before the damaged one were read already
                    failures[position] = str(error)
        return PixelBlock(np.arange(len(rows), dtype=np.int64), pixels, failures)

    def open(self, slide_id: str) -> None:
        """Opens a slide ahead of its first patch.

        Raises:
            SlideError: It cannot be opened.
        """
        self._slide(slide_id)

    def close(self) -> None:
        """Closes what is open."""
        while self._open:
            self._open.popitem()[1].close()
        self._images.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def _prepare(self, rows: Sequence[Row]) -> None:
        if not rows[0]["path"]:
            self._slide(rows[0]["slide_id"]).reader.prepare([_box(row) for row in rows])

    def _read_into(self, out: npt.NDArray[np.uint8], row: Row) -> None:
        resample = self._index.facts.resample
        if not row["path"]:
            reader = self._slide(row["slide_id"]).reader
            reader.read_shrunk(_box(row), resample=resample, out=out)
            return
        slide = self._facts_of(row["slide_id"])
        x, y, width, height = row["x"], row["y"], row["read_width"], row["read_height"]
        whole = self._images.decode(storage_path(slide["url"]), row["path"])
        region = whole[y : y + height, x : x + width]
        if region.shape[:2] != (height, width):
            raise SlideError(SkipReason.UNREADABLE, f"{row['path']}: smaller than when tiled")
        smaller = min(height, width) < len(out)
        if smaller and slide["fit"] == "pad":
            pad_into(region, out=out)
        elif smaller and slide["fit"] == "enlarge":
            enlarge_into(region, out=out)
        else:
            shrink_into(region, resample=resample, out=out)

    def _slide(self, slide_id: str) -> OpenedSlide:
        if slide_id in self._open:
            self._open.move_to_end(slide_id)
            return self._open[slide_id]
        slide = self._open[slide_id] = self._opened(self._facts_of(slide_id))
        while len(self._open) > 1 and (
            len(self._open) > MAX_OPEN_SLIDES or self._resident_bytes() > MAX_RESIDENT_BYTES
        ):
            self._open.popitem(last=False)[1].close()
        return slide

    def _facts_of(self, slide_id: str) -> Row:
        """The row of a slide; found anew each time, for a dictionary of very many is large."""
        place = pc.index(self._index.slides["slide_id"], slide_id).as_py()
        assert place >= 0, f"slide {slide_id} is not in the index of its patches"
        row: Row = self._index.slides.slice(place, 1).to_pylist()[0]
        return row

    def _opened(self, slide: Row) -> OpenedSlide:
        path = storage_path(slide["url"])
        found = _unchanged(path, slide["size_bytes"])
        facts = self._facts.setdefault(slide["slide_id"], found) if found else None
        tile_by_tile = was_tile_by_tile(slide["reader"])
        index = self._tile_index(slide["slide_id"]) if tile_by_tile else None
        levels = series_levels(self._index.folder, slide["slide_id"], path)
        return open_slide_at(
            path, tile_by_tile=tile_by_tile, index=index, facts=facts, levels=levels
        )

    def _tile_index(self, slide_id: str) -> TiffIndex | None:
        """The index of tiles that was saved when the slide was tiled."""
        if self._index.folder is None:
            return None
        path = self._index.folder / "tiles" / f"{file_name_of(slide_id)}.parquet"
        try:
            return TiffIndex.from_bytes(read_bytes(path))
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            detail = " ".join(str(error).split())
            raise ArtifactCorrupt(f"{path}: no index of tiles: {detail}; tile again") from error

    def _resident_bytes(self) -> int:
        return sum(slide.reader.resident_bytes for slide in self._open.values())


class PatchReader(RowReader):
    """Reads patches of an index in memory by their numbers."""

    def __init__(self, index: PatchIndex) -> None:
        super().__init__(IndexedSlides.of(index))
        self._patches = index.patches

    def read(self, indices: Sequence[int]) -> PixelBlock:
        """Pixels of the patches numbered ``indices``, in that order; see ``read_rows``."""
        return self.read_rows(self._patches.take(np.asarray(indices, dtype=np.int64)))


def _together(rows: Sequence[Row]) -> Iterator[list[int]]:
    """Positions of rows slide by slide, otherwise in the order asked for, cut into groups."""
    order = sorted(range(len(rows)), key=lambda position: _read_order(rows[position]))
    for _, same in groupby(order, key=lambda position: rows[position]["slide_id"]):
        positions = list(same)
        for start in range(0, len(positions), MAX_TOGETHER):
            yield positions[start : start + MAX_TOGETHER]


def _box(row: Row) -> Box:
    return Box(row["x"], row["y"], row["level"], row["read_width"], row["read_height"])


def _unchanged(path: StoragePath, size_bytes: int | None) -> FileFacts | None:
    """Size and version of a remote slide that is what it was when it was tiled; None of others.

    Raises:
        SlideError: UNREADABLE: it has vanished, or has another size.
    """
    if size_bytes is None:
        return None
    try:
        facts = file_facts(path)
    except (FileNotFoundError, PermissionError) as error:
        raise SlideError(SkipReason.UNREADABLE, f"{path.name}: {error}") from error
    if facts.size != size_bytes:
        raise SlideError(
            SkipReason.UNREADABLE,
            f"{path.name}: has {facts.size} bytes, and had {size_bytes} when it was tiled; tile"
            " again",
        )
    return None if is_local(path) else facts


def _read_order(row: Row) -> tuple[str, str]:
    return (row["slide_id"], row["path"])
