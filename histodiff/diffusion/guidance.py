"""Guidance of a denoiser inside an interval of noise levels: by a classifier, or by a weaker one.

A classifier steers by

    D'(x; sigma) = D(x; sigma) + sigma^2 w grad_x log p(y | x; sigma)

which is Dhariwal & Nichol 2021 in variance-exploding coordinates: with ``z = sqrt(abar) x`` it is
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
        _require_ascending(self.sigma_interval)
        return self


class AutoguidanceConfig(Config):
    """How strongly, and at which noise levels, samples are driven away from a weaker denoiser."""

    scale: float = Field(ge=1)
    """Guidance scale w; 1 is unguided."""
    sigma_interval: tuple[float, float]
    """Lowest and highest noise level at which it acts."""

    @model_validator(mode="after")
    def _ordered(self) -> "AutoguidanceConfig":
        _require_ascending(self.sigma_interval)
        return self


class Guide(Protocol):
    """What steers a denoiser towards labels; its kinds are in ``histodiff.guidance``."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; a label is the number of one."""
        ...

    def adapted(self, denoise: Denoise) -> Denoise:
        """What stands in for ``denoise`` before anything steers: itself, or one that has learned.

        A sampler takes it first, then drives it away from a weaker denoiser, if there is one, and
        then steers the result.
        """
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


def autoguided_denoiser(denoise: Denoise, weak: Denoise, config: AutoguidanceConfig) -> Denoise:
    """``denoise``, driven away from what a weaker denoiser of the same latents makes of the noise.

        D' = D_weak + w (D - D_weak)

    This is autoguidance (Karras et al. 2024, arXiv 2406.02507, Eq. 3): what the weaker one gets
    wrong, the better one gets wrong in the same direction, and less. It needs no labels; a guide
    may steer the result.

    Args:
        denoise: The denoiser.
        weak: A smaller one, or the same after fewer images.
        config: Scale, and the closed interval of noise levels.
    """
    low, high = config.sigma_interval

    def guided(x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        denoised_BCHW = denoise(x_BCHW, sigma_B)
        inside_B = (sigma_B >= low) & (sigma_B <= high)
        if config.scale == 1 or not bool(inside_B.any()):
            return denoised_BCHW
        away_BCHW = (config.scale - 1) * (denoised_BCHW - weak(x_BCHW, sigma_B))
        return denoised_BCHW + inside_B.reshape(-1, 1, 1, 1) * away_BCHW

    return guided


def _require_ascending(interval: tuple[float, float]) -> None:
    low, high = interval
    if low < 0 or high <= low:
        raise ValueError(f"sigma_interval ({low}, {high}) must be ascending and not negative")


def _gradient(log_prob: LogProbability, x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
    with torch.enable_grad():
        steered = x_BCHW.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(log_prob(steered, sigma_B).sum(), steered)
    return gradient
