"""How usable patches are: pen, black and bare glass from a small picture, focus from the pixels.

All scores are fractions or ratios between 0 and 1, computed on the CPU and the same every time.
The fractions come from masks of the whole slide at low resolution; sharpness needs a patch's own
pixels, because what is out of focus by a few microns cannot be seen at 4 um/px.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from histodiff.config import Config
from histodiff.data_prep.readers.thumbnails import Thumbnail
from histodiff.data_prep.tissue.artefacts import white_mask
from histodiff.data_prep.tissue.masks import Mask
from histodiff.data_prep.tissue.tissue_mask import SlideMask, rectangle_fractions

Scores = npt.NDArray[np.float64]

SUGGESTED_MIN_SHARPNESS = 0.06
"""Between what is sharp and what is blurred by two pixels (sigma) or more, whatever the organ."""
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_NOISE = 8.0
"""Energy, in grey values squared, that JPEG and rounding bring into a patch without any detail."""
_LARGEST_RATIO = 8.0
"""Laplacian over gradient energy of a chessboard, the finest pattern that pixels can hold."""


class QualityConfig(Config):
    """Which patches of a slide are good enough."""

    max_pen_fraction: float = Field(default=0.05, ge=0, le=1)
    """Largest fraction of red, green or blue pen."""
    max_black_fraction: float = Field(default=0.05, ge=0, le=1)
    """Largest fraction of black pen, ink or padding."""
    max_white_fraction: float = Field(default=0.7, ge=0, le=1)
    """Largest fraction of bare glass, lumens and fat: bright and without colour."""
    focus_mpp: float | None = Field(default=None, gt=0)
    """Microns per pixel at which sharpness is measured, such as 1.0; null: it is not measured."""
    min_sharpness: float | None = Field(default=None, ge=0, le=1)
    """Least sharpness of a patch's pixels, null for any; 0.06 finds a blur of two pixels or more.

    Sharpness says how much of the detail that its pixels could hold a patch has: 1 is a chessboard
    of single pixels, sharp tissue has 0.1 to 0.4. It needs every patch's pixels, so it costs time.
    """

    @model_validator(mode="after")
    def _sharpness_has_a_scale(self) -> "QualityConfig":
        if self.min_sharpness is not None and self.focus_mpp is None:
            raise ValueError("min_sharpness needs focus_mpp, the scale it is measured at; give 1.0")
        return self


@dataclass(frozen=True)
class PatchScores:
    """Fractions of patches, each ``(n,)``."""

    tissue: Scores
    pen: Scores
    black: Scores
    white: Scores

    def take(self, chosen: Mask) -> "PatchScores":
        """The scores of some patches, ``chosen`` boolean ``(n,)``."""
        return PatchScores(
            self.tissue[chosen], self.pen[chosen], self.black[chosen], self.white[chosen]
        )


def patch_scores(
    picture: Thumbnail,
    mask: SlideMask,
    corners: npt.NDArray[np.int64],
    *,
    side_w: float,
    side_h: float,
) -> PatchScores:
    """What patches consist of, measured on a small picture of their slide.

    Args:
        picture: The slide.
        mask: Masks of ``picture``.
        corners: Top-left corners of the patches ``(n, 2)`` as (x, y) in level-0 pixels.
        side_w: Width of a patch in level-0 pixels.
        side_h: Height of a patch in level-0 pixels.
    """
    places = np.round((corners - [picture.x, picture.y]) / picture.downsample).astype(np.int64)
    width = max(1, round(side_w / picture.downsample))
    height = max(1, round(side_h / picture.downsample))

    def fractions(part: Mask) -> Scores:
        return rectangle_fractions(part, places, side_w=width, side_h=height)

    return PatchScores(
        tissue=fractions(mask.tissue),
        pen=fractions(mask.pen),
        black=fractions(mask.black),
        white=fractions(white_mask(picture.pixels)),
    )


def broken_rules(
    scores: PatchScores, sharpness: Scores, unreadable: Mask, *, config: QualityConfig
) -> list[str | None]:
    """The first rule that each patch breaks, None where it keeps all.

    Args:
        scores: What the patches consist of.
        sharpness: Their focus ``(n,)``, NaN where it was not measured.
        unreadable: Which patches cannot be decoded ``(n,)``.
        config: The rules.
    """
    least = 0.0 if config.min_sharpness is None else config.min_sharpness
    broken = {
        "unreadable": unreadable,
        "pen": scores.pen > config.max_pen_fraction,
        "black": scores.black > config.max_black_fraction,
        "white": scores.white > config.max_white_fraction,
        "blurred": sharpness < least,
    }
    names = [*broken, None]
    rules = np.stack(list(broken.values()))
    first = np.where(rules.any(axis=0), rules.argmax(axis=0), len(broken))
    return [names[number] for number in first]


def sharpness(pixels_NHWC: npt.NDArray[np.uint8]) -> Scores:
    """How fine the detail of patches is, ``(n,)`` between 0 (none) and 1 (single pixels).

    The energy of the Laplacian over that of the gradient, on luminance: the mean squared frequency
    of a patch's edges. Both grow with contrast, so pale tissue scores like dark tissue; and as a
    Gaussian takes more from high frequencies than from low ones, blur can only lower the score.
    What compression leaves in a patch without detail is taken off, so that it is not called sharp.
    """
    return np.array([_sharpness(pixels_HWC) for pixels_HWC in pixels_NHWC], dtype=np.float64)


def _sharpness(pixels_HWC: npt.NDArray[np.uint8]) -> float:
    luminance = pixels_HWC.astype(np.float32) @ _LUMA
    centre = luminance[1:-1, 1:-1]
    around = luminance[:-2, 1:-1] + luminance[2:, 1:-1] + luminance[1:-1, :-2] + luminance[1:-1, 2:]
    laplacian = float(np.mean(np.square(around - 4 * centre), dtype=np.float64))
    down = float(np.mean(np.square(np.diff(luminance, axis=0)), dtype=np.float64))
    across = float(np.mean(np.square(np.diff(luminance, axis=1)), dtype=np.float64))
    return max(0.0, laplacian - _NOISE) / (down + across + _NOISE) / _LARGEST_RATIO
