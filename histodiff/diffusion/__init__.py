"""Diffusion as one view: a denoiser ``D(x; sigma)``; objectives, schedules, samplers, guidance."""

from histodiff.diffusion.guidance import GuidanceConfig, guided_denoiser
from histodiff.diffusion.objectives import (
    EdmObjective,
    EpsilonObjective,
    FlowObjective,
    ObjectiveConfig,
    VObjective,
    create_preconditioning,
)
from histodiff.diffusion.preconditioning import Preconditioning
from histodiff.diffusion.samplers import Denoise, SamplerConfig, StepNoise, sample
from histodiff.diffusion.schedules import (
    DdpmSchedule,
    KarrasSchedule,
    ScheduleConfig,
    noise_levels,
)

__all__ = [
    "DdpmSchedule",
    "Denoise",
    "EdmObjective",
    "EpsilonObjective",
    "FlowObjective",
    "GuidanceConfig",
    "KarrasSchedule",
    "ObjectiveConfig",
    "Preconditioning",
    "SamplerConfig",
    "ScheduleConfig",
    "StepNoise",
    "VObjective",
    "create_preconditioning",
    "guided_denoiser",
    "noise_levels",
    "sample",
]
