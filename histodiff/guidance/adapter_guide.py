"""A guide that is a conditional denoiser: classifier-free guidance, and Bayes.

While sampling, the denoiser of any class stands in for the denoiser, and the difference between
that of a class and that of any steers (Ho & Salimans 2022, arXiv 2207.12598):

    D' = D(x; sigma, any) + w (D(x; sigma, y) - D(x; sigma, any))

The difference is ``sigma^2 grad log p(y | x; sigma)``, so w means what it means for classifiers: 0
is unguided, 1 is the denoiser of the class. What it says of a latent is by Bayes (``bayes.py``).
Legend: B batch, C channels, H height, W width, K classes.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from histodiff.diffusion import Denoise, GuidanceConfig
from histodiff.guidance.bayes import BayesConfig, ClassDenoise, class_log_probabilities
from histodiff.guidance.calibration import Temperatures


@dataclass(frozen=True)
class AdapterGuide:
    """A conditional denoiser: a ``diffusion.Guide``."""

    network: nn.Module
    """What was trained, in evaluation mode."""
    denoise: ClassDenoise
    """The denoiser of each class, and of any."""
    classes: tuple[str, ...]
    sigmas: tuple[float, float]
    """Noise levels it was trained on; beyond them it leaves the denoiser as it is."""
    known: tuple[float, float]
    """Noise levels of the denoiser."""
    bayes: BayesConfig
    temperatures: Temperatures | None = None
    """What the logarithms of Bayes are divided by at each noise level; None divides by one."""
    _last: "_LastEstimate" = field(default_factory=lambda: _LastEstimate(), compare=False)

    def adapted(self, denoise: Denoise) -> Denoise:
        """The denoiser of any class, at the noise levels it was trained on."""
        low, high = self.sigmas

        def adapted(x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
            inside_B = (sigma_B >= low) & (sigma_B <= high)
            if not bool(inside_B.any()):
                return denoise(x_BCHW, sigma_B)
            any_BCHW = self._of_any_class(x_BCHW, sigma_B)
            if bool(inside_B.all()):
                return any_BCHW
            return torch.where(inside_B.reshape(-1, 1, 1, 1), any_BCHW, denoise(x_BCHW, sigma_B))

        return adapted

    def steered(self, denoise: Denoise, labels_B: Tensor, *, guidance: GuidanceConfig) -> Denoise:
        """``denoise`` and ``w (D(label) - D(any))`` inside the interval of noise levels."""
        low, high = guidance.sigma_interval

        def guided(x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
            denoised_BCHW = denoise(x_BCHW, sigma_B)
            inside_B = (sigma_B >= low) & (sigma_B <= high)
            if guidance.scale == 0 or not bool(inside_B.any()):
                return denoised_BCHW
            with torch.no_grad():
                class_BCHW = self.denoise(x_BCHW, sigma_B, labels_B)
            towards_BCHW = class_BCHW - self._of_any_class(x_BCHW, sigma_B)
            weight_B = guidance.scale * inside_B.to(towards_BCHW)
            return denoised_BCHW + weight_B.reshape(-1, 1, 1, 1) * towards_BCHW

        return guided

    @torch.no_grad()
    def log_probabilities(self, x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        """``log p(k | x; sigma)`` of shape (B, K), by Bayes; has no gradient."""
        log_p_BK = class_log_probabilities(
            self.denoise, x_BCHW, sigma_B, num_classes=len(self.classes), config=self.bayes,
            sigma_range=self.known,
        )  # fmt: skip
        if self.temperatures is not None:
            log_p_BK = log_p_BK / self.temperatures.at(sigma_B)[:, None]
        return log_p_BK.log_softmax(dim=1)

    @torch.no_grad()
    def _of_any_class(self, x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        """Computed once where ``adapted`` and ``steered`` are asked about the same latents."""
        found = self._last.of(x_BCHW, sigma_B)
        if found is None:
            any_B = torch.full((len(x_BCHW),), len(self.classes), device=x_BCHW.device)
            found = self.denoise(x_BCHW, sigma_B, any_B)
            self._last.keep(x_BCHW, sigma_B, found)
        return found


class _LastEstimate:
    """What was last said of latents, for as long as they are the same tensors, unchanged."""

    def __init__(self) -> None:
        self._kept: tuple[Tensor, int, Tensor, Tensor] | None = None

    def of(self, x_BCHW: Tensor, sigma_B: Tensor) -> Tensor | None:
        if self._kept is None:
            return None
        x, version, sigma, estimate = self._kept
        same = x is x_BCHW and x._version == version and sigma is sigma_B
        return estimate if same else None

    def keep(self, x_BCHW: Tensor, sigma_B: Tensor, estimate_BCHW: Tensor) -> None:
        self._kept = (x_BCHW, x_BCHW._version, sigma_B, estimate_BCHW)
