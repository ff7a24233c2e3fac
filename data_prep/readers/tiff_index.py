"""Where the tiles of a pyramidal TIFF lie, read from its header once.

The index holds what is needed to fetch and decode any tile without the header: offsets and sizes of
all tiles of all levels, how they are compressed, and what is known of the slide. Saved beside a
PatchIndex it spares every later reader of a remote slide the header (a large slide's is megabytes).
"""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import tifffile

from histodiff.data_prep.readers.scale import FoundScale, aperio_numbers, tiff_scale
from histodiff.data_prep.readers.tiff_layout import (
    OTHER_VENDORS,
    TIFF_STARTS,
    Layout,
    check_page,
    layout_of,
    open_tiff,
)
from histodiff.data_prep.readers.tile_codecs import BEYOND_OPENSLIDE, can_decode
from histodiff.errors import HistodiffError, SkipReason, SlideError

_JPEG = 7
_RGB, _YCBCR = 2, 6
_OME = "ome-tiff"


class BrokenTiff(SlideError):
    """A header that contradicts itself or the file."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(SkipReason.UNREADABLE, f"{name}: broken TIFF header: {detail}")


@dataclass(frozen=True)
class TiffLevel:
    """One level of the pyramid, its tiles numbered row by row."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    compression: int
    photometric: int
    jpeg_tables: bytes
    """JPEG tables that the tiles share, empty when each has its own."""
    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    page: int
    """Number of the page, ``-1`` for sub-pages."""
    planes: int = 1
    """3: red, green and blue are tiles of their own, all of red first."""
    samples: int = 3
    """Samples per pixel of a tile."""
    predictor: int = 1

    @property
    def tiles_across(self) -> int:
        """Tiles in a row."""
        return -(-self.width // self.tile_width)

    @property
    def num_tiles(self) -> int:
        """Tiles of one plane."""
        return self.tiles_across * -(-self.height // self.tile_height)

    def stored_tiles(self, number: int) -> range:
        """Numbers of the stored tiles that are the tile: one, or one of each plane."""
        return range(number, self.planes * self.num_tiles, self.num_tiles)

    @property
    def is_jpeg(self) -> bool:
        """Whether its tiles are 8-bit JPEG in RGB or YCbCr, colours interleaved."""
        interleaved = self.planes == 1 and self.samples == 3
        return interleaved and self.compression == _JPEG and self.photometric in (_RGB, _YCBCR)

    @property
    def is_ycbcr(self) -> bool:
        """Whether the JPEG data are YCbCr."""
        return self.photometric == _YCBCR


@dataclass(frozen=True)
class TiffIndex:
    """What is known of a tiled TIFF."""

    vendor: str
    """``aperio``, ``generic-tiff`` (as OpenSlide says) or ``ome-tiff``."""
    mpp_x: float | None
    mpp_y: float | None
    mpp_source: str
    objective_power: float | None
    levels: tuple[TiffLevel, ...]
    scale_doubt: str = ""
    """What is stated of the scale and not believed."""

    @property
    def is_jpeg(self) -> bool:
        """Whether all tiles are JPEG that can be decoded one by one."""
        return all(level.is_jpeg for level in self.levels)

    @property
    def is_beyond_openslide(self) -> bool:
        """Whether OpenSlide would miss its scale, levels or colours, or cannot read it at all."""
        return self.vendor == _OME or any(
            level.planes == 3 or level.compression in BEYOND_OPENSLIDE for level in self.levels
        )

    @property
    def has_holes(self) -> bool:
        """Whether tiles are not there: OpenSlide has rules of its own for each vendor."""
        return any(bool((level.sizes == 0).any()) for level in self.levels)

    @property
    def end(self) -> int:
        """Where the last tile ends in the file."""
        return max(int((level.offsets + level.sizes).max()) for level in self.levels)

    @property
    def downsamples(self) -> tuple[float, ...]:
        """Level-0 pixels per pixel of each level, as OpenSlide reckons."""
        first = self.levels[0]
        return tuple(
            (first.width / level.width + first.height / level.height) / 2 for level in self.levels
        )

    def to_bytes(self) -> bytes:
        """The index as one Parquet file."""
        about = asdict(replace(self, levels=()))
        plain = []
        for level in self.levels:
            fields = {**level.__dict__, "jpeg_tables": level.jpeg_tables.hex()}
            plain.append({k: v for k, v in fields.items() if k not in ("offsets", "sizes")})
        table = pa.table(
            {
                "level": np.repeat(
                    np.arange(len(self.levels), dtype=np.int32),
                    [len(level.offsets) for level in self.levels],
                ),
                "offset": np.concatenate([level.offsets for level in self.levels]),
                "size": np.concatenate([level.sizes for level in self.levels]),
            }
        ).replace_schema_metadata({"index": json.dumps({**about, "levels": plain})})
        sink = io.BytesIO()
        packed = {"level": "DELTA_BINARY_PACKED", "offset": "DELTA_BINARY_PACKED"}
        pq.write_table(
            table, sink, compression="zstd", use_dictionary=False,
            column_encoding={**packed, "size": "DELTA_BINARY_PACKED"},
        )  # fmt: skip
        return sink.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "TiffIndex":
        """What ``to_bytes`` wrote."""
        table = pq.read_table(io.BytesIO(data))
        about = json.loads(table.schema.metadata[b"index"])
        number = table["level"].to_numpy()
        offsets, sizes = table["offset"].to_numpy(), table["size"].to_numpy()
        levels = [
            TiffLevel(
                **{**fields, "jpeg_tables": bytes.fromhex(fields["jpeg_tables"])},
                offsets=offsets[number == level], sizes=sizes[number == level],
            )
            for level, fields in enumerate(about.pop("levels"))
        ]  # fmt: skip
        return cls(**about, levels=tuple(levels))


def read_tiff_index(stream: BinaryIO, *, name: str) -> TiffIndex | None:
    """The index of a tiled 8-bit TIFF, or None where its tiles cannot be read on their own.

    Raises:
        BrokenTiff: The header is broken.
        SlideError: UNREADABLE: colours that no reader gives rightly; see `layout_of`.
    """
    start = stream.read(4)
    stream.seek(0)
    if not start.startswith(TIFF_STARTS):
        return None
    try:
        with open_tiff(stream) as tiff:
            return _index(tiff, name)
    except (HistodiffError, OSError):
        raise  # OSError: of the place, not of the file
    except Exception as error:  # tifffile raises what it likes on broken headers
        detail = " ".join(str(error).split()) or type(error).__name__
        raise BrokenTiff(name, detail) from error


def _index(tiff: tifffile.TiffFile, name: str) -> TiffIndex | None:
    if any(getattr(tiff, flag) for flag in OTHER_VENDORS) or not tiff.series:
        return None
    first = tiff.pages.first
    check_page(first, name=name)
    if tiff.is_ome or tiff.is_imagej:
        stored = _levels_of_series(tiff, name)
    else:
        layout_of(tiff, tiff.series[0], name=name)  # refuses stacks of grey pages
        pages = _level_pages(tiff)
        for page in pages:
            check_page(page, name=name)
        stored = [([page], _layout_of_page(page)) for page in pages]
    if any(layout is None or not _readable(pages[0], layout) for pages, layout in stored):
        return None
    levels = tuple(_level(pages, layout) for pages, layout in stored if layout is not None)
    for level in levels:
        _check_tiles(level)
    scale = tiff_scale(tiff)
    if tiff.is_ome:
        return _about(_OME, scale, None, levels)
    if tiff.is_svs:
        return _about("aperio", scale, aperio_numbers(first.description).get("AppMag"), levels)
    return _about("generic-tiff", scale, None, levels)


def _levels_of_series(tiff: tifffile.TiffFile, name: str) -> list[tuple[list[Any], Layout | None]]:
    """Pages and arrangement of every level of the first image."""
    found = []
    for level in tiff.series[0].levels:
        layout = layout_of(tiff, level, name=name)
        own_pages = layout is not None and layout.own_pages
        pages = [page.aspage() for page in level.pages] if own_pages else [level.keyframe]
        found.append((pages, layout))
    return found


def _layout_of_page(page: Any) -> Layout | None:
    """Where the colours of one page are."""
    if page.samplesperpixel != 3:
        return None
    return Layout(1, 3) if page.planarconfig == 1 else Layout(3, 1, (0, 1, 2))


def _level_pages(tiff: tifffile.TiffFile) -> list[Any]:
    """The pages that are levels, as OpenSlide finds them.

    A remote slide must have the levels of a local one, and there OpenSlide has its say.
    """
    pages = [tiff.pages.get(number) for number in range(len(tiff.pages))]
    if tiff.is_svs:
        return [page for page in pages if page.is_tiled] if pages[0].is_tiled else pages[:1]
    smaller = [page for page in pages[1:] if page.is_tiled and page.subfiletype & 1]
    return [pages[0], *sorted(smaller, key=lambda page: -page.imagewidth)]


def _about(
    vendor: str, scale: FoundScale, power: float | None, levels: Sequence[TiffLevel]
) -> TiffIndex:
    return TiffIndex(
        vendor=vendor,
        mpp_x=scale.mpp_x,
        mpp_y=scale.mpp_y,
        mpp_source=scale.source,
        objective_power=power,
        levels=tuple(levels),
        scale_doubt=scale.doubt,
    )


def _readable(page: Any, layout: Layout) -> bool:
    """Whether the tiles of a page can be decoded one by one."""
    plain = page.dtype == np.uint8 and page.imagedepth == 1 and page.fillorder == 1
    return bool(
        page.is_tiled
        and plain
        and page.samplesperpixel * (3 if layout.own_pages else 1) == layout.planes * layout.samples
        and can_decode(
            int(page.compression),
            photometric=int(page.photometric),
            predictor=int(page.predictor),
            samples=layout.samples,
        )
    )


def _level(pages: Sequence[Any], layout: Layout) -> TiffLevel:
    page = pages[0]
    shapes = {(each.shape, each.tilewidth, each.tilelength, each.compression) for each in pages}
    tables = {bytes(each.jpegtables or b"") for each in pages}
    if len(shapes) > 1 or len(tables) > 1:
        raise ValueError("the pages of its colours differ")
    planes = [pages[k] for k in layout.order] if layout.own_pages else [page]
    return TiffLevel(
        width=int(page.imagewidth),
        height=int(page.imagelength),
        tile_width=int(page.tilewidth),
        tile_height=int(page.tilelength),
        compression=int(page.compression),
        photometric=int(page.photometric),
        jpeg_tables=tables.pop(),
        offsets=np.concatenate([np.asarray(each.dataoffsets, np.int64) for each in planes]),
        sizes=np.concatenate([np.asarray(each.databytecounts, np.int64) for each in planes]),
        page=int(page.index) if isinstance(page.index, int) else -1,
        planes=layout.planes,
        samples=layout.samples,
        predictor=int(page.predictor),
    )


def _check_tiles(level: TiffLevel) -> None:
    wanted = level.planes * level.num_tiles
    if len(level.offsets) != wanted or len(level.sizes) != wanted:
        raise ValueError(
            f"{len(level.offsets)} offsets and {len(level.sizes)} sizes of {wanted} tiles; the file"
            " is truncated"
        )
    if (level.offsets < 0).any() or (level.sizes < 0).any():
        raise ValueError("tiles lie before the file")
