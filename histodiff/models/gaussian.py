"""The best denoiser of a Gaussian: what a network is added to when it starts from one.

For latents x0 of mean m and covariance S = V diag(L) V^T, and ``x = x0 + sigma n``,

    E[x0 | x] = m + V diag(L / (L + sigma^2)) V^T (x - m)            the Wiener filter

A network needs long to learn that much (Wang & Vastola 2024, arXiv 2412.09726: what diffusion
models learn first is the Gaussian). The directions of the largest variances are kept, the others
share one variance (probabilistic principal components, Tipping & Bishop 1999). Legend: B batch,
D = C h w values of a latent, R directions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from pydantic import Field
from torch import Tensor, nn

from histodiff.config import Config


class GaussianStart(Config):
    """A denoiser that starts as the best one of a Gaussian with the latents' covariance."""

    rows: int = Field(default=20_000, ge=2)
    """Training rows at most that mean and covariance are measured on, drawn by the seed."""
    rank: int = Field(default=1024, ge=1)
    """Directions that are kept (all, where a latent has fewer values); the rest of the variance is
    spread evenly. A snapshot holds ``rank`` times the values of a latent."""


@dataclass(frozen=True)
class GaussianFit:
    """Mean and covariance of latents; on the CPU, fp64."""

    mean_D: Tensor
    variance_R: Tensor
    """Variances along the kept directions, descending."""
    basis_DR: Tensor
    """The kept directions, orthonormal columns."""
    rest: float
    """Variance along every other direction."""

    @classmethod
    def of_covariance(cls, mean_D: Tensor, covariance_DD: Tensor, *, rank: int) -> Self:
        """The fit with the ``rank`` largest variances."""
        variance_D, basis_DD = torch.linalg.eigh(covariance_DD)
        kept = min(rank, len(variance_D))
        order = torch.arange(len(variance_D)).flip(0)
        variance_D, basis_DD = variance_D[order].clamp_min(0), basis_DD[:, order]
        left_over = variance_D[kept:]
        rest = float(left_over.mean()) if len(left_over) else 0.0
        return cls(mean_D, variance_D[:kept], basis_DD[:, :kept], rest)


class GaussianDenoiser(nn.Module):
    """``E[x0 | x]`` of a Gaussian, fp32 whatever the type of the network beside it; no parameters.

    Args:
        latent_shape: (C, h, w).
        rank: Directions, at most the values of a latent.
    """

    mean_D: Tensor
    variance_R: Tensor
    basis_DR: Tensor
    rest: Tensor

    def __init__(self, latent_shape: tuple[int, int, int], *, rank: int) -> None:
        super().__init__()
        channels, height, width = latent_shape
        size = channels * height * width
        kept = min(rank, size)
        self.register_buffer("mean_D", torch.zeros(size))
        self.register_buffer("variance_R", torch.zeros(kept))
        self.register_buffer("basis_DR", torch.zeros(size, kept))
        self.register_buffer("rest", torch.zeros(()))

    @torch.no_grad()
    def take(self, fit: GaussianFit) -> None:
        """Becomes the denoiser of this Gaussian."""
        self.mean_D.copy_(fit.mean_D)
        self.variance_R.copy_(fit.variance_R)
        self.basis_DR.copy_(fit.basis_DR)
        self.rest.fill_(fit.rest)

    def forward(self, x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        """The expected clean latent, fp32, shaped as ``x_BCHW``."""
        noise_B1 = sigma_B.float().reshape(-1, 1).square()
        kept_BR = self.variance_R / (self.variance_R + noise_B1)
        rest_B1 = self.rest / (self.rest + noise_B1)
        centred_BD = x_BCHW.float().flatten(1) - self.mean_D
        along_BR = centred_BD @ self.basis_DR
        shrunk_BD = rest_B1 * centred_BD + (along_BR * (kept_BR - rest_B1)) @ self.basis_DR.T
        return (shrunk_BD + self.mean_D).reshape(x_BCHW.shape)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Goes to other devices, and stays fp32 there."""
        device = fn(torch.empty(0, device=self.rest.device)).device
        super()._apply(lambda tensor: tensor.to(device), recurse)  # type: ignore[no-untyped-call]
        return self
