"""Where the tiles of a pyramidal TIFF lie, read from its header once.

The index holds what is needed to fetch and decode any tile without the header: offsets and sizes of
all tiles of all levels, how they are compressed, and what is known of the slide. Saved beside a
PatchIndex it spares every later reader of a remote slide the header (a large slide's is megabytes).
"""

import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import tifffile

from histodiff.data_prep.readers.ome import ome_scale
from histodiff.errors import SkipReason, SlideError

_JPEG = 7
_RGB, _YCBCR = 2, 6
_CENTIMETRE = 3
_OTHER_VENDORS = ("is_ndpi", "is_scn", "is_philips", "is_bif", "is_qpi", "is_lsm", "is_stk")


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

    @property
    def tiles_across(self) -> int:
        """Tiles in a row."""
        return -(-self.width // self.tile_width)

    @property
    def is_jpeg(self) -> bool:
        """Whether its tiles are 8-bit JPEG in RGB or YCbCr."""
        return self.compression == _JPEG and self.photometric in (_RGB, _YCBCR)

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

    @property
    def is_jpeg(self) -> bool:
        """Whether all tiles are JPEG that can be decoded one by one."""
        return all(level.is_jpeg for level in self.levels)

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
    """The index of a tiled 8-bit RGB TIFF, or None where its tiles cannot be read on their own.

    Raises:
        SlideError: UNREADABLE: the header is broken.
    """
    try:
        with tifffile.TiffFile(stream) as tiff:
            return _index(tiff)
    except (tifffile.TiffFileError, ValueError, KeyError, IndexError, EOFError) as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise SlideError(SkipReason.UNREADABLE, f"{name}: broken TIFF header: {detail}") from error


def _index(tiff: tifffile.TiffFile) -> TiffIndex | None:
    if any(getattr(tiff, flag) for flag in _OTHER_VENDORS) or not tiff.series:
        return None
    pages = _level_pages(tiff)
    if not all(_readable(page) for page in pages):
        return None
    levels = tuple(_level(page) for page in pages)
    for level in levels:
        _check_tiles(level)
    if any((level.sizes == 0).any() for level in levels):
        return None  # tiles that are not there: OpenSlide has rules of its own for each vendor
    first = pages[0]
    if tiff.is_ome:
        scale = ome_scale(tiff.ome_metadata)
        return _about("ome-tiff", scale, "ome.PhysicalSizeX", None, levels)
    if tiff.is_svs:
        found = _aperio(first.description)
        mpp, power = found.get("MPP"), found.get("AppMag")
        return _about("aperio", (mpp, mpp) if mpp else None, "aperio.MPP", power, levels)
    return _about("generic-tiff", _resolution(first), "tiff.XResolution", None, levels)


def _level_pages(tiff: tifffile.TiffFile) -> list[Any]:
    """The pages that are levels, as OpenSlide finds them; those of OME-TIFF are sub-pages.

    A remote slide must have the levels of a local one, and there OpenSlide has its say.
    """
    if tiff.is_ome:
        return [level.keyframe for level in tiff.series[0].levels]
    pages = [tiff.pages.get(number) for number in range(len(tiff.pages))]
    if tiff.is_svs:
        return [page for page in pages if page.is_tiled] if pages[0].is_tiled else pages[:1]
    smaller = [page for page in pages[1:] if page.is_tiled and page.subfiletype & 1]
    return [pages[0], *sorted(smaller, key=lambda page: -page.imagewidth)]


def _about(
    vendor: str,
    scale: tuple[float, float] | None,
    source: str,
    power: float | None,
    levels: Sequence[TiffLevel],
) -> TiffIndex:
    return TiffIndex(
        vendor=vendor,
        mpp_x=scale[0] if scale else None,
        mpp_y=scale[1] if scale else None,
        mpp_source=source if scale else "none",
        objective_power=power,
        levels=tuple(levels),
    )


def _readable(page: Any) -> bool:
    contiguous = page.planarconfig == 1 and page.samplesperpixel == 3
    return bool(page.is_tiled and contiguous and page.dtype == np.uint8 and page.imagedepth == 1)


def _level(page: Any) -> TiffLevel:
    return TiffLevel(
        width=int(page.imagewidth),
        height=int(page.imagelength),
        tile_width=int(page.tilewidth),
        tile_height=int(page.tilelength),
        compression=int(page.compression),
        photometric=int(page.photometric),
        jpeg_tables=bytes(page.jpegtables or b""),
        offsets=np.asarray(page.dataoffsets, np.int64),
        sizes=np.asarray(page.databytecounts, np.int64),
        page=int(page.index) if isinstance(page.index, int) else -1,
    )


def _check_tiles(level: TiffLevel) -> None:
    wanted = level.tiles_across * -(-level.height // level.tile_height)
    if len(level.offsets) != wanted or len(level.sizes) != wanted:
        raise ValueError(
            f"{len(level.offsets)} offsets and {len(level.sizes)} sizes of {wanted} tiles; the file"
            " is truncated"
        )


def _aperio(description: str) -> dict[str, float]:
    """Numbers of an Aperio description: ``... |AppMag = 20|MPP = 0.4990|...``."""
    number = r"([0-9]+(?:[.,][0-9]+)?(?:[eE][+-]?[0-9]+)?)"  # a comma in some locales
    found = re.findall(rf"\|\s*(MPP|AppMag)\s*=\s*{number}", description)
    numbers = {key: float(text.replace(",", ".")) for key, text in found}
    return {key: value for key, value in numbers.items() if value > 0}


def _resolution(page: Any) -> tuple[float, float] | None:
    """Microns per pixel from the resolution tags; only centimetres are meant seriously."""
    unit = page.tags.get("ResolutionUnit")
    tags = [page.tags.get("XResolution"), page.tags.get("YResolution")]
    if unit is None or int(unit.value) != _CENTIMETRE or None in tags:
        return None
    (x_top, x_bottom), (y_top, y_bottom) = (tag.value for tag in tags if tag is not None)
    if not (x_top and y_top and x_bottom and y_bottom):
        return None
    return 10_000 * x_bottom / x_top, 10_000 * y_bottom / y_top
