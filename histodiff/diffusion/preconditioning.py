"""Preconditionings: how a network ``F`` becomes a denoiser ``D(x; sigma)``.

    D(x; sigma) = c_skip x + c_out F(c_in x; c_noise)          Karras et al. 2022, Eq. 7

``x = x0 + sigma n`` everywhere (variance-exploding coordinates, x0 of unit variance). Each class is
one row of Karras et al. 2022, Table 1, or follows from it; each one's usual training loss is the
unweighted error of ``F``, which is the error of ``D`` divided by ``c_out`` (Eq. 8), so that one
``loss`` serves them all. Legend: B batch, C channels, H height, W width.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from histodiff.diffusion.ddpm import ddpm_sigmas

_CLEAR_OF_ENDS = 1e-6
"""Distance kept from 0 and 1 where a quantile function is infinite."""


@dataclass(frozen=True)
class Preconditioning(ABC):
    """Scales, training noise levels and loss of one objective.

    All scales map ``sigma`` of any shape to a tensor of that shape and its dtype.
    """

    error: Literal["l1", "l2"]
    """Norm of the error in the training loss."""

    @property
    @abstractmethod
    def sigma_min(self) -> float:
        """Lowest noise level the denoiser is meant for."""

    @property
    @abstractmethod
    def sigma_max(self) -> float:
        """Highest noise level the denoiser is meant for."""

    @property
    def data_std(self) -> float:
        """Standard deviation of the data; latents are whitened."""
        return 1.0

    @abstractmethod
    def c_skip(self, sigma: Tensor) -> Tensor:
        """Weight of the noisy input in the output."""

    @abstractmethod
    def c_out(self, sigma: Tensor) -> Tensor:
        """Weight of the network's output."""

    @abstractmethod
    def c_in(self, sigma: Tensor) -> Tensor:
        """Scale of the network's input."""

    @abstractmethod
    def c_noise(self, sigma: Tensor) -> Tensor:
        """Noise level as the network's sinusoidal embedding (shortest period 2 pi) takes it."""

    @abstractmethod
    def training_sigma(self, u_B: Tensor) -> Tensor:
        """Noise levels of training samples, from numbers uniform in [0, 1), one per sample."""

    def loss(self, denoised_BCHW: Tensor, clean_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        """Loss of each sample: mean error of the network's output, of shape (B,), fp32.

        ``(D - x0) / c_out`` is ``F - F_target``: the noise for `epsilon`, v for `v`, the velocity
        for `flow`.
        """
        scale_B111 = self.c_out(sigma_B.double()).reciprocal().float().reshape(-1, 1, 1, 1)
        error_BCHW = (denoised_BCHW.float() - clean_BCHW.float()) * scale_B111
        magnitude = error_BCHW.abs() if self.error == "l1" else error_BCHW.square()
        return magnitude.mean(dim=(1, 2, 3))


@dataclass(frozen=True)
class EdmPreconditioning(Preconditioning):
    """Karras et al. 2022, last column of Table 1: log-normal training noise."""

    sigma_data: float
    log_mean: float
    log_std: float
    lowest: float
    highest: float

    @property
    def sigma_min(self) -> float:
        return self.lowest

    @property
    def sigma_max(self) -> float:
        return self.highest

    @property
    def data_std(self) -> float:
        return self.sigma_data

    def c_skip(self, sigma: Tensor) -> Tensor:
        return self.sigma_data**2 / (sigma**2 + self.sigma_data**2)

    def c_out(self, sigma: Tensor) -> Tensor:
        return sigma * self.sigma_data / (sigma**2 + self.sigma_data**2).sqrt()

    def c_in(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + self.sigma_data**2).rsqrt()

    def c_noise(self, sigma: Tensor) -> Tensor:
        # ln(sigma) / 4 as in Table 1, times 100: the embedding then resolves 0.25 nat of sigma.
        return sigma.log() * (100 / 4)

    def training_sigma(self, u_B: Tensor) -> Tensor:
        inside = u_B.double().clamp(_CLEAR_OF_ENDS, 1 - _CLEAR_OF_ENDS)
        normal: Tensor = torch.special.ndtri(inside)
        return (normal * self.log_std + self.log_mean).exp().to(u_B.dtype)


@dataclass(frozen=True)
class VPreconditioning(Preconditioning):
    """v-prediction (Salimans & Ho 2022) on the cosine path ``sigma = tan(pi t / 2)``, t uniform.

    With ``z = cos(phi) x0 + sin(phi) n`` and ``v = cos(phi) n - sin(phi) x0``:
    ``x0 = cos(phi) z - sin(phi) v``, and ``z = cos(phi) x``.
    """

    lowest: float
    highest: float

    @property
    def sigma_min(self) -> float:
        return self.lowest

    @property
    def sigma_max(self) -> float:
        return self.highest

    def c_skip(self, sigma: Tensor) -> Tensor:
        return 1 / (sigma**2 + 1)

    def c_out(self, sigma: Tensor) -> Tensor:
        return -sigma * (sigma**2 + 1).rsqrt()

    def c_in(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + 1).rsqrt()

    def c_noise(self, sigma: Tensor) -> Tensor:
        return sigma.atan() * (1000 * 2 / math.pi)

    def training_sigma(self, u_B: Tensor) -> Tensor:
        first, last = math.atan(self.lowest), math.atan(self.highest)
        return (first + (last - first) * u_B.double()).tan().to(u_B.dtype)


@dataclass(frozen=True)
class EpsilonPreconditioning(Preconditioning):
    """Noise prediction of DDPM (Ho et al. 2020) over T discrete levels: the "VP" row of Table 1."""

    num_timesteps: int
    beta_start: float
    beta_end: float

    @property
    def sigma_min(self) -> float:
        return float(self._sigmas(torch.device("cpu"))[0])

    @property
    def sigma_max(self) -> float:
        return float(self._sigmas(torch.device("cpu"))[-1])

    def c_skip(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)

    def c_out(self, sigma: Tensor) -> Tensor:
        return -sigma

    def c_in(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + 1).rsqrt()

    def c_noise(self, sigma: Tensor) -> Tensor:
        """Timestep of ``sigma``; between two levels, interpolated in log sigma."""
        levels = self._sigmas(sigma.device).log()
        wanted = sigma.double().log()
        upper = torch.searchsorted(levels, wanted.contiguous()).clamp(1, self.num_timesteps - 1)
        below, above = levels[upper - 1], levels[upper]
        timestep = upper - 1 + (wanted - below) / (above - below)
        return timestep.clamp(0, self.num_timesteps - 1).to(sigma.dtype)

    def training_sigma(self, u_B: Tensor) -> Tensor:
        timestep = (u_B.double() * self.num_timesteps).long().clamp(0, self.num_timesteps - 1)
        return self._sigmas(u_B.device)[timestep].to(u_B.dtype)

    def _sigmas(self, device: torch.device) -> Tensor:
        return ddpm_sigmas(self.num_timesteps, self.beta_start, self.beta_end, device)


@dataclass(frozen=True)
class FlowPreconditioning(Preconditioning):
    """Rectified flow (Liu et al. 2023): ``z = (1 - t) x0 + t n``, velocity ``n - x0``.

    ``sigma = t / (1 - t)``, ``z = x / (1 + sigma)`` and ``x0 = z - t (n - x0)``.
    """

    time_density: Literal["uniform", "logit_normal"]
    lowest: float
    highest: float

    @property
    def sigma_min(self) -> float:
        return self.lowest

    @property
    def sigma_max(self) -> float:
        return self.highest

    def c_skip(self, sigma: Tensor) -> Tensor:
        return 1 / (sigma + 1)

    def c_out(self, sigma: Tensor) -> Tensor:
        return -sigma / (sigma + 1)

    def c_in(self, sigma: Tensor) -> Tensor:
        return 1 / (sigma + 1)

    def c_noise(self, sigma: Tensor) -> Tensor:
        return 1000 * sigma / (sigma + 1)

    def training_sigma(self, u_B: Tensor) -> Tensor:
        u = u_B.double()
        if self.time_density == "logit_normal":  # Esser et al. 2024, Sec. 3.1, m = 0, s = 1
            u = torch.special.ndtri(u.clamp(_CLEAR_OF_ENDS, 1 - _CLEAR_OF_ENDS)).sigmoid()
        first, last = self.lowest / (1 + self.lowest), self.highest / (1 + self.highest)
        time = first + (last - first) * u
        return (time / (1 - time)).to(u_B.dtype)
