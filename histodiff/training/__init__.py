"""Training: one loop, and two engines: DeepSpeed for large models, plain torch for small ones."""

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
    OptimizationConfig,
    RateConfig,
    TrainConfig,
    deepspeed_config,
)
from histodiff.training.deepspeed_engine import DeepSpeedEngine
from histodiff.training.divergence_monitor import DivergenceMonitor
from histodiff.training.ema import WeightAverages
from histodiff.training.engine import Engine, MicroLoss, StepResult
from histodiff.training.fit import fit
from histodiff.training.local_engine import LocalEngine
from histodiff.training.randomness import seed_torch
from histodiff.training.ranks import mean_over_ranks
from histodiff.training.records import MetricsRow, TimingRow, TrainingRecords, ValidationRow
from histodiff.training.rollbacks import Rollback, RolledBack
from histodiff.training.state import CHECKPOINTS, TrainingState
from histodiff.training.trainer import CompletedStep, Trainer, micro_batches

__all__ = [
    "CHECKPOINTS",
    "AdamWConfig",
    "CheckpointRecord",
    "CheckpointWriter",
    "CompletedStep",
    "DeepSpeedEngine",
    "DivergenceConfig",
    "DivergenceMonitor",
    "EmaConfig",
    "Engine",
    "LocalEngine",
    "MetricsRow",
    "MicroLoss",
    "OptimizationConfig",
    "RateConfig",
    "Rollback",
    "RolledBack",
    "StepResult",
    "TimingRow",
    "TrainConfig",
    "Trainer",
    "TrainingRecords",
    "TrainingState",
    "ValidationRow",
    "WeightAverages",
    "checkpoint_folder",
    "deepspeed_config",
    "discard_checkpoints",
    "fit",
    "mean_over_ranks",
    "micro_batches",
    "newest_step",
    "opened_newest",
    "seed_torch",
]
