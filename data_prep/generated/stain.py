"""From densities of stains to RGB (Beer-Lambert), with the variation that laboratories have."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from histodiff.data_prep.generated.fields import Field, smooth_noise

_HAEMATOXYLIN = np.array([0.5626, 0.7201, 0.4062])
_EOSIN = np.array([0.2159, 0.8012, 0.5581])
"""Optical density per unit of stain in R, G, B; Macenko et al. 2009."""


@dataclass(frozen=True)
class Stain:
    """Colours of one slide."""

    haematoxylin: npt.NDArray[np.float64]
    eosin: npt.NDArray[np.float64]
    glass: npt.NDArray[np.float64]
    """RGB of the empty slide, 0..255."""
    focus_px: float
    """Blur of the optics."""


def drawn_stain(rng: np.random.Generator) -> Stain:
    """The stain of one slide: hue, strength, glass and focus vary between slides."""
    return Stain(
        haematoxylin=_varied(rng, _HAEMATOXYLIN) * rng.uniform(0.8, 1.25),
        eosin=_varied(rng, _EOSIN) * rng.uniform(0.72, 1.3),
        glass=np.array([243.0, 241.0, 243.0]) + rng.normal(0, 2.0, 3),
        focus_px=float(rng.uniform(0.5, 0.9)),
    )


def stained_rgb(
    rng: np.random.Generator, eosin: Field, haematoxylin: Field, stain: Stain
) -> npt.NDArray[np.uint8]:
    """Pixels uint8 ``(H, W, 3)`` of densities ``(H, W)``.

    Beer-Lambert: ``I = I0 * 10^-(e E + h H)`` for every colour.
    """
    height, width = eosin.shape
    light = smooth_noise(rng, height=height, width=width, scale_px=700)
    light *= np.float32(0.006)
    light += rng.standard_normal((height, width), dtype=np.float32) * np.float32(0.012)  # grain
    light += 1
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    for channel in range(3):
        values = eosin * np.float32(-np.log(10) * stain.eosin[channel])
        values += haematoxylin * np.float32(-np.log(10) * stain.haematoxylin[channel])
        np.exp(values, out=values)
        values *= light
        values *= np.float32(stain.glass[channel])
        pixels[..., channel] = np.clip(values, 0, 255, out=values)
    return np.array(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(stain.focus_px)))


def _varied(
    rng: np.random.Generator, direction: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    moved = direction * rng.normal(1, 0.09, 3)
    return np.asarray(moved / np.linalg.norm(moved) * np.linalg.norm(direction))
