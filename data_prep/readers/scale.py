"""What a scale tag is worth: one rule for all readers.

A file may state its scale in several places. They are asked in the order of how deliberately they
were written (OME-XML, a vendor's description, ImageJ's unit, resolution tags), and the first that
a microscope can have counts. Programs that know no scale write that of a printer (72 dpi is
353 um/px) or of nothing (one pixel per centimetre): such a statement is a doubt, told to whoever
must then give the scale, and never a scale.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import tifffile

from histodiff.data_prep.readers.ome import OmeImage, micrometres, ome_image

LEAST_MPP = 0.01
"""Finest microns per pixel that are believed."""
MOST_MPP = 200.0
"""Coarsest that is believed of who means a scale: that of an overview, finer than 96 dpi."""
MOST_PRINTED_MPP = 10.0
"""Coarsest that is believed of resolution tags, which printers have too; it is 2540 dpi."""

_INCH, _CENTIMETRE = 2, 3
_UM_PER_UNIT = {_INCH: 25_400.0, _CENTIMETRE: 10_000.0}
_NUMBER = r"([0-9]+(?:[.,][0-9]+)?(?:[eE][+-]?[0-9]+)?)"  # a comma in some locales


@dataclass(frozen=True)
class StatedScale:
    """Microns per pixel as one place of a file states them."""

    mpp_x: float
    mpp_y: float
    source: str
    """The place, such as ``aperio.MPP``."""
    most: float = MOST_MPP
    """Coarsest that is believed of it."""

    @property
    def is_believed(self) -> bool:
        """Whether a microscope can have it."""
        return all(LEAST_MPP <= each <= self.most for each in (self.mpp_x, self.mpp_y))


@dataclass(frozen=True)
class FoundScale:
    """What a file's statements come to."""

    mpp_x: float | None = None
    mpp_y: float | None = None
    source: str = "none"
    doubt: str = ""
    """What is stated and not believed; empty where there is a scale."""


def found_scale(stated: Iterable[StatedScale | None]) -> FoundScale:
    """The first statement that is believed; else what is doubted about the first of them."""
    doubt = ""
    for each in stated:
        if each is None:
            continue
        if each.is_believed:
            return FoundScale(each.mpp_x, each.mpp_y, each.source)
        doubt = doubt or (
            f"{each.source} says {each.mpp_x:.4g} x {each.mpp_y:.4g} um/px, which is not believed"
            f" ({LEAST_MPP:g} to {each.most:g} is)"
        )
    return FoundScale(doubt=doubt)


def tiff_scale(tiff: tifffile.TiffFile) -> FoundScale:
    """The scale of the first image of a TIFF."""
    page = tiff.pages.first
    description = page.description if tiff.is_svs else ""
    return found_scale(
        (
            _ome(ome_image(tiff.ome_metadata)),
            _aperio(description),
            _imagej(page, tiff.imagej_metadata),
            resolution_scale(page),
        )
    )


def aperio_numbers(description: str) -> dict[str, float]:
    """Positive numbers of an Aperio description: ``... |AppMag = 20|MPP = 0.4990|...``."""
    found = re.findall(rf"\|\s*(MPP|AppMag)\s*=\s*{_NUMBER}", description)
    numbers = {key: float(text.replace(",", ".")) for key, text in found}
    return {key: value for key, value in numbers.items() if value > 0 and math.isfinite(value)}


def resolution_scale(page: Any) -> StatedScale | None:
    """What the resolution tags of a TIFF page state; their unit is the inch unless they name it."""
    unit = page.tags.get("ResolutionUnit")
    um = _UM_PER_UNIT.get(_INCH if unit is None else _whole(unit.value))
    per_unit = _pixels_per_unit(page)
    if um is None or per_unit is None:
        return None
    return _printed(um / per_unit[0], um / per_unit[1], "tiff.XResolution")


def dpi_scale(dpi: tuple[Any, Any] | None, source: str) -> StatedScale | None:
    """What the dots per inch of a plain image state."""
    values = [float(each) for each in dpi or ()]
    if len(values) != 2 or not all(value > 0 and math.isfinite(value) for value in values):
        return None
    return _printed(_UM_PER_UNIT[_INCH] / values[0], _UM_PER_UNIT[_INCH] / values[1], source)


def _printed(mpp_x: float, mpp_y: float, source: str) -> StatedScale:
    return StatedScale(mpp_x, mpp_y, source, MOST_PRINTED_MPP)


def _ome(image: OmeImage | None) -> StatedScale | None:
    if image is None or image.mpp is None:
        return None
    return StatedScale(*image.mpp, "ome.PhysicalSizeX")


def _aperio(description: str) -> StatedScale | None:
    mpp = aperio_numbers(description).get("MPP")
    return StatedScale(mpp, mpp, "aperio.MPP") if mpp else None


def _imagej(page: Any, metadata: dict[str, Any] | None) -> StatedScale | None:
    """ImageJ names the unit of the resolution tags in its description."""
    um = micrometres(1.0, str((metadata or {}).get("unit", "")).replace("\\u00B5", "\u00b5"))
    per_unit = _pixels_per_unit(page)
    if um is None or per_unit is None:
        return None
    return StatedScale(um / per_unit[0], um / per_unit[1], "imagej.unit")


def _pixels_per_unit(page: Any) -> tuple[float, float] | None:
    tags = [page.tags.get("XResolution"), page.tags.get("YResolution")]
    found = [_ratio(tag.value) for tag in tags if tag is not None]
    across, down = found if len(found) == 2 else (None, None)
    return (across, down) if across and down else None


def _ratio(value: Any) -> float | None:
    """A positive rational, or None for what is no such thing."""
    try:
        top, bottom = value
        ratio = float(top) / float(bottom)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return ratio if ratio > 0 and math.isfinite(ratio) else None


def _whole(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0
