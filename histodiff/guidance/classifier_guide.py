"""A guide that is a classifier of noisy latents, whatever its network, with its temperatures.

Legend: B batch, C channels, H height, W width, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from histodiff.diffusion import Denoise, GuidanceConfig, guided_denoiser
from histodiff.guidance.calibration import Temperatures
from histodiff.guidance.training import Logits


@dataclass(frozen=True)
class ClassifierGuide:
    """Classifier guidance (Dhariwal & Nichol 2021, section 4.2): a ``diffusion.Guide``."""

    network: nn.Module
    """What was trained, in evaluation mode."""
    logits: Logits
    """Logits of noisy whitened latents, by ``network``."""
    classes: tuple[str, ...]
    temperatures: Temperatures | None = None
    """What logits are divided by at each noise level; None divides by one."""
    saved: Mapping[str, Any] = field(default_factory=dict)
    """What its description says beside its network."""

    def adapted(self, denoise: Denoise) -> Denoise:
        """``denoise`` itself: a classifier changes the denoiser by its gradient alone."""
        return denoise

    def steered(self, denoise: Denoise, labels_B: Tensor, *, guidance: GuidanceConfig) -> Denoise:
        """``D + sigma^2 w grad log p(label | x; sigma)`` inside the interval of noise levels."""

        def log_probability(x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
            every_BK = self.log_probabilities(x_BCHW, sigma_B)
            return every_BK.gather(1, labels_B[:, None]).squeeze(1)

        return guided_denoiser(
            denoise, log_probability, scale=guidance.scale, sigma_interval=guidance.sigma_interval
        )

    def log_probabilities(self, x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        """``log p(k | x; sigma)`` of shape (B, K)."""
        logits_BK = self.logits(x_BCHW, sigma_B)
        if self.temperatures is not None:
            logits_BK = logits_BK / self.temperatures.at(sigma_B)[:, None]
        return logits_BK.log_softmax(dim=1)
