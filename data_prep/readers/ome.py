"""The scale in OME-XML."""

import xml.etree.ElementTree as ElementTree

_MICRONS = {"um": 1.0, "\u00b5m": 1.0, "\u03bcm": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}


def ome_scale(metadata: str | None) -> tuple[float, float] | None:
    """Microns per pixel (x, y) of the first image of OME-XML, or None."""
    if not metadata:
        return None
    pixels = next(
        (node for node in ElementTree.fromstring(metadata).iter() if node.tag.endswith("}Pixels")),
        None,
    )
    if pixels is None or "PhysicalSizeX" not in pixels.attrib:
        return None
    x = _microns(pixels.attrib["PhysicalSizeX"], pixels.attrib.get("PhysicalSizeXUnit", "um"))
    y = _microns(
        pixels.attrib.get("PhysicalSizeY", pixels.attrib["PhysicalSizeX"]),
        pixels.attrib.get("PhysicalSizeYUnit", "um"),
    )
    return (x, y) if x and y else None


def _microns(number: str, unit: str) -> float | None:
    factor = _MICRONS.get(unit)
    return float(number) * factor if factor and float(number) > 0 else None
