"""The discrete noise levels of DDPM, in variance-exploding coordinates.

DDPM's ``z_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) n`` is ``x = z_t / sqrt(abar_t) = x0 + sigma_t n``
with ``sigma_t = sqrt((1 - abar_t) / abar_t)``. Objectives and schedules both start from this table.
"""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=16)
def ddpm_sigmas(
    num_timesteps: int, beta_start: float, beta_end: float, device: torch.device
) -> Tensor:
    """``sigma_t`` for t = 0..T-1, ascending, float64; do not write into it.

    The betas are linear in their square root, as in latent diffusion's ``linear`` schedule
    (Rombach et al. 2022).
    """
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_timesteps, dtype=torch.float64) ** 2
    alpha_bar = torch.cumprod(1 - betas, dim=0)
    return ((1 - alpha_bar) / alpha_bar).sqrt().to(device)
