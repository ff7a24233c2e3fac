"""Training machinery: a plain loop for small models, and the DeepSpeed engine for the denoiser."""

from histodiff.training.checkpoints import (
    CheckpointRecord,
    checkpoint_folder,
    latest_checkpoint,
    newest_step,
    opened_checkpoint,
    save_checkpoint,
)
from histodiff.training.config import (
    AdamWConfig,
    EmaConfig,
    RateConfig,
    TrainConfig,
    deepspeed_config,
)
from histodiff.training.ema import WeightAverage
from histodiff.training.engine import Engine, StepResult, mean_over_ranks
from histodiff.training.fit import FitConfig, FitRecord, fit

__all__ = [
    "AdamWConfig",
    "CheckpointRecord",
    "EmaConfig",
    "Engine",
    "FitConfig",
    "FitRecord",
    "RateConfig",
    "StepResult",
    "TrainConfig",
    "WeightAverage",
    "checkpoint_folder",
    "deepspeed_config",
    "fit",
    "latest_checkpoint",
    "mean_over_ranks",
    "newest_step",
    "opened_checkpoint",
    "save_checkpoint",
]
