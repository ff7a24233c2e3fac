"""Samplers: free functions that carry noise to data along a schedule.

All work in variance-exploding coordinates on any ``denoise(x, sigma)``; none knows the network. The
noise of a stochastic step is given by the caller, per sample, so that a sample does not depend on
how the batch was split. Legend: B batch, C channels, H height, W width.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from histodiff.config import Config

Denoise = Callable[[Tensor, Tensor], Tensor]
"""``denoise(x_BCHW, sigma_B) -> D_BCHW``."""
StepNoise = Callable[[int], Tensor]
"""``step_noise(i)``: standard normal noise of step ``i`` for every sample, BCHW."""


@runtime_checkable
class Remembering(Protocol):
    """A denoiser that may be shown its last estimate, so that a run of a sampler has a state."""

    def fresh(self) -> Denoise:
        """It, for one run: nothing is remembered of another."""
        ...


class EulerSampler(Config):
    """First-order deterministic."""

    type: Literal["euler"]


class HeunSampler(Config):
    """Second-order deterministic (Karras et al. 2022, Algorithm 1)."""

    type: Literal["heun"]


class HeunStochasticSampler(Config):
    """Second-order with added noise (Karras et al. 2022, Algorithm 2)."""

    type: Literal["heun_stochastic"]
    churn: float = Field(default=40.0, ge=0)
    """Amount of noise added over all steps (S_churn)."""
    churn_min: float = Field(default=0.05, ge=0)
    """Lowest noise level at which noise is added (S_min)."""
    churn_max: float = Field(default=50.0, gt=0)
    """Highest noise level at which noise is added (S_max)."""
    noise_scale: float = Field(default=1.003, gt=0)
    """Standard deviation of the added noise (S_noise)."""


class DdimSampler(Config):
    """DDIM (Song et al. 2021): eta 0 is deterministic, eta 1 is ancestral sampling."""

    type: Literal["ddim"]
    eta: float = Field(default=0.0, ge=0, le=1)
    """Share of the posterior variance that is drawn anew in each step."""


class DpmSolverSampler(Config):
    """DPM-Solver++ with several steps of memory (Lu et al. 2022): 2M, 3M, and their SDE forms.

    One call of the denoiser per step. With ``eta`` 1 it is DPM++ 2M SDE or 3M SDE, with 0 the
    deterministic one; a step starts from as many estimates as there are yet.
    """

    type: Literal["dpm_solver"]
    order: Literal[2, 3] = 2
    """Estimates of the clean latent that a step is made from."""
    eta: float = Field(default=1.0, ge=0, le=1)
    """Share of the noise of the reverse SDE that is drawn in each step."""


SamplerConfig = Annotated[
    EulerSampler | HeunSampler | HeunStochasticSampler | DdimSampler | DpmSolverSampler,
    Field(discriminator="type"),
]


@dataclass(frozen=True)
class Estimate:
    """What the denoiser said at a noise level."""

    clean_BCHW: Tensor
    level: float


@torch.no_grad()
def sample(
    denoise: Denoise,
    *,
    sigmas: Tensor,
    sampler: SamplerConfig,
    noise_B: Tensor,
    step_noise: StepNoise,
    start_BCHW: Tensor | None = None,
) -> Tensor:
    """Samples of the data distribution, of the shape of ``noise_B``.

    Args:
        denoise: The denoiser, guided or not.
        sigmas: Noise levels, descending, the last one zero (``noise_levels``).
        sampler: Which sampler.
        noise_B: Standard normal noise, BCHW; the start is ``sigmas[0] * noise_B``.
        step_noise: Noise of a step; called by stochastic samplers only.
        start_BCHW: Clean latents that the noise is added to at the start: samples vary them, the
            less the lower ``sigmas[0]`` is (SDEdit, Meng et al. 2022, arXiv 2108.01073).
    """
    levels = [float(level) for level in sigmas]
    x_BCHW = noise_B * levels[0]
    if start_BCHW is not None:
        x_BCHW = x_BCHW + start_BCHW
    estimates: list[Estimate] = []
    for step, (level, following) in enumerate(pairwise(levels)):
        added = 0.0
        match sampler:
            case EulerSampler():
                x_BCHW = euler_step(denoise, x_BCHW, level, following)
            case HeunSampler():
                x_BCHW = heun_step(denoise, x_BCHW, level, following)
            case HeunStochasticSampler():
                raised = _raised_level(sampler, level, num_steps=len(levels) - 1)
                if raised > level:
                    churned = math.sqrt(raised**2 - level**2) * sampler.noise_scale
                    x_BCHW = x_BCHW + churned * step_noise(step)
                x_BCHW = heun_step(denoise, x_BCHW, raised, following)
            case DdimSampler():
                x_BCHW, added = ddim_step(denoise, x_BCHW, level, following, eta=sampler.eta)
            case DpmSolverSampler():
                clean_BCHW = denoise(x_BCHW, _per_sample(x_BCHW, level))
                estimates = [Estimate(clean_BCHW, level), *estimates][: sampler.order]
                x_BCHW, added = dpm_solver_step(x_BCHW, estimates, following, eta=sampler.eta)
        if added > 0:
            x_BCHW = x_BCHW + added * step_noise(step)
    return x_BCHW


def for_one_run(denoise: Denoise) -> Denoise:
    """``denoise`` as one run of a sampler calls it; to be taken before it is guided."""
    return denoise.fresh() if isinstance(denoise, Remembering) else denoise


def euler_step(denoise: Denoise, x_BCHW: Tensor, level: float, following: float) -> Tensor:
    """One Euler step of dx/dsigma = (x - D) / sigma from ``level`` to ``following``."""
    return x_BCHW + (following - level) * _slope(denoise, x_BCHW, level)


def heun_step(denoise: Denoise, x_BCHW: Tensor, level: float, following: float) -> Tensor:
    """One step of Heun's method; plain Euler to zero (Karras et al. 2022, Algorithm 1)."""
    slope = _slope(denoise, x_BCHW, level)
    euler = x_BCHW + (following - level) * slope
    if following == 0:
        return euler
    return x_BCHW + (following - level) * 0.5 * (slope + _slope(denoise, euler, following))


