"""The fast path: tiled TIFF and SVS, local or remote, with OpenSlide's pixels.

Taken are JPEG pyramids as OpenSlide sees them, and what it sees wrongly or not at all: OME-TIFF of
any compression, colours in planes or pages of their own, JPEG 2000 and WebP. Tiles are fetched by
their offsets, decoded once and kept for a while, so that neighbouring patches share them. Regions
at whole pixels of a level equal OpenSlide's exactly; where a level's downsample is not a whole
number OpenSlide blends pixels: there ``exact_at`` says no, and OpenSlide reads. Where tiles are
YCbCr on a page that says RGB the colours are right here, and false in OpenSlide.
What OpenSlide reads rightly (LZW, missing tiles, Aperio's JPEG 2000, other vendors) is not taken.
"""

import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import openslide
import tifffile

from histodiff.data_prep.readers.byte_source import ByteRange, ByteSource, byte_source
from histodiff.data_prep.readers.jpeg import VERSION, decode_tile, is_jfif, tile_prefix
from histodiff.data_prep.readers.reader import Box, Pixels, Resample, SlideInfo
from histodiff.data_prep.readers.resampling import shrink_into
from histodiff.data_prep.readers.tiff_index import TiffIndex, TiffLevel, read_tiff_index
from histodiff.data_prep.readers.tile_codecs import decode_stored
from histodiff.errors import FileChanged, SkipReason, SlideError
from histodiff.storage import FileFacts, StoragePath, file_facts, is_local, open_blockwise
from histodiff.telemetry.metrics import TILE_DECODED_BYTES

NAME = "tiff"
TIFF_SUFFIXES = (".svs", ".tif", ".tiff")
_HEADER_BLOCK_BYTES = 256 * 2**10
_DECODED_BYTES = 16 * 2**20
"""Most memory for decoded tiles of one slide."""
_JFIF_BYTES = 16
_OPENSLIDE_VENDORS = ("aperio", "generic-tiff")


def tiff_index_of(path: StoragePath, *, facts: FileFacts | None = None) -> TiffIndex | None:
    """The index of a slide that the fast path takes, else None.

    Args:
        path: The file.
        facts: Of a remote one, where they are known; it is held to their version.

    Raises:
        SlideError: UNREADABLE: a remote file that is missing, or has a broken header.
        TransientError: The connection broke.
    """
    if not path.name.lower().endswith(TIFF_SUFFIXES):
        return None
    if is_local(path):
        return _local_index(path)
    try:
        facts = facts or file_facts(path)
        with open_blockwise(path, block_bytes=_HEADER_BLOCK_BYTES, facts=facts) as stream:
            index = read_tiff_index(stream, name=path.name)
    except (FileNotFoundError, PermissionError, FileChanged) as error:
        raise SlideError(SkipReason.UNREADABLE, f"{path.name}: {error}") from error
    if index is not None:
        _complete(index, facts.size, path.name)
    return index if index is not None and _is_taken(index) else None


def _is_taken(index: TiffIndex) -> bool:
    return (index.is_jpeg or index.is_beyond_openslide) and not index.has_holes


def _local_index(path: StoragePath) -> TiffIndex | None:
    """As above; a local file that OpenSlide sees otherwise is left to it.

    Raises:
        SlideError: UNREADABLE: the header is broken, the file ends before its tiles do, or it has
            colours that no reader gives rightly.
    """
    vendor = _openslide_vendor(path.path)
    if vendor is not None and vendor not in _OPENSLIDE_VENDORS:
        return None
    try:
        with open(path.path, "rb") as stream:
            index = read_tiff_index(stream, name=path.name)
    except OSError:
        return None  # the next reader says what is wrong
    if index is None:
        return None
    _complete(index, os.stat(path.path).st_size, path.name)
    if not _is_taken(index):
        return None
    unseen = vendor is None or index.is_beyond_openslide
    return index if unseen or _agrees(index, path.path) else None


