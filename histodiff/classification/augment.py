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
from histodiff.runtime import generators_for
from histodiff.runtime.symmetries import square_symmetry

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
    rngs = list(generators_for(seed, "augment", indices))
    which_B = np.array([rng.integers(8) for rng in rngs])
    changes_B6 = np.stack([rng.uniform(-1.0, 1.0, size=NUM_CHANGES) for rng in rngs])
    images = turned(pixels_BHWC, which_B) if config.symmetries else pixels_BHWC
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float()
    if config.rand_augment is not None:
        pixels = rand_augmented(pixels, config=config.rand_augment, seed=seed, indices=indices)
    if config.hed:
        stains_B6 = torch.from_numpy(_stain_changes(seed, indices)).to(device)
        pixels = stain_jittered(pixels, strength=config.hed, changes_B6=stains_B6)
    return jittered(
        pixels, config=config, changes_B6=torch.from_numpy(changes_B6).to(device, torch.float32)
    )


def _stain_changes(seed: int, indices: Sequence[int]) -> npt.NDArray[np.float32]:
    """Six numbers in [-1, 1] for every image."""
    drawn = [
        rng.uniform(-1.0, 1.0, size=NUM_CHANGES)
        for rng in generators_for(seed, "augment-stain", indices)
    ]
    return np.stack(drawn).astype(np.float32)


def jittered(pixels_BCHW: Tensor, *, config: AugmentConfig, changes_B6: Tensor) -> Tensor:
    """Colours changed by six numbers in [-1, 1]: saturation, contrast, brightness, R, G, B.

    The result lies in memory as the images do, whose layout decides how their mean is rounded;
    between, colours are planes, where what differs by colour or pixel takes a quarter of the time.
    """
    factor = changes_B6.reshape(-1, NUM_CHANGES, 1, 1)
    planes_BCHW = pixels_BCHW.contiguous()
    grey_B1HW = planes_BCHW.mean(dim=1, keepdim=True)
    pixels = planes_BCHW - grey_B1HW
    pixels.mul_(1 + config.saturation * factor[:, 0:1]).add_(grey_B1HW)
    mean_B111 = _laid_out(pixels, like=pixels_BCHW).mean(dim=(1, 2, 3), keepdim=True)
    pixels.sub_(mean_B111).mul_(1 + config.contrast * factor[:, 1:2]).add_(mean_B111)
    channels_BC11 = (1 + config.brightness * factor[:, 2:3]) * (1 + config.stain * factor[:, 3:6])
    return _laid_out(pixels.mul_(channels_BC11).clamp_(0.0, 255.0), like=pixels_BCHW)


def _laid_out(values: Tensor, *, like: Tensor) -> Tensor:
    """The values, with the strides of ``like``."""
    return values if values.stride() == like.stride() else torch.empty_like(like).copy_(values)


def turned(
    pixels_BHWC: npt.NDArray[np.uint8], which_B: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint8]:
    """Square images, each under its own symmetry of the square (``square_symmetry``)."""
    images = np.empty_like(pixels_BHWC)
    for which in range(8):
        rows = np.flatnonzero(which_B == which)
        images[rows] = square_symmetry(pixels_BHWC[rows], which)
    return images
