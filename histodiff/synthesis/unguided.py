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
    """A ``diffusion.Guide`` that leaves the denoiser as it is.

    Args:
        classes: Classes of the samples, where something else decides them.
    """

    def __init__(self, classes: tuple[str, ...] = UNCONDITIONAL_CLASSES) -> None:
        self.classes = classes

    def adapted(self, denoise: Denoise) -> Denoise:
        """``denoise`` itself."""
        return denoise

    def steered(self, denoise: Denoise, labels_B: Tensor, *, guidance: GuidanceConfig) -> Denoise:
        """``denoise`` itself."""
        del labels_B, guidance
        return denoise

    def log_probabilities(self, x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        """Zeros (B, K): nothing is said against a class."""
        del sigma_B
        return torch.zeros(len(x_BCHW), len(self.classes), device=x_BCHW.device)