def ddim_step(
    denoise: Denoise, x_BCHW: Tensor, level: float, following: float, *, eta: float
) -> tuple[Tensor, float]:
    """One step of DDIM (Song et al. 2021, Eq. 12 and 16) and the noise still to be added.

    With ``x = z / sqrt(abar)`` their ``sigma_t(eta)`` becomes
    ``added = eta * following * sqrt(level^2 - following^2) / level``.

    Returns:
        The mean of the next state, and the standard deviation of the noise to add to it.
    """
    added = eta * following * math.sqrt(level**2 - following**2) / level
    kept = math.sqrt(following**2 - added**2)
    clean_BCHW = denoise(x_BCHW, _per_sample(x_BCHW, level))
    return clean_BCHW + kept * (x_BCHW - clean_BCHW) / level, added


def dpm_solver_step(
    x_BCHW: Tensor, estimates: Sequence[Estimate], following: float, *, eta: float
) -> tuple[Tensor, float]:
    """One step of DPM-Solver++ and the noise still to be added.

    With ``lambda = -log sigma`` the reverse SDE is linear in x but for D, which is taken as the
    polynomial in lambda through the last estimates and integrated exactly (Lu et al. 2022,
    arXiv 2211.01095, Eq. 3.3 and appendix B; for the SDE ``h`` becomes ``(1 + eta) h``). The
    quadratic term is twice that of the authors' code, which makes the third order second.

    Args:
        x_BCHW: The state at the level of the first estimate.
        estimates: One to three, the newest first.
        following: The next noise level.
        eta: Share of the SDE's noise.

    Returns:
        The mean of the next state, and the standard deviation of the noise to add to it.
    """
    now = estimates[0]
    if following == 0:
        return now.clean_BCHW, 0.0
    width = math.log(now.level / following)
    full = (1 + eta) * width
    moved_BCHW = math.exp(-full) * x_BCHW - math.expm1(-full) * now.clean_BCHW
    second = 1 + math.expm1(-full) / full  # of h phi_2; phi_3 follows from it
    slopes = [
        (newer.clean_BCHW - older.clean_BCHW) * (width / math.log(older.level / newer.level))
        for newer, older in pairwise(estimates)
    ]
    if len(slopes) == 1:
        moved_BCHW = moved_BCHW + second * slopes[0]
    elif len(slopes) == 2:
        gaps = [math.log(older.level / newer.level) for newer, older in pairwise(estimates)]
        first, last = gaps[0] / width, gaps[1] / width
        bend = (slopes[0] - slopes[1]) / (first + last)
        moved_BCHW = moved_BCHW + second * (slopes[0] + first * bend)
        moved_BCHW = moved_BCHW + (1 - 2 * second / full) * bend
    return moved_BCHW, following * math.sqrt(-math.expm1(-2 * eta * width))


def _slope(denoise: Denoise, x_BCHW: Tensor, level: float) -> Tensor:
    return (x_BCHW - denoise(x_BCHW, _per_sample(x_BCHW, level))) / level


def _per_sample(x_BCHW: Tensor, level: float) -> Tensor:
    return x_BCHW.new_full((len(x_BCHW),), level)


def _raised_level(sampler: HeunStochasticSampler, level: float, *, num_steps: int) -> float:
    if not sampler.churn_min <= level <= sampler.churn_max:
        return level
    return level * (1 + min(sampler.churn / num_steps, math.sqrt(2) - 1))
