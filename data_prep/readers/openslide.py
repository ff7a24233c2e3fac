"""Whole-slide formats through OpenSlide."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from histodiff.data_prep.readers.image_files import PLAIN_SUFFIXES
from histodiff.data_prep.readers.reader import Box, Pixels, Resample, SlideInfo
from histodiff.data_prep.readers.resampling import shrink_into
from histodiff.data_prep.readers.scale import FoundScale, StatedScale, found_scale, tiff_scale
from histodiff.data_prep.readers.tiff_layout import open_tiff
from histodiff.errors import SkipReason, SlideError
from histodiff.telemetry.metrics import TILE_DECODED_BYTES

NAME = "openslide"
_GENERIC = "generic-tiff"
_SCALE_KEYS = {
    "aperio": "MPP",
    "dicom": "PixelSpacing",
    "hamamatsu": "XResolution",
    "leica": "XResolution",
    "mirax": "MICROMETER_PER_PIXEL_X",
    "philips-tiff": "DICOM_PIXEL_SPACING",
    "ventana": "ScanRes",
    "zeiss": "Scaling",
}
"""Where OpenSlide has the scale from, by vendor; what is not listed is named after OpenSlide."""


class OpenSlideReader:
    """One slide opened by OpenSlide.

    Raises:
        SlideError: UNREADABLE: OpenSlide knows the format but refuses the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._slide: openslide.OpenSlide | None = None
        slide = self._opened()
        self._info = _info(slide, path)
        colour = slide.properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "ffffff")
        self._background = tuple(bytes.fromhex(colour))

    @staticmethod
    def takes(path: Path) -> bool:
        """Whether OpenSlide knows the format of the file (it may refuse the file all the same)."""
        if path.suffix.lower() in PLAIN_SUFFIXES:
            return False
        try:
            return openslide.OpenSlide.detect_format(str(path)) is not None
        except openslide.OpenSlideError:
            return True

    @property
    def info(self) -> SlideInfo:
        return self._info

    @property
    def resident_bytes(self) -> int:
        """Zero: OpenSlide's own tile cache is bounded and small."""
        return 0

    def exact_at(self, level: int) -> bool:
        """Always: these are OpenSlide's pixels."""
        del level
        return True

    def prepare(self, boxes: Sequence[Box]) -> None:
        """Nothing: OpenSlide reads what it needs itself."""
        del boxes

    def read(self, x: int, y: int, *, level: int, width: int, height: int) -> Pixels:
        try:
            region = self._opened().read_region((x, y), level, (width, height))
        except openslide.OpenSlideError as error:
            self.close()  # after one damaged tile OpenSlide refuses all: the others need it anew
            raise SlideError(SkipReason.UNREADABLE, f"{self._path.name}: {_line(error)}") from error
        rgba = np.asarray(region)
        TILE_DECODED_BYTES.inc(3 * width * height)  # at least: it does not say what it decoded
        if (rgba[..., 3] == 255).all():
            return np.ascontiguousarray(rgba[..., :3])
        canvas = Image.new("RGBA", region.size, (*self._background, 255))
        return np.asarray(Image.alpha_composite(canvas, region).convert("RGB"))

    def read_shrunk(self, box: Box, *, resample: Resample, out: Pixels) -> None:
        region = self.read(box.x, box.y, level=box.level, width=box.width, height=box.height)
        shrink_into(region, resample=resample, out=out)

    def close(self) -> None:
        if self._slide is not None:
            self._slide.close()
        self._slide = None

    def _opened(self) -> openslide.OpenSlide:
        """The slide, opened again if it was closed."""
        if self._slide is None:
            try:
                self._slide = openslide.OpenSlide(str(self._path))
            except openslide.OpenSlideError as error:
                detail = f"{self._path.name}: {_line(error)}"
                raise SlideError(SkipReason.UNREADABLE, detail) from error
        return self._slide


def _info(slide: openslide.OpenSlide, path: Path) -> SlideInfo:
    properties = slide.properties
    width, height = slide.dimensions
    vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")
    scale = _scale(properties, vendor, path)
    return SlideInfo(
        vendor=vendor,
        width=width,
        height=height,
        level_downsamples=tuple(slide.level_downsamples),
        mpp_x=scale.mpp_x,
        mpp_y=scale.mpp_y,
        mpp_source=scale.source,
        objective_power=_number(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)),
        level_tiles=tuple(_tile(properties, level) for level in range(slide.level_count)),
        bounds_x=int(properties.get(openslide.PROPERTY_NAME_BOUNDS_X, 0)),
        bounds_y=int(properties.get(openslide.PROPERTY_NAME_BOUNDS_Y, 0)),
        bounds_width=int(properties.get(openslide.PROPERTY_NAME_BOUNDS_WIDTH, width)),
        bounds_height=int(properties.get(openslide.PROPERTY_NAME_BOUNDS_HEIGHT, height)),
        reader=NAME,
        reader_version=f"{openslide.__library_version__}/{openslide.__version__}",
        scale_doubt=scale.doubt,
    )


def _scale(properties: Mapping[str, str], vendor: str, path: Path) -> FoundScale:
    """What the properties state; of a plain TIFF, what the file itself does (OME-XML with it)."""
    if vendor == _GENERIC:
        try:
            with open_tiff(path) as tiff:
                return tiff_scale(tiff)
        except Exception as error:  # tifffile raises what it likes on broken headers
            detail = " ".join(str(error).split()) or type(error).__name__
            raise SlideError(SkipReason.UNREADABLE, f"{path.name}: {detail}") from error
    mpp_x = _number(properties.get(openslide.PROPERTY_NAME_MPP_X))
    mpp_y = _number(properties.get(openslide.PROPERTY_NAME_MPP_Y))
    if mpp_x is None or mpp_y is None:
        return FoundScale()
    source = f"{vendor}.{_SCALE_KEYS.get(vendor, 'openslide.mpp-x')}"
    return found_scale([StatedScale(mpp_x, mpp_y, source)])


def _number(text: str | None) -> float | None:
    """A positive number, or None."""
    try:
        value = float(text) if text is not None else 0.0
    except ValueError:
        return None
    return value if value > 0 else None


def _tile(properties: Mapping[str, str], level: int) -> tuple[int, int] | None:
    width = _number(properties.get(f"openslide.level[{level}].tile-width"))
    height = _number(properties.get(f"openslide.level[{level}].tile-height"))
    return (int(width), int(height)) if width and height else None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