def _complete(index: TiffIndex, size_bytes: int, name: str) -> None:
    """Whether the file has all that its index names."""
    if index.end > size_bytes:
        raise SlideError(
            SkipReason.UNREADABLE,
            f"{name}: ends at byte {size_bytes}, and its tiles at {index.end}; the file is"
            " truncated, copy it again",
        )


def _openslide_vendor(path: str) -> str | None:
    try:
        vendor: str | None = openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:
        return None
    return vendor


def _agrees(index: TiffIndex, path: str) -> bool:
    """Whether OpenSlide sees the same slide."""
    try:
        with openslide.OpenSlide(path) as slide:
            sizes = tuple((level.width, level.height) for level in index.levels)
            return bool(sizes == slide.level_dimensions)
    except openslide.OpenSlideError:
        return False


@dataclass(frozen=True)
class _Rectangle:
    """A region of a level, in its pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class _Piece:
    """What a region has of one tile."""

    tile: int
    """Number of the tile in its level."""
    left: int
    top: int
    """Place in the region."""
    tile_left: int
    tile_top: int
    """Place in the tile."""
    width: int
    height: int

    @property
    def rows(self) -> slice:
        """Rows of the region."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """Columns of the region."""
        return slice(self.left, self.left + self.width)

    def is_multiple_of(self, factor: int) -> bool:
        """Whether place in the region and size are."""
        return not any(value % factor for value in (self.left, self.top, self.width, self.height))

    def of(self, out: Pixels, factor: int) -> Pixels:
        """Where the piece lies in the region shrunk by ``factor``."""
        top, left = self.top // factor, self.left // factor
        return out[top : top + self.height // factor, left : left + self.width // factor]


class TiffReader:
    """One tiled TIFF, read tile by tile.

    Args:
        path: The file or URL.
        index: Its index; nothing of the header is read again.
        version: Of a remote file, which it is held to.
    """

    def __init__(self, path: StoragePath, index: TiffIndex, *, version: str = "") -> None:
        self._name = path.name
        self._index = index
        self._source: ByteSource = byte_source(path, version=version)
        self._remote = not is_local(path)
        self._prefixes = [
            tile_prefix(level.jpeg_tables, ycbcr=level.is_ycbcr) for level in index.levels
        ]
        self._decoded: OrderedDict[tuple[int, int], Pixels] = OrderedDict()
        self._fetched: dict[tuple[int, int], bytes] = {}
        self._scratch = np.empty((0, 0, 3), np.uint8)
        self._pinned: dict[tuple[int, int], Pixels] = {}
        self._info = _info(index)

    @property
    def info(self) -> SlideInfo:
        return self._info

    @property
    def index(self) -> TiffIndex:
        """Where the tiles lie."""
        return self._index

    @property
    def resident_bytes(self) -> int:
        fetched = sum(len(data) for data in self._fetched.values())
        return fetched + sum(tile.nbytes for tile in self._decoded.values())

    def exact_at(self, level: int) -> bool:
        downsample = self._info.level_downsamples[level]
        whole = downsample == round(downsample)
        return whole or self._index.is_beyond_openslide or self._false_in_openslide(level)

    def prepare(self, boxes: Sequence[Box]) -> None:
        """Fetches the tiles of remote regions together; those of other regions are dropped."""
        if not self._remote:
            return
        wanted = sorted({(box.level, piece.tile) for box in boxes for piece in self._pieces(box)})
        self._pinned = {key: self._decoded[key] for key in wanted if key in self._decoded}
        stored = [
            (level, each)
            for level, tile in wanted
            if (level, tile) not in self._pinned
            for each in self._index.levels[level].stored_tiles(tile)
        ]
        self._fetched = {key: self._fetched[key] for key in stored if key in self._fetched}
        missing = [key for key in stored if key not in self._fetched]
        found = self._source.read([self._range(*key) for key in missing])
        self._fetched.update(zip(missing, found, strict=True))

    def read(self, x: int, y: int, *, level: int, width: int, height: int) -> Pixels:
        pieces = self._pieces(Box(x, y, level, width, height))
        pixels = np.empty((height, width, 3), np.uint8)
        if sum(piece.width * piece.height for piece in pieces) < width * height:
            pixels[:] = 255  # beyond the edge of the slide
        for piece in pieces:
            pixels[piece.rows, piece.columns] = self._piece_of_tile(level, piece)
        return pixels

    def read_shrunk(self, box: Box, *, resample: Resample, out: Pixels) -> None:
        factor = box.width // out.shape[1]
        pieces = self._pieces(box)
        by_tiles = resample == "box" and (box.height, box.width) == (
            factor * out.shape[0],
            factor * out.shape[1],
        )
        if by_tiles and all(piece.is_multiple_of(factor) for piece in pieces):
            # areas of factor x factor lie in one tile each: shrinks every tile while it is in cache
            for piece in pieces:
                shrink_into(
                    self._piece_of_tile(box.level, piece), resample="box", out=piece.of(out, factor)
                )
            return
        region = self.read(box.x, box.y, level=box.level, width=box.width, height=box.height)
        shrink_into(region, resample=resample, out=out)

    def close(self) -> None:
        self._decoded.clear()
        self._fetched.clear()
        self._pinned.clear()
        self._source.close()

    def _false_in_openslide(self, level: int) -> bool:
        """Whether OpenSlide would give the colours of a level wrongly."""
        stored = self._index.levels[level]
        if stored.is_ycbcr:
            return False
        start = ByteRange(int(stored.offsets[0]), min(int(stored.sizes[0]), _JFIF_BYTES))
        return is_jfif(self._source.read([start])[0])

    def _area(self, box: Box) -> _Rectangle:
        downsample = self._info.level_downsamples[box.level]
        left, top = round(box.x / downsample), round(box.y / downsample)
        return _Rectangle(left, top, box.width, box.height)

    def _pieces(self, box: Box) -> list[_Piece]:
        """The region cut along tiles."""
        stored, area = self._index.levels[box.level], self._area(box)
        columns, rows = _tile_span(stored, area)
        return [_piece(stored, area, column, row) for row in rows for column in columns]

    def _piece_of_tile(self, level: int, piece: _Piece) -> Pixels:
        """Pixels of a piece, until the next piece is asked for."""
        stored = self._index.levels[level]
        if (piece.width, piece.height) == (stored.tile_width, stored.tile_height):
            return self._whole_tile(level, piece.tile)
        tile = self._shared_tile(level, piece.tile)
        return tile[
            piece.tile_top : piece.tile_top + piece.height,
            piece.tile_left : piece.tile_left + piece.width,
        ]

    def _whole_tile(self, level: int, number: int) -> Pixels:
        """A tile that lies in one region: hardly needed again, so its memory is used again at once.

        What was just used is still in the processor's cache, which saves a fifth of the time.
        """
        for kept in (self._decoded, self._pinned):
            if (level, number) in kept:
                return kept[level, number]
        stored = self._index.levels[level]
        shape = (stored.tile_height, stored.tile_width, 3)
        if self._scratch.shape != shape:
            self._scratch = np.empty(shape, np.uint8)
        self._decode(level, number, self._scratch)
        return self._scratch

    def _shared_tile(self, level: int, number: int) -> Pixels:
        """A tile that neighbouring regions share: decoded once, and kept for a while."""
        key = (level, number)
        if key in self._decoded:
            self._decoded.move_to_end(key)
            return self._decoded[key]
        if key in self._pinned:
            return self._pinned[key]
        stored = self._index.levels[level]
        tile = np.empty((stored.tile_height, stored.tile_width, 3), np.uint8)
        self._decode(level, number, tile)
        self._decoded[key] = tile
        while len(self._decoded) * tile.nbytes > _DECODED_BYTES:
            self._decoded.popitem(last=False)
        return tile

    def _decode(self, level: int, number: int, out: Pixels) -> None:
        stored = self._index.levels[level]
        data = self._stored_bytes(level, number)
        try:
            if stored.is_jpeg:
                decode_tile(data[0], self._prefixes[level], out=out)
            else:
                self._decode_planes(level, data, out)
            TILE_DECODED_BYTES.inc(out.nbytes)
        except ValueError as error:
            row, column = divmod(number, stored.tiles_across)
            raise SlideError(
                SkipReason.UNREADABLE,
                f"{self._name}: tile {column},{row} of level {level} is damaged: {error}",
            ) from error

    def _decode_planes(self, level: int, data: Sequence[bytes], out: Pixels) -> None:
        """Tiles that are not interleaved JPEG; grey is in all three colours."""
        stored = self._index.levels[level]
        for plane, encoded in enumerate(data):
            decoded = out if stored.samples == 3 else np.empty((*out.shape[:2], 1), np.uint8)
            decode_stored(
                encoded, compression=stored.compression, predictor=stored.predictor,
                prefix=self._prefixes[level], out=decoded,
            )  # fmt: skip
            if stored.samples == 1:
                out[..., plane if stored.planes == 3 else slice(None)] = (
                    decoded[..., 0] if stored.planes == 3 else decoded
                )

    def _stored_bytes(self, level: int, number: int) -> list[bytes]:
        """The bytes of a tile, of each of its planes."""
        numbers = self._index.levels[level].stored_tiles(number)
        found = {each: self._fetched.get((level, each)) for each in numbers}
        missing = [each for each, data in found.items() if data is None]
        fetched = self._source.read([self._range(level, each) for each in missing])
        found |= dict(zip(missing, fetched, strict=True))
        return [data for data in found.values() if data is not None]

    def _range(self, level: int, number: int) -> ByteRange:
        stored = self._index.levels[level]
        return ByteRange(int(stored.offsets[number]), int(stored.sizes[number]))


def _tile_span(level: TiffLevel, area: _Rectangle) -> tuple[range, range]:
    """Columns and rows of the tiles that a region touches, inside the level."""
    right = min(area.left + area.width, level.width)
    bottom = min(area.top + area.height, level.height)
    columns = range(max(area.left, 0) // level.tile_width, -(-right // level.tile_width))
    rows = range(max(area.top, 0) // level.tile_height, -(-bottom // level.tile_height))
    return columns, rows


def _piece(level: TiffLevel, area: _Rectangle, column: int, row: int) -> _Piece:
    tile_left, tile_top = column * level.tile_width, row * level.tile_height
    left, top = max(tile_left, area.left), max(tile_top, area.top)
    right = min(tile_left + level.tile_width, area.left + area.width, level.width)
    bottom = min(tile_top + level.tile_height, area.top + area.height, level.height)
    return _Piece(
        tile=row * level.tiles_across + column,
        left=left - area.left,
        top=top - area.top,
        tile_left=left - tile_left,
        tile_top=top - tile_top,
        width=right - left,
        height=bottom - top,
    )


def _info(index: TiffIndex) -> SlideInfo:
    first = index.levels[0]
    return SlideInfo(
        vendor=index.vendor,
        width=first.width,
        height=first.height,
        level_downsamples=index.downsamples,
        mpp_x=index.mpp_x,
        mpp_y=index.mpp_y,
        mpp_source=index.mpp_source,
        objective_power=index.objective_power,
        level_tiles=tuple((level.tile_width, level.tile_height) for level in index.levels),
        bounds_x=0,
        bounds_y=0,
        bounds_width=first.width,
        bounds_height=first.height,
        reader=NAME,
        reader_version=f"{VERSION} tifffile {tifffile.__version__}",
        scale_doubt=index.scale_doubt,
    )
