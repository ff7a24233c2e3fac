"""Views of a patch for contrastive learning: what may change while it stays the same tissue.

What all views of one patch share, and no other patch has, is all that a contrastive network needs
to learn: the grain of the scanner and of JPEG, or the colour of a slide, will do if it is left in.
So views are turned by any angle, which resamples them, blurred, made noisy and stained otherwise
(SimCLR, Chen et al. 2020, section 3). Legend: B batch, C colours, H height, W width.
"""

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from histodiff.classification.augment import AugmentConfig, augmented
from histodiff.classification.images import Pixels
from histodiff.config import Config
from histodiff.runtime import generators_for

_WHITE = 255.0


class ViewConfig(Config):
    """What may happen to a view of a patch."""

    smallest_crop: float = Field(default=0.5, gt=0, le=1)
    """Smallest area of a view, as a share of the patch."""
    rotate: bool = True
    """Views are turned by any angle; corners are filled by reflection."""
    blur: float = Field(default=0.0, ge=0, le=1)
    """Largest share of the mean over squares of 3 px in a view."""
    noise: float = Field(default=0.0, ge=0, lt=1)
    """Largest deviation of normal noise on a view, as a share of the range of pixels."""
    augment: AugmentConfig = AugmentConfig()
    """What else may happen."""


def views_of(
    pixels_NHWC: Pixels, *, config: ViewConfig, seed: int, indices: Sequence[int], device: str
) -> Tensor:
    """A view (B, C, H, W) of each image, float in 0..255; a function of seed and index.

    Args:
        pixels_NHWC: Images.
        config: What may happen.
        seed: Of the draws, with each image's entry of ``indices``.
        indices: Global index of every image.
        device: Where the views are.
    """
    views_BCHW = augmented(
        pixels_NHWC, config=config.augment, seed=seed, indices=indices, device=device
    )
    views_BCHW = reframed(
        views_BCHW, smallest=config.smallest_crop, rotate=config.rotate, seed=seed, indices=indices
    )
    if config.blur:
        share_B = [rng.uniform(0.0, config.blur) for rng in generators_for(seed, "blur", indices)]
        padded = functional.pad(views_BCHW, (1, 1, 1, 1), mode="replicate")
        views_BCHW = torch.lerp(
            views_BCHW, functional.avg_pool2d(padded, 3, stride=1), _column(share_B, views_BCHW)
        )
    if config.noise:
        shape, drawn = tuple(views_BCHW.shape[1:]), []
        for rng in generators_for(seed, "noise", indices):
            deviation = np.float32(_WHITE * rng.uniform(0.0, config.noise))
            drawn.append(deviation * rng.standard_normal(shape, np.float32))
        views_BCHW = views_BCHW + torch.from_numpy(np.stack(drawn)).to(views_BCHW)
    return views_BCHW


def reframed(
    pixels_BCHW: Tensor, *, smallest: float, rotate: bool, seed: int, indices: Sequence[int]
) -> Tensor:
    """A random square of each image, of at least the share ``smallest``, at the image's size.

    Args:
        pixels_BCHW: Images.
        smallest: Smallest area of a square, as a share of the image's.
        rotate: Whether squares are turned by any angle, about their centre.
        seed: Of the draws, with each image's entry of ``indices``.
        indices: Global index of every image.
    """
    matrices = []
    for rng in generators_for(seed, "crop", indices):
        side = np.sqrt(rng.uniform(smallest, 1.0))
        across, down = rng.uniform(-1.0, 1.0, size=2) * (1 - side)
        angle = rng.uniform(0.0, 2 * np.pi) if rotate else 0.0
        cos, sin = side * np.cos(angle), side * np.sin(angle)
        matrices.append([[cos, -sin, across], [sin, cos, down]])
    matrix = torch.tensor(np.array(matrices), dtype=pixels_BCHW.dtype, device=pixels_BCHW.device)
    grid = functional.affine_grid(matrix, list(pixels_BCHW.shape), align_corners=False)
    return functional.grid_sample(
        pixels_BCHW, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )


def _column(values_B: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values_B, dtype=like.dtype, device=like.device).reshape(-1, 1, 1, 1)
