"""Batches of pixels or latents under symmetries of the square, differentiable.

``runtime.symmetries`` does the same to one array. Legend: B batch, C channels, H height, W width.
"""

import torch
from torch import Tensor

from histodiff.runtime.symmetries import ChannelSymmetries

_QUARTERS = 4


def turned(images_BCHW: Tensor, which: int, *, channels: ChannelSymmetries | None = None) -> Tensor:
    """All images under one symmetry: ``which % 4`` quarter turns, then a flip.

    Args:
        images_BCHW: Square pixels or latents.
        which: Number of the symmetry.
        channels: What it does to channels; None leaves them as they are.
    """
    moved_BCHW = torch.rot90(images_BCHW, which % _QUARTERS, dims=(2, 3))
    moved_BCHW = moved_BCHW.flip(3) if which >= _QUARTERS else moved_BCHW
    if channels is None:
        return moved_BCHW.contiguous()
    sign_C11 = images_BCHW.new_tensor(channels.sign[which]).reshape(-1, 1, 1)
    return (moved_BCHW[:, list(channels.permutation[which])] * sign_C11).contiguous()


def turned_each(
    images_BCHW: Tensor, which_B: Tensor, *, channels: ChannelSymmetries | None = None
) -> Tensor:
    """Every image under a symmetry of its own; arguments as of ``turned``."""
    parts, places = [], []
    for which in sorted(set(which_B.tolist())):
        place = torch.nonzero(which_B == which).flatten()
        parts.append(turned(images_BCHW[place], which, channels=channels))
        places.append(place)
    return torch.cat(parts)[torch.cat(places).argsort()]
