"""Training machinery: a plain loop for small models, and the DeepSpeed engine for large ones."""

from histodiff.training.checkpoint_writer import CheckpointWriter
from histodiff.training.checkpoints import (
    CheckpointRecord,
    checkpoint_folder,
    discard_checkpoints,
    newest_step,
    opened_newest,
)
from histodiff.training.config import (
    AdamWConfig,
    DivergenceConfig,
    EmaConfig,
    RateConfig,
    TrainConfig,
    deepspeed_config,
)
from histodiff.training.ema import WeightAverages
from histodiff.training.engine import Engine, MicroLoss, StepResult, mean_over_ranks
from histodiff.training.fit import FitConfig, FitRecord, fit
from histodiff.training.randomness import seed_torch

__all__ = [
    "AdamWConfig",
    "CheckpointRecord",
    "CheckpointWriter",
    "DivergenceConfig",
    "EmaConfig",
    "Engine",
    "FitConfig",
    "FitRecord",
    "MicroLoss",
    "RateConfig",
    "StepResult",
    "TrainConfig",
    "WeightAverages",
    "checkpoint_folder",
    "deepspeed_config",
    "discard_checkpoints",
    "fit",
    "mean_over_ranks",
    "newest_step",
    "opened_newest",
    "seed_torch",
]
