"""Plain images and the TIFFs that OpenSlide refuses (OME-TIFF), decoded level by level."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL
import tifffile

from histodiff.data_prep.readers.image_files import (
    PLAIN_SUFFIXES,
    check_pixels,
    decode_bytes,
    stated_dpi,
)
from histodiff.data_prep.readers.reader import Box, Pixels, Resample, SlideInfo
from histodiff.data_prep.readers.resampling import shrink_into
from histodiff.data_prep.readers.scale import FoundScale, dpi_scale, found_scale, tiff_scale
from histodiff.data_prep.readers.tiff_layout import (
    TIFF_STARTS,
    Layout,
    decoded_rgb,
    layout_of,
    open_tiff,
)
from histodiff.errors import SkipReason, SlideError
from histodiff.telemetry.metrics import TILE_DECODED_BYTES

_PLAIN_STARTS = {"PNG": (b"\x89PNG", ".png"), "JPEG": (b"\xff\xd8\xff", ".jpg")}


class ImageReader:
    """One image as a slide; a level stays in memory once it was read.

    Raises:
        SlideError: UNREADABLE: not an 8-bit RGB image, broken, or too large to decode whole.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._levels: dict[int, npt.NDArray[np.uint8]] = {}
        self._layout = Layout(1, 3)
        self._info = (
            self._plain_info() if path.suffix.lower() in PLAIN_SUFFIXES else self._tiff_info()
        )

    @property
    def info(self) -> SlideInfo:
        return self._info

    @property
    def resident_bytes(self) -> int:
        return sum(level.nbytes for level in self._levels.values())

    def exact_at(self, level: int) -> bool:
        """Always: there is one way to read these."""
        del level
        return True

    def prepare(self, boxes: Sequence[Box]) -> None:
        """Nothing: whole levels are in memory."""
        del boxes

    def read(self, x: int, y: int, *, level: int, width: int, height: int) -> npt.NDArray[np.uint8]:
        pixels = self._level(level)
        downsample = self._info.level_downsamples[level]
        left, top = round(x / downsample), round(y / downsample)
        inside = pixels[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
        if inside.shape[:2] == (height, width):
            return inside
        canvas = np.full((height, width, 3), 255, dtype=np.uint8)
        above, beside = max(-top, 0), max(-left, 0)
        canvas[above : above + inside.shape[0], beside : beside + inside.shape[1]] = inside
        return canvas

    def read_shrunk(self, box: Box, *, resample: Resample, out: Pixels) -> None:
        region = self.read(box.x, box.y, level=box.level, width=box.width, height=box.height)
        shrink_into(region, resample=resample, out=out)

    def close(self) -> None:
        self._levels.clear()

    def _plain_info(self) -> SlideInfo:
        data = self._bytes()
        if data.startswith(TIFF_STARTS):
            raise SlideError(
                SkipReason.UNREADABLE,
                f"{self._path.name}: is a TIFF by its content; rename it to end in .svs or .tif",
            )
        self._levels[0] = decode_bytes(data, name=self._path.name)
        TILE_DECODED_BYTES.inc(self._levels[0].nbytes)
        height, width = self._levels[0].shape[:2]
        scale = found_scale([dpi_scale(stated_dpi(data), "image.dpi")])
        return _slide_info(
            "image", width, height,
            downsamples=(1.0,), scale=scale, reader="pillow", version=PIL.__version__,
        )  # fmt: skip

    def _tiff_info(self) -> SlideInfo:
        try:
            with open_tiff(self._path) as tiff:
                levels = tiff.series[0].levels
                layouts = [_layout(self._path.name, tiff, level) for level in levels]
                if len(set(layouts)) > 1:
                    raise ValueError("its levels have different colours")
                self._layout = layouts[0]
                sizes = [
                    (level.keyframe.imagewidth, level.keyframe.imagelength) for level in levels
                ]
                _check_complete(self._path, levels)
                vendor, scale = "ome-tiff" if tiff.is_ome else "image", tiff_scale(tiff)
        except SlideError:
            raise
        except tifffile.TiffFileError as error:
            raise self._misnamed(error) from error
        except Exception as error:  # tifffile raises what it likes on broken files
            raise self._unreadable(error) from error
        width, height = sizes[0]
        downsamples = tuple((width / across + height / down) / 2 for across, down in sizes)
        return _slide_info(
            vendor, width, height,
            downsamples=downsamples, scale=scale, reader="tifffile", version=tifffile.__version__,
        )  # fmt: skip

    def _level(self, level: int) -> npt.NDArray[np.uint8]:
        if level not in self._levels:
            try:
                with open_tiff(self._path) as tiff:
                    self._levels[level] = decoded_rgb(tiff.series[0].levels[level], self._layout)
            except Exception as error:  # as above
                raise self._unreadable(error) from error
            TILE_DECODED_BYTES.inc(self._levels[level].nbytes)
        return self._levels[level]

    def _bytes(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError as error:
            raise self._unreadable(error) from error

    def _misnamed(self, error: Exception) -> SlideError:
        """What is wrong with a file that is no TIFF: perhaps only its name."""
        with self._path.open("rb") as stream:
            start = stream.read(4)
        for kind, (known, suffix) in _PLAIN_STARTS.items():
            if start.startswith(known):
                return SlideError(
                    SkipReason.UNREADABLE,
                    f"{self._path.name}: is a {kind} by its content; rename it to end in {suffix}",
                )
        return self._unreadable(error)

    def _unreadable(self, error: Exception) -> SlideError:
        detail = " ".join(str(error).split()) or type(error).__name__
        return SlideError(SkipReason.UNREADABLE, f"{self._path.name}: {detail}")


def _slide_info(
    vendor: str, width: int, height: int, *,
    downsamples: tuple[float, ...], scale: FoundScale, reader: str, version: str,
) -> SlideInfo:  # fmt: skip
    return SlideInfo(
        vendor=vendor,
        width=width,
        height=height,
        level_downsamples=downsamples,
        mpp_x=scale.mpp_x,
        mpp_y=scale.mpp_y,
        mpp_source=scale.source,
        objective_power=None,
        level_tiles=(None,) * len(downsamples),
        bounds_x=0,
        bounds_y=0,
        bounds_width=width,
        bounds_height=height,
        reader=reader,
        reader_version=version,
        scale_doubt=scale.doubt,
    )


def _check_complete(path: Path, levels: Sequence[tifffile.TiffPageSeries]) -> None:
    """Whether the file has all the data that its header names: tifffile would fill up in black."""
    end = 0
    for page in (page.aspage() for level in levels for page in level.pages if page is not None):
        if not len(page.dataoffsets) == len(page.databytecounts) == math.prod(page.chunked):
            raise ValueError(f"has {len(page.dataoffsets)} of {math.prod(page.chunked)} strips")
        if 0 in page.databytecounts:
            raise ValueError("has strips without data")
        end = max(end, *map(sum, zip(page.dataoffsets, page.databytecounts, strict=True)))
    if end > path.stat().st_size:
        raise SlideError(
            SkipReason.UNREADABLE,
            f"{path.name}: ends at byte {path.stat().st_size}, and its pixels at {end}; the file is"
            " truncated, copy it again",
        )


def _layout(name: str, tiff: tifffile.TiffFile, level: tifffile.TiffPageSeries) -> Layout:
    """Where the colours of the image are, if it can be decoded whole."""
    layout = layout_of(tiff, level, name=name)
    if layout is None:
        raise SlideError(
            SkipReason.UNREADABLE, f"{name}: {level.dtype} {level.shape} is not an RGB image"
        )
    page = level.keyframe
    check_pixels(page.imagewidth, page.imagelength, name=name)
    return layout
