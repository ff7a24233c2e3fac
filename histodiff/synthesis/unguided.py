"""Sampling without a guide: samples are of one class, which says so.

Written as a guide, so that drawing and stores know nothing of it. Legend: B batch.
"""

import torch
from torch import Tensor

from histodiff.diffusion import Denoise, GuidanceConfig

UNCONDITIONAL_CLASSES = ("unconditional",)
"""The class of samples that nothing steered."""
NO_GUIDE = "none"
"""In place of the content digest of a guide."""
NO_GUIDANCE = GuidanceConfig(scale=0.0, sigma_interval=(0.0, 1.0))
"""Never acts."""


class Unguided:
    """A ``diffusion.Guide`` that leaves the denoiser as it is."""

    classes = UNCONDITIONAL_CLASSES

    def steered(self, denoise: Denoise, labels_B: Tensor, *, guidance: GuidanceConfig) -> Denoise:
        """``denoise`` itself."""
        del labels_B, guidance
        return denoise

    def log_probabilities(self, x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        """Zeros (B, 1): every sample is certainly unconditional."""
        del sigma_B
        return torch.zeros(len(x_BCHW), 1, device=x_BCHW.device)
