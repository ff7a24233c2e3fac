"""RandAugment for histology: a few of many changes, at one strength.

Cubuk et al. 2019 (arXiv 1909.13719), with the changes that Faryna et al. 2021 keep for stained
tissue: shapes (turn, shear, shift), brightness, contrast, saturation, sharpness, stains, in place
of solarising, posterising or inverting, which make colours that no slide has. All changes of shape
of an image are one resampling with a reflected border, and come first; colours follow in a fixed
order, so that a batch is changed at once. Legend: B batch, C colours, H height, W width, O
operations.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from histodiff.classification.stain import NUM_CHANGES, stain_jittered
from histodiff.config import Config
from histodiff.runtime import generators_for

SHAPES = ("turn", "shear_x", "shear_y", "shift_x", "shift_y")
COLOURS = ("brightness", "contrast", "saturation", "sharpness", "stain")
OPERATIONS = (*SHAPES, *COLOURS)
_STRONGEST = 10.0
_AT_STRONGEST = {
    "turn": math.pi / 6, "shear_x": 0.3, "shear_y": 0.3, "shift_x": 0.3, "shift_y": 0.3,
    "brightness": 0.5, "contrast": 0.9, "saturation": 0.9, "sharpness": 0.9, "stain": 0.3,
}  # fmt: skip
"""Largest change of each operation: radians, slopes, shares of the side, relative changes."""
_GREY = (0.299, 0.587, 0.114)
_BLUR = ((1.0, 1.0, 1.0), (1.0, 5.0, 1.0), (1.0, 1.0, 1.0))


class RandAugmentConfig(Config):
    """How many changes, and how strong."""

    num_ops: int = Field(default=2, ge=1, le=len(OPERATIONS))
    """Changes of one image."""
    magnitude: float = Field(default=5.0, ge=0, le=_STRONGEST)
    """Strength, of 10."""
    deviation: float = Field(default=0.5, ge=0)
    """Standard deviation of the strength between images."""


def rand_augmented(
    pixels_BCHW: Tensor, *, config: RandAugmentConfig, seed: int, indices: Sequence[int]
) -> Tensor:
    """The images (0..255), each changed at random by its global index."""
    drawn = [_drawn(config, rng) for rng in generators_for(seed, "rand-augment", indices)]
    amount = torch.tensor(
        np.stack([amounts for amounts, _ in drawn]), dtype=torch.float32, device=pixels_BCHW.device
    )
    stains_B6 = torch.tensor(
        np.stack([stains for _, stains in drawn]), dtype=torch.float32, device=pixels_BCHW.device
    )
    return changed(pixels_BCHW, amounts_BO=amount, stains_B6=stains_B6)


def changed(pixels_BCHW: Tensor, *, amounts_BO: Tensor, stains_B6: Tensor) -> Tensor:
    """The images under given changes.

    Args:
        pixels_BCHW: 0..255.
        amounts_BO: Signed amount of each of ``OPERATIONS``; zero leaves an image as it is.
        stains_B6: Directions of the change of stains, in [-1, 1].
    """
    amount = {name: amounts_BO[:, number] for number, name in enumerate(OPERATIONS)}
    pixels = _reshaped(pixels_BCHW, amount)
    brighter, contrast, saturation, sharpness, stain = (
        amount[name].reshape(-1, 1, 1, 1) for name in COLOURS
    )
    pixels = (pixels * (1 + brighter)).clamp(0.0, 255.0)
    weight_C11 = torch.tensor(_GREY, dtype=pixels.dtype, device=pixels.device).reshape(-1, 1, 1)
    grey_B1HW = (pixels * weight_C11).sum(dim=1, keepdim=True)
    mean_B111 = grey_B1HW.mean(dim=(2, 3), keepdim=True)
    pixels = (mean_B111 + (pixels - mean_B111) * (1 + contrast)).clamp(0.0, 255.0)
    grey_B1HW = (pixels * weight_C11).sum(dim=1, keepdim=True)
    pixels = (grey_B1HW + (pixels - grey_B1HW) * (1 + saturation)).clamp(0.0, 255.0)
    smooth = _smoothed(pixels)
    pixels = (smooth + (pixels - smooth) * (1 + sharpness)).clamp(0.0, 255.0)
    restained = stain_jittered(pixels, strength=1.0, changes_B6=stain.flatten(1) * stains_B6)
    return torch.where(stain == 0, pixels, restained)


def _drawn(config: RandAugmentConfig, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Signed amounts of all operations, and directions of the stains."""
    amounts = np.zeros(len(OPERATIONS), np.float32)
    for number in rng.choice(len(OPERATIONS), size=config.num_ops, replace=False):
        strength = np.clip(rng.normal(config.magnitude, config.deviation), 0.0, _STRONGEST)
        sign = 1.0 if rng.random() < 0.5 else -1.0
        amounts[number] = sign * strength / _STRONGEST * _AT_STRONGEST[OPERATIONS[number]]
    return amounts, rng.uniform(-1.0, 1.0, size=NUM_CHANGES).astype(np.float32)


def _reshaped(pixels_BCHW: Tensor, amount: dict[str, Tensor]) -> Tensor:
    """Turned, sheared and shifted images; those that are not stay as they are, exactly."""
    angle = amount["turn"]
    matrix = torch.zeros((len(angle), 2, 3), dtype=pixels_BCHW.dtype, device=pixels_BCHW.device)
    turn = torch.stack(
        [torch.stack([angle.cos(), -angle.sin()], 1), torch.stack([angle.sin(), angle.cos()], 1)], 1
    )
    one = torch.ones_like(angle)
    shear = torch.stack(
        [torch.stack([one, amount["shear_x"]], 1), torch.stack([amount["shear_y"], one], 1)], 1
    )
    matrix[:, :, :2] = turn @ shear
    matrix[:, 0, 2], matrix[:, 1, 2] = 2 * amount["shift_x"], 2 * amount["shift_y"]  # side is 2
    grid = functional.affine_grid(matrix, list(pixels_BCHW.shape), align_corners=False)
    moved = functional.grid_sample(
        pixels_BCHW, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    still = torch.stack([amount[name] == 0 for name in SHAPES]).all(dim=0)
    return torch.where(still.reshape(-1, 1, 1, 1), pixels_BCHW, moved)


def _smoothed(pixels_BCHW: Tensor) -> Tensor:
    """Under the filter that sharpness is measured against (Pillow's), border replicated."""
    kernel = torch.tensor(_BLUR, dtype=pixels_BCHW.dtype, device=pixels_BCHW.device)
    channels = pixels_BCHW.shape[1]
    padded = functional.pad(pixels_BCHW, (1, 1, 1, 1), mode="replicate")
    kernels = (kernel / kernel.sum()).expand(channels, 1, 3, 3)
    return functional.conv2d(padded, kernels, groups=channels)
