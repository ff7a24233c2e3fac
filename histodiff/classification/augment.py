"""Augmentation that is right for histology: symmetries of the square and a light colour jitter.

There is no up or down on a slide, and stains differ in brightness and saturation. Every draw is a
function of ``(seed, global sample index)``. Legend: B batch, C channels, H height, W width.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from histodiff.config import Config
from histodiff.runtime import generator_for

NUM_CHANGES = 6


class AugmentConfig(Config):
    """What may happen to a training image."""

    symmetries: bool = True
    """One of the eight symmetries of the square."""
    saturation: float = Field(default=0.1, ge=0, lt=1)
    """Largest relative change of saturation about the pixel's grey value."""
    contrast: float = Field(default=0.1, ge=0, lt=1)
    """Largest relative change of contrast about the image's mean."""
    brightness: float = Field(default=0.1, ge=0, lt=1)
    """Largest relative change of brightness."""
    stain: float = Field(default=0.05, ge=0, lt=1)
    """Largest relative change of each colour channel by itself."""


def augmented(
    pixels_BHWC: npt.NDArray[np.uint8],
    *,
    config: AugmentConfig,
    seed: int,
    indices: Sequence[int],
    device: str,
) -> Tensor:
    """The images, each changed at random by its global index: float32 BCHW in 0..255."""
    images, changes = [], []
    for image_HWC, index in zip(pixels_BHWC, indices, strict=True):
        rng = generator_for(seed, "augment", index)
        which = int(rng.integers(8))
        images.append(symmetry(image_HWC, which) if config.symmetries else image_HWC)
        changes.append(rng.uniform(-1.0, 1.0, size=NUM_CHANGES).astype(np.float32))
    pixels_BCHW = torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2)
    return jittered(
        pixels_BCHW.float(),
        config=config,
        changes_B6=torch.from_numpy(np.stack(changes)).to(device),
    )


def jittered(pixels_BCHW: Tensor, *, config: AugmentConfig, changes_B6: Tensor) -> Tensor:
    """Colours changed by six numbers in [-1, 1]: saturation, contrast, brightness, R, G, B."""
    factor = changes_B6.reshape(-1, NUM_CHANGES, 1, 1)
    grey_B1HW = pixels_BCHW.mean(dim=1, keepdim=True)
    pixels = grey_B1HW + (pixels_BCHW - grey_B1HW) * (1 + config.saturation * factor[:, 0:1])
    mean_B111 = pixels.mean(dim=(1, 2, 3), keepdim=True)
    pixels = mean_B111 + (pixels - mean_B111) * (1 + config.contrast * factor[:, 1:2])
    channels_BC11 = (1 + config.brightness * factor[:, 2:3]) * (1 + config.stain * factor[:, 3:6])
    return (pixels * channels_BC11).clamp(0.0, 255.0)


def symmetry(image_HWC: npt.NDArray[np.uint8], which: int) -> npt.NDArray[np.uint8]:
    """One of the eight symmetries: ``which % 4`` quarter turns, then a flip from 4 on."""
    turned = np.rot90(image_HWC, which % 4, axes=(0, 1))
    return turned[:, ::-1] if which >= 4 else turned
