"""Classifier guidance of a denoiser, inside an interval of noise levels.

    D'(x; sigma) = D(x; sigma) + sigma^2 w grad_x log p(y | x; sigma)

This is Dhariwal & Nichol 2021 in variance-exploding coordinates: with ``z = sqrt(abar) x`` it is
``eps' = eps - w sqrt(1 - abar) grad_z log p(y | z)``. Legend: B batch, C channels, H, W.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from pydantic import Field, model_validator
from torch import Tensor

from histodiff.config import Config
from histodiff.diffusion.samplers import Denoise

LogProbability = Callable[[Tensor, Tensor], Tensor]
"""``log_prob(x_BCHW, sigma_B) -> log p(y_b | x_b; sigma_b)`` of shape (B,), differentiable in x."""


class GuidanceConfig(Config):
    """How strongly, and at which noise levels, samples are steered."""

    scale: float = Field(ge=0)
    """Guidance scale w; 0 is unguided."""
    sigma_interval: tuple[float, float]
    """Lowest and highest noise level at which guidance acts."""

    @model_validator(mode="after")
    def _ordered(self) -> "GuidanceConfig":
        low, high = self.sigma_interval
        if low < 0 or high <= low:
            raise ValueError(f"sigma_interval ({low}, {high}) must be ascending and not negative")
        return self


class Guide(Protocol):
    """What steers a denoiser towards labels; its kinds are in ``histodiff.guidance``."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; a label is the number of one."""
        ...

    def steered(self, denoise: Denoise, labels_B: Tensor, *, guidance: GuidanceConfig) -> Denoise:
        """``denoise``, drawn towards one label per sample as ``guidance`` says."""
        ...

    def log_probabilities(self, x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        """``log p(k | x; sigma)`` of shape (B, K), for noisy whitened latents."""
        ...


def guided_denoiser(
    denoise: Denoise,
    log_prob: LogProbability,
    *,
    scale: float,
    sigma_interval: tuple[float, float],
) -> Denoise:
    """``denoise``, steered towards high ``log_prob`` for noise levels in the closed interval.

    Samples do not influence each other as long as neither function mixes them. It may run under
    ``torch.no_grad``, but not under ``torch.inference_mode``.
    """
    low, high = sigma_interval

    def guided(x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        denoised_BCHW = denoise(x_BCHW, sigma_B)
        inside_B = (sigma_B >= low) & (sigma_B <= high)
        if scale == 0 or not bool(inside_B.any()):
            return denoised_BCHW
        weight_B = torch.where(inside_B, scale * sigma_B**2, torch.zeros_like(sigma_B))
        gradient_BCHW = _gradient(log_prob, x_BCHW, sigma_B)
        return denoised_BCHW + weight_B.reshape(-1, 1, 1, 1) * gradient_BCHW

    return guided


def _gradient(log_prob: LogProbability, x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
    with torch.enable_grad():
        steered = x_BCHW.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(log_prob(steered, sigma_B).sum(), steered)
    return gradient
