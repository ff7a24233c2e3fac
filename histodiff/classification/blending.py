"""Mixup and cutmix: images and their targets blended in pairs of a batch.

Mixup (Zhang et al. 2018, arXiv 1710.09412) adds two images, cutmix (Yun et al. 2019, arXiv
1905.04899) pastes a box of one into the other. As in timm, an image's partner is the one at the
mirrored place in the batch, and the two take turns at random where both are on. What is drawn for
an image is a function of its global index. Legend: B batch, C colours, H height, W width, K
classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from histodiff.runtime import generators_for


@dataclass(frozen=True)
class Blend:
    """How much of an image stays, and where the rest goes."""

    kept: float
    """Share of its own target."""
    box: tuple[int, int, int, int] | None
    """Top, bottom, left, right of what the partner fills; None adds the images."""


def drawn_blends(
    *, mixup: float, cutmix: float, side_px: int, seed: int, indices: Sequence[int]
) -> list[Blend]:
    """What happens to each image.

    Args:
        mixup: Both parameters of the Beta distribution of the share; 0 is off.
        cutmix: The same for cutmix.
        side_px: Side of the images.
        seed: Seed of every draw, with the image's entry of ``indices``.
        indices: Global index of every image.
    """
    blends = []
    for rng in generators_for(seed, "blend", indices):
        cuts = cutmix > 0 and (mixup == 0 or rng.random() < 0.5)
        alpha = cutmix if cuts else mixup
        kept = float(rng.beta(alpha, alpha))
        if not cuts:
            blends.append(Blend(kept, None))
            continue
        half = side_px * math.sqrt(1 - kept) / 2
        row, column = rng.integers(side_px, size=2)
        top, left = (max(0, int(middle - half)) for middle in (row, column))
        bottom, right = (min(side_px, int(middle + half)) for middle in (row, column))
        area = (bottom - top) * (right - left) / side_px**2
        blends.append(Blend(1 - area, (top, bottom, left, right)))
    return blends


def blended(
    pixels_BCHW: Tensor, target_BK: Tensor, blends: Sequence[Blend]
) -> tuple[Tensor, Tensor]:
    """Images and targets, each with its partner: the first with the last, and so on."""
    kept_B = torch.tensor(
        [blend.kept for blend in blends], dtype=pixels_BCHW.dtype, device=pixels_BCHW.device
    )
    partner = pixels_BCHW.flip(0)
    kept_B111 = kept_B.reshape(-1, 1, 1, 1)
    pixels = kept_B111 * pixels_BCHW + (1 - kept_B111) * partner
    for place, blend in enumerate(blends):
        if blend.box is not None:
            top, bottom, left, right = blend.box
            pixels[place] = pixels_BCHW[place]
            pixels[place, :, top:bottom, left:right] = partner[place, :, top:bottom, left:right]
    kept_B1 = kept_B.to(target_BK)[:, None]
    return pixels, kept_B1 * target_BK + (1 - kept_B1) * target_BK.flip(0)
