"""Where the tissue is, on a small picture of a slide: a mask for tissue and one for artefacts.

Brightfield only: a slide without a bright background (fluorescence) has no tissue here. Tissue is
what differs in colour from the slide's own background, by Otsu's threshold inside fixed limits, so
that a picture full of tissue is not cut in half. Pen, black padding and black ink are artefacts,
see `artefacts`.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field
from skimage import filters

from histodiff.config import Config
from histodiff.data_prep.tissue.artefacts import black_mask, pen_mask
from histodiff.data_prep.tissue.masks import (
    Floats,
    Mask,
    closed,
    local_mean,
    luminance_and_chroma,
    opened,
    smoothed,
    without_holes,
    without_specks,
)

_DISTANCE_LIMITS = (9.0, 18.0)
"""Limits of Otsu's threshold on the distance to the background, in 8-bit grey values."""
_WHITE = np.array([244.0, 244.0, 244.0], np.float32)


class TissueConfig(Config):
    """Rules of the tissue mask."""

    mask_mpp: float = Field(default=4.0, gt=0)
    """Microns per pixel of the picture that is masked; coarser on very large slides."""
    min_object_um2: float = Field(default=10_000, ge=0)
    """Specks below this area are not tissue."""
    max_hole_um2: float = Field(default=20_000, ge=0)
    """Holes below this area (lumens, fat cells) belong to the tissue around them."""
    min_fraction: float = Field(default=0.5, ge=0, le=1)
    """Least fraction of tissue in a patch of a slide."""


@dataclass(frozen=True)
class SlideMask:
    """Masks over a small picture, boolean ``(H, W)``."""

    tissue: Mask
    pen: Mask
    black: Mask

    @property
    def artefact(self) -> Mask:
        """Pen and black together."""
        return self.pen | self.black


def slide_mask(pixels: npt.NDArray[np.uint8], *, mpp: float, config: TissueConfig) -> SlideMask:
    """Tissue and artefacts of a picture, uint8 ``(H, W, 3)`` at ``mpp`` microns per pixel."""
    pen, black = pen_mask(pixels), black_mask(pixels)
    artefact = pen | black
    if not is_brightfield(pixels):
        return SlideMask(tissue=np.zeros_like(artefact), pen=pen, black=black)
    tissue = tissue_colour(pixels) & ~artefact
    tissue = opened(closed(tissue, 2), 1)
    pixel_um2 = mpp**2
    tissue = without_specks(tissue, max(1, round(config.min_object_um2 / pixel_um2)))
    tissue = without_holes(tissue, max(1, round(config.max_hole_um2 / pixel_um2)))
    return SlideMask(tissue=tissue & ~artefact, pen=pen, black=black)


def is_brightfield(pixels: npt.NDArray[np.uint8]) -> bool:
    """Whether light passed through the slide: bright somewhere, and not mostly dark."""
    luminance = pixels.mean(axis=-1)
    mostly_dark = (pixels.max(axis=-1) < 60).mean() > 0.5 and (luminance > 150).mean() < 0.1
    return bool(np.percentile(luminance, 98) >= 120 and not mostly_dark)


def tissue_colour(pixels: npt.NDArray[np.uint8]) -> Mask:
    """Pixels whose colour is not the background's, boolean ``(H, W)``."""
    smooth = smoothed(pixels)
    luminance, chroma = luminance_and_chroma(smooth)
    below = np.float32(0)
    for colour, glass in zip(
        cv2.split(smooth), _glass_colour(smooth, luminance, chroma), strict=True
    ):
        below = below + np.maximum(glass - colour, 0)
    distance = below / 3 + chroma / 2
    low, high = _DISTANCE_LIMITS
    flat = float(np.ptp(distance)) < 1e-6
    threshold = low if flat else float(np.clip(filters.threshold_otsu(distance), low, high))
    return np.asarray((distance > threshold) & ~_blush(luminance))


def _blush(luminance: Floats) -> Mask:
    """Pale areas without texture: stain on bare glass."""
    mean = local_mean(luminance, 4)
    variance = local_mean(luminance**2, 4) - mean**2
    return np.asarray((luminance > 170) & (variance < 2.5**2))


def _glass_colour(pixels: npt.NDArray[np.uint8], luminance: Floats, chroma: Floats) -> Floats:
    """Colour of the bare glass: median of the bright colourless pixels, or a usual white.

    Pure white is what scanners fill in around the scanned part, brighter than glass.
    """
    glass = (luminance > 195) & (luminance < 252) & (chroma < 22)
    if glass.mean() < 0.01:
        return _WHITE
    brightest = luminance[glass] >= np.percentile(luminance[glass], 50)
    return np.asarray(np.median(pixels[glass][brightest], axis=0), np.float32)


def rectangle_fractions(
    mask: Mask, corners: npt.NDArray[np.int64], *, side_w: int, side_h: int
) -> npt.NDArray[np.float64]:
    """Fraction of the mask in rectangles at corners ``(n, 2)``, (x, y); clipped at the border."""
    summed = np.pad(np.cumsum(np.cumsum(mask, axis=0), axis=1), ((1, 0), (1, 0)))
    height, width = mask.shape
    left, top = np.clip(corners[:, 0], 0, width - 1), np.clip(corners[:, 1], 0, height - 1)
    right, bottom = np.minimum(left + side_w, width), np.minimum(top + side_h, height)
    inside = summed[bottom, right] - summed[top, right] - summed[bottom, left] + summed[top, left]
    return np.asarray(inside / ((right - left) * (bottom - top)))
