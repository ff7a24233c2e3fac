"""Jitter of the stains: haematoxylin, eosin and DAB, each by itself, in optical density.

Tellez et al. 2018 (arXiv 1808.05896): colours are taken apart into stains (Ruifrok and Johnston
2001), every stain is scaled and shifted at random, and the stains are put together again. What
varies between laboratories then varies in training. Legend: B batch, C colours, S stains, H height,
W width.
"""

import torch
from torch import Tensor

NUM_CHANGES = 6
_WHITE, _DARKEST = 255.0, 1.0
_STAINS_SC = (
    (0.65, 0.70, 0.29),  # haematoxylin
    (0.07, 0.99, 0.11),  # eosin
    (0.27, 0.57, 0.78),  # DAB
)
"""Optical density of red, green and blue of each stain (Ruifrok and Johnston 2001, Table 2)."""


def stain_jittered(pixels_BCHW: Tensor, *, strength: float, changes_B6: Tensor) -> Tensor:
    """The images in other stains.

    Args:
        pixels_BCHW: 0..255.
        strength: Largest relative change of a stain, and largest shift of its density (which is 0
            for glass; natural logarithm). Tellez et al. call 0.05 light and 0.2 strong.
        changes_B6: Numbers in [-1, 1]: factors of the three stains, then their shifts.
    """
    stains_SC = torch.tensor(_STAINS_SC, dtype=pixels_BCHW.dtype, device=pixels_BCHW.device)
    apart_CS = torch.linalg.inv(stains_SC)
    density = pixels_BCHW.clamp(min=_DARKEST).div_(_WHITE).log_().neg_()
    density_BSHW = torch.einsum("bchw,cs->bshw", density, apart_CS)
    factor, shift = (strength * changes_B6).reshape(-1, 2, 3, 1, 1).unbind(dim=1)
    density_BSHW.mul_(1 + factor).add_(shift)
    density = torch.einsum("bshw,sc->bchw", density_BSHW, stains_SC)
    return density.neg_().exp_().mul_(_WHITE).clamp_(0.0, _WHITE)
