"""Training objectives as config, chosen by tag: ``edm``, ``v``, ``epsilon`` or ``flow``.

Each has the norm of its error and the weighting of noise levels; ``weighting`` says what they mean.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from histodiff.config import Config
from histodiff.diffusion.preconditioning import (
    EdmPreconditioning,
    EpsilonPreconditioning,
    FlowPreconditioning,
    Preconditioning,
    VPreconditioning,
)
from histodiff.diffusion.weighting import UniformWeighting, WeightingConfig


class _Objective(Config):
    """Shared by all objectives."""

    error: Literal["l1", "l2"] = "l2"
    """Norm of the error in the training loss; HistoDiffusion uses l1."""
    weighting: WeightingConfig = UniformWeighting(type="uniform")
    """How noise levels count in what is optimized: `uniform`, `min_snr` or `uncertainty`."""


class _Range(_Objective):
    """Shared by the objectives with a continuous range of noise levels."""

    sigma_min: float = Field(default=0.002, gt=0)
    """Lowest noise level, for data of unit variance."""
    sigma_max: float = Field(default=80.0, gt=0)
    """Highest noise level, for data of unit variance."""

    @model_validator(mode="after")
    def _ordered(self) -> "_Range":
        if self.sigma_min >= self.sigma_max:
            raise ValueError(
                f"sigma_min ({self.sigma_min}) must be below sigma_max ({self.sigma_max})"
            )
        return self


class EdmObjective(_Range):
    """EDM (Karras et al. 2022)."""

    type: Literal["edm"]
    sigma_data: float = Field(default=1.0, gt=0)
    """Standard deviation of the data; latents are whitened, so 1."""
    log_mean: float = -0.5
    """Mean of ln sigma in training (P_mean); -1.2 of the paper, moved from sigma_data 0.5 to 1."""
    log_std: float = Field(default=1.2, gt=0)
    """Standard deviation of ln sigma in training (P_std)."""


class VObjective(_Range):
    """v-prediction on the cosine path (Salimans & Ho 2022)."""

    type: Literal["v"]


class EpsilonObjective(_Objective):
    """Noise prediction over discrete levels (Ho et al. 2020), as latent diffusion trains it."""

    type: Literal["epsilon"]
    num_timesteps: int = Field(default=1000, ge=2)
    """Number of noise levels T."""
    beta_start: float = Field(default=0.0015, gt=0, lt=1)
    """First beta; betas are linear in their square root."""
    beta_end: float = Field(default=0.0155, gt=0, lt=1)
    """Last beta."""


class FlowObjective(_Range):
    """Rectified flow with a linear path (Liu et al. 2023)."""

    type: Literal["flow"]
    time_density: Literal["uniform", "logit_normal"] = "logit_normal"
    """Density of the time t in training."""


ObjectiveConfig = Annotated[
    EdmObjective | VObjective | EpsilonObjective | FlowObjective, Field(discriminator="type")
]


def create_preconditioning(objective: ObjectiveConfig) -> Preconditioning:
    """The preconditioning that ``objective`` names."""
    match objective:
        case EdmObjective():
            return EdmPreconditioning(
                error=objective.error,
                sigma_data=objective.sigma_data,
                log_mean=objective.log_mean,
                log_std=objective.log_std,
                lowest=objective.sigma_min,
                highest=objective.sigma_max,
            )
        case VObjective():
            return VPreconditioning(
                error=objective.error, lowest=objective.sigma_min, highest=objective.sigma_max
            )
        case EpsilonObjective():
            return EpsilonPreconditioning(
                error=objective.error,
                num_timesteps=objective.num_timesteps,
                beta_start=objective.beta_start,
                beta_end=objective.beta_end,
            )
        case FlowObjective():
            return FlowPreconditioning(
                error=objective.error,
                time_density=objective.time_density,
                lowest=objective.sigma_min,
                highest=objective.sigma_max,
            )
