"""Diffusion as one view: a denoiser ``D(x; sigma)``; objectives, schedules, samplers, guidance."""

from histodiff.diffusion.guidance import (
    AutoguidanceConfig,
    GuidanceConfig,
    Guide,
    autoguided_denoiser,
    guided_denoiser,
)
from histodiff.diffusion.objectives import (
    EdmObjective,
    EpsilonObjective,
    FlowObjective,
    ObjectiveConfig,
    VObjective,
    create_preconditioning,
)
from histodiff.diffusion.preconditioning import Preconditioning
from histodiff.diffusion.samplers import Denoise, SamplerConfig, StepNoise, for_one_run, sample
from histodiff.diffusion.schedules import (
    DdpmSchedule,
    KarrasSchedule,
    ScheduleConfig,
    noise_levels,
    noise_levels_below,
)
from histodiff.diffusion.weighting import (
    MinSnrWeighting,
    UncertaintyWeighting,
    UniformWeighting,
    WeightingConfig,
    min_snr_weight,
    training_loss,
)

__all__ = [
    "AutoguidanceConfig",
    "DdpmSchedule",
    "Denoise",
    "EdmObjective",
    "EpsilonObjective",
    "FlowObjective",
    "GuidanceConfig",
    "Guide",
    "KarrasSchedule",
    "MinSnrWeighting",
    "ObjectiveConfig",
    "Preconditioning",
    "SamplerConfig",
    "ScheduleConfig",
    "StepNoise",
    "UncertaintyWeighting",
    "UniformWeighting",
    "VObjective",
    "WeightingConfig",
    "autoguided_denoiser",
    "create_preconditioning",
    "for_one_run",
    "guided_denoiser",
    "min_snr_weight",
    "noise_levels",
    "noise_levels_below",
    "sample",
    "training_loss",
]
