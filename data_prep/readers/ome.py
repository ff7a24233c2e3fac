"""What OME-XML says of its first image: the scale, and what its channels are."""

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

_MICRONS = {
    "um": 1.0, "\u00b5m": 1.0, "\u03bcm": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0,
    "nm": 1e-3, "pm": 1e-6, "\u00c5": 1e-4, "mm": 1e3, "cm": 1e4, "dm": 1e5, "m": 1e6,
    "in": 25_400.0, "inch": 25_400.0, "thou": 25.4, "mil": 25.4, "pt": 25_400.0 / 72,
}  # fmt: skip
_PRIMARIES = ("red", "green", "blue")
_COLOURS = {0xFF0000: "red", 0x00FF00: "green", 0x0000FF: "blue"}


@dataclass(frozen=True)
class OmeImage:
    """The first image."""

    mpp: tuple[float, float] | None
    """Microns per pixel (x, y)."""
    channels: tuple[str, ...]
    """What each channel is called; empty for one without a name."""
    colours: tuple[str, ...]
    """``red``, ``green`` or ``blue`` of each channel, empty for others and for none."""


def ome_image(metadata: str | None) -> OmeImage | None:
    """The first image of OME-XML; None where there is none, or the XML is broken."""
    if not metadata:
        return None
    try:
        root = ElementTree.fromstring(metadata)
    except (ElementTree.ParseError, ValueError):
        return None
    pixels = next((node for node in root.iter() if node.tag.endswith("}Pixels")), None)
    if pixels is None:
        return None
    channels = [node for node in pixels.iter() if node.tag.endswith("}Channel")]
    return OmeImage(
        mpp=_mpp(pixels.attrib),
        channels=tuple(node.attrib.get("Name", "").strip() for node in channels),
        colours=tuple(_colour(node.attrib.get("Color", "")) for node in channels),
    )


def rgb_order(image: OmeImage) -> tuple[int, int, int] | None:
    """Which of three channels are red, green and blue; None where they are called otherwise.

    Names count before colours; channels with neither are in this order.
    """
    named = [_primary(name) for name in image.channels]
    for found in (named, list(image.colours)):
        if sorted(found) == sorted(_PRIMARIES):
            return (found.index("red"), found.index("green"), found.index("blue"))
    unnamed = not any(map(_is_a_name, image.channels)) and not any(image.colours)
    return (0, 1, 2) if unnamed else None


def micrometres(number: float, unit: str) -> float | None:
    """A length in microns; None where it is not positive or the unit is no length."""
    length = number * _MICRONS.get(unit.strip(), 0.0)
    return length if length > 0 and math.isfinite(length) else None


def _mpp(attributes: dict[str, str]) -> tuple[float, float] | None:
    if "PhysicalSizeX" not in attributes:
        return None
    x = _length(attributes["PhysicalSizeX"], attributes.get("PhysicalSizeXUnit", "um"))
    y = x
    if "PhysicalSizeY" in attributes:
        y = _length(attributes["PhysicalSizeY"], attributes.get("PhysicalSizeYUnit", "um"))
    return (x, y) if x and y else None


def _length(number: str, unit: str) -> float | None:
    try:
        return micrometres(float(number), unit)
    except ValueError:
        return None


def _primary(name: str) -> str:
    """The primary that a channel is named after, such as ``R`` or ``Red``."""
    found = [each for each in _PRIMARIES if name.lower() in (each, each[0])]
    return found[0] if found else name.lower()


def _is_a_name(name: str) -> bool:
    """Whether somebody gave it: programs number channels."""
    letters = "".join(character for character in name.lower() if character.isalpha())
    return letters not in ("", "c", "ch", "channel")


def _colour(text: str) -> str:
    """The primary that an OME colour is (RGBA as a signed number), or nothing."""
    try:
        return _COLOURS.get((int(text) & 0xFFFFFFFF) >> 8, "")
    except ValueError:
        return ""
