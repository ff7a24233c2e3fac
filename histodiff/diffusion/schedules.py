"""Schedules: the noise levels that a sampler visits, from high to zero."""

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from histodiff.config import Config
from histodiff.diffusion.ddpm import ddpm_sigmas
from histodiff.diffusion.preconditioning import Preconditioning


class KarrasSchedule(Config):
    """Evenly spaced in ``sigma^(1/rho)`` (Karras et al. 2022, Eq. 5)."""

    type: Literal["karras"]
    steps: int = Field(ge=1)
    """Number of noise levels, without the final zero."""
    rho: float = Field(default=7.0, gt=0)
    """Larger values put more steps at low noise."""
    sigma_min: float | None = Field(default=None, gt=0)
    """Lowest noise level before zero; by default the objective's."""
    sigma_max: float | None = Field(default=None, gt=0)
    """Highest noise level; by default the objective's."""


class DdpmSchedule(Config):
    """N of the T levels of DDPM, evenly spaced in t."""

    type: Literal["ddpm"]
    steps: int = Field(ge=1)
    """Number of noise levels N, without the final zero."""
    spacing: Literal["leading", "trailing"] = "leading"
    """`leading` starts near 1 as latent diffusion does; `trailing` includes the last level."""
    num_timesteps: int = Field(default=1000, ge=2)
    """Number of levels T in training."""
    beta_start: float = Field(default=0.0015, gt=0, lt=1)
    """First beta; betas are linear in their square root."""
    beta_end: float = Field(default=0.0155, gt=0, lt=1)
    """Last beta."""

    @model_validator(mode="after")
    def _enough_levels(self) -> "DdpmSchedule":
        if self.steps >= self.num_timesteps:
            raise ValueError(
                f"steps ({self.steps}) must be below num_timesteps ({self.num_timesteps})"
            )
        return self


ScheduleConfig = Annotated[KarrasSchedule | DdpmSchedule, Field(discriminator="type")]


def noise_levels(schedule: ScheduleConfig, preconditioning: Preconditioning) -> Tensor:
    """Noise levels, descending, the last one zero: float64 of shape (steps + 1,), on the CPU."""
    match schedule:
        case KarrasSchedule():
            levels = _karras_levels(schedule, preconditioning)
        case DdpmSchedule():
            levels = _ddpm_levels(schedule)
    return torch.cat([levels, levels.new_zeros(1)])


def _karras_levels(schedule: KarrasSchedule, preconditioning: Preconditioning) -> Tensor:
    highest = schedule.sigma_max or preconditioning.sigma_max
    lowest = schedule.sigma_min or preconditioning.sigma_min
    ramp = torch.linspace(0, 1, schedule.steps, dtype=torch.float64)
    first, last = highest ** (1 / schedule.rho), lowest ** (1 / schedule.rho)
    levels: Tensor = (first + ramp * (last - first)) ** schedule.rho
    return levels


def _ddpm_levels(schedule: DdpmSchedule) -> Tensor:
    index = torch.arange(schedule.steps, dtype=torch.float64)
    stride = schedule.num_timesteps / schedule.steps
    if schedule.spacing == "leading":
        timesteps = (index * (schedule.num_timesteps // schedule.steps)).long() + 1
    else:
        timesteps = ((index + 1) * stride).round().long() - 1
    sigmas = ddpm_sigmas(
        schedule.num_timesteps, schedule.beta_start, schedule.beta_end, torch.device("cpu")
    )
    return sigmas[timesteps].flip(0)


def noise_levels_below(sigmas: Tensor, highest: float) -> Tensor:
    """``highest``, then the levels of ``sigmas`` below it, down to zero; where a variation goes."""
    return torch.cat([sigmas.new_tensor([highest]), sigmas[sigmas < highest]])
