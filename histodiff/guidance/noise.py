"""Noise levels on which a guide is trained, and bins on which it is evaluated."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from histodiff.config import Config
from histodiff.diffusion import Preconditioning


class ObjectiveNoise(Config):
    """Noise levels as in the denoiser's own training."""

    type: Literal["objective"]


class LogUniformNoise(Config):
    """Noise levels uniform in log sigma: every scale at which guidance acts counts the same."""

    type: Literal["log_uniform"]
    sigma_min: float = Field(gt=0)
    """Lowest noise level, for data of unit variance."""
    sigma_max: float = Field(gt=0)
    """Highest noise level."""

    @model_validator(mode="after")
    def _ordered(self) -> "LogUniformNoise":
        if self.sigma_min >= self.sigma_max:
            raise ValueError(
                f"sigma_min ({self.sigma_min}) must be below sigma_max ({self.sigma_max})"
            )
        return self


NoiseConfig = Annotated[ObjectiveNoise | LogUniformNoise, Field(discriminator="type")]


def noise_sigma(noise: NoiseConfig, preconditioning: Preconditioning, u_B: Tensor) -> Tensor:
    """Noise levels of samples, from one uniform number in [0, 1) each; float32 of shape (B,)."""
    match noise:
        case ObjectiveNoise():
            return preconditioning.training_sigma(u_B.double()).float()
        case LogUniformNoise():
            return log_uniform(u_B, low=noise.sigma_min, high=noise.sigma_max)


def sigma_drawer(
    noise: NoiseConfig, preconditioning: Preconditioning
) -> Callable[[Tensor], Tensor]:
    """``noise_sigma`` as a function of the uniform numbers alone."""
    return lambda u_B: noise_sigma(noise, preconditioning, u_B)


def log_uniform(u_B: Tensor, *, low: float, high: float) -> Tensor:
    """``low (high / low)^u``, float32."""
    return (math.log(low) + u_B.double() * math.log(high / low)).exp().float()


def sigma_range(noise: NoiseConfig, preconditioning: Preconditioning) -> tuple[float, float]:
    """Lowest and highest noise level of ``noise``."""
    match noise:
        case ObjectiveNoise():
            return preconditioning.sigma_min, preconditioning.sigma_max
        case LogUniformNoise():
            return noise.sigma_min, noise.sigma_max


def sigma_bins(
    noise: NoiseConfig, preconditioning: Preconditioning, *, num_bins: int
) -> list[tuple[float, float]]:
    """Bins of equal width in log sigma over the range of ``noise``."""
    low, high = sigma_range(noise, preconditioning)
    shares = torch.linspace(0, 1, num_bins + 1, dtype=torch.float64)
    edges = (math.log(low) + shares * math.log(high / low)).exp().tolist()
    return list(pairwise(edges))
