"""What is on a slide besides tissue, on a small picture of it: pen, black, bare glass.

A core by colours that no usual stain has at this scale, and around it what is fainter and hangs
together with it: ink runs thin at the edges of a stroke and lets tissue shine through. Without a
core nothing is found, so that a faint blue area stays haematoxylin. Made for pictures at about
4 um/px; much coarser ones miss thin strokes.
"""

import numpy as np
import numpy.typing as npt

from histodiff.data_prep.tissue.masks import (
    Mask,
    closed,
    connected,
    dilated,
    hue_saturation_value,
    luminance_and_chroma,
    opened,
)

Picture = npt.NDArray[np.uint8]
"""uint8 ``(H, W, 3)``."""

_WHITE_LUMINANCE, _WHITE_CHROMA = 200, 25


def pen_mask(pixels: Picture) -> Mask:
    """Red, green and blue pen, boolean ``(H, W)``."""
    hue, saturation, value = hue_saturation_value(pixels)
    red = ((hue < 12) | (hue > 348)) & (saturation > 0.72) & (value > 0.45)
    faint_red = ((hue < 12) | (hue > 344)) & (saturation > 0.6) & (value > 0.45)
    green = (hue > 80) & (hue < 192) & (saturation > 0.3) & (value < 0.85)
    faint_green = (hue > 120) & (hue < 215) & (saturation > 0.12) & (value < 0.95)
    blue = (hue >= 192) & (hue < 250) & (saturation > 0.6) & (value > 0.25)
    faint_blue = (hue >= 192) & (hue < 225) & (saturation > 0.4) & (value > 0.35)
    pen = _grown(opened(red, 1), faint_red)
    pen |= _grown(opened(green, 1), faint_green)
    # dense haematoxylin is blue too, but never over so wide an area
    pen |= _grown(opened(blue, 3), faint_blue)
    return dilated(pen, 3)


def black_mask(pixels: Picture) -> Mask:
    """Black pen, ink and padding, boolean ``(H, W)``."""
    value = pixels.max(axis=-1) / 255
    # single nuclei are dark too, but thinner than this
    core = opened(value < 0.28, 4)
    return dilated(connected(core, opened(value < 0.42, 3)), 2)


def white_mask(pixels: Picture) -> Mask:
    """Bare glass, lumens and fat: bright and without colour, boolean ``(H, W)``."""
    luminance, chroma = luminance_and_chroma(pixels)
    return np.asarray((luminance > _WHITE_LUMINANCE) & (chroma < _WHITE_CHROMA))


def _grown(core: Mask, faint: Mask) -> Mask:
    """``core`` and the faint ink that hangs together with it, narrow gaps between them closed."""
    if not core.any():
        return core  # most slides have no pen
    return connected(core, opened(closed(faint | core, 1), 1))
