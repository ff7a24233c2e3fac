"""What level 0 of a slide shows, as a digest: the same pixels in another container are equal."""

import hashlib

import numpy as np

from histodiff.data_prep.readers.reader import Box, SlideReader
from histodiff.errors import SlideError

_SPOTS = 5
"""Spots along each side."""
_SPOT_PX = 32
_LEAST_SHOWN = 3
"""Fewest spots that must show anything: glass that was painted over is the same everywhere."""


def level_digest(reader: SlideReader) -> str:
    """``level0-sha256:<hex>`` of the size and of pixels all over level 0.

    Empty where too little is shown to tell slides apart, or a spot cannot be decoded.
    """
    info = reader.info
    width, height = min(_SPOT_PX, info.width), min(_SPOT_PX, info.height)
    places = (np.arange(_SPOTS) + 0.5) / _SPOTS
    boxes = [
        Box(int(x * (info.width - width)), int(y * (info.height - height)), 0, width, height)
        for y in places
        for x in places
    ]
    digest = hashlib.sha256(f"{info.width}x{info.height}".encode())
    shown = 0
    try:
        reader.prepare(boxes)
        for box in boxes:
            pixels = reader.read(box.x, box.y, level=0, width=width, height=height)
            shown += int(pixels.min() != pixels.max())
            digest.update(pixels.tobytes())
    except SlideError:
        return ""
    return f"level0-sha256:{digest.hexdigest()}" if shown >= _LEAST_SHOWN else ""
