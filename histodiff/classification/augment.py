"""Augmentation that is right for histology: symmetries of the square, colours and stains.

There is no up or down on a slide, and stains differ in brightness and saturation. Every arm of a
comparison gets the same, real and added images alike. Every draw is a function of ``(seed, global
sample index)``. Legend: B batch, C channels, H height, W width.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from histodiff.classification.rand_augment import RandAugmentConfig, rand_augmented
from histodiff.classification.stain import stain_jittered
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
    hed: float = Field(default=0.0, ge=0, lt=1)
    """Largest change of haematoxylin, eosin and DAB, each by itself (Tellez et al. 2018: 0.05 is
    light, 0.2 strong); 0 is off."""
    rand_augment: RandAugmentConfig | None = None
    """A few changes drawn from many (RandAugment, with operations for tissue); null is off."""


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
    pixels = torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2).float()
    if config.rand_augment is not None:
        pixels = rand_augmented(pixels, config=config.rand_augment, seed=seed, indices=indices)
    if config.hed:
        stains_B6 = torch.from_numpy(_stain_changes(seed, indices)).to(device)
        pixels = stain_jittered(pixels, strength=config.hed, changes_B6=stains_B6)
    return jittered(
        pixels, config=config, changes_B6=torch.from_numpy(np.stack(changes)).to(device)
    )


def _stain_changes(seed: int, indices: Sequence[int]) -> npt.NDArray[np.float32]:
    """Six numbers in [-1, 1] for every image."""
    drawn = [
        generator_for(seed, "augment-stain", index).uniform(-1.0, 1.0, size=NUM_CHANGES)
        for index in indices
    ]
    return np.stack(drawn).astype(np.float32)


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
