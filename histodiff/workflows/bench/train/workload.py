"""The workload of ``bench train``: which network, which latents, how it is trained."""

import os
from dataclasses import dataclass
from typing import cast

import torch

from histodiff.errors import ConfigError
from histodiff.latents import UNIT_VARIANCE, LatentStore, Whitening
from histodiff.models.denoiser import DenoiserConfig
from histodiff.models.unet import UNetPreset, unet_preset
from histodiff.pretraining.spec import PretrainSpec, StoreShare
from histodiff.storage import StoragePath
from histodiff.training import TrainConfig
from histodiff.training.config import Precision
from histodiff.workflows.bench.latents import BenchSize, bench_store

_CHANNELS, _SIDES = 4, {"tiny": 16, "small": 32, "base": 32, "paper": 64}
_DEFAULT_PRESET = {"cpu": "tiny", "cuda": "small"}
_ROWS, _ROWS_PER_SHARD, _NUM_LANES = 4_096, 1_024, 8
_NEVER = 10**12
"""Images until what is not measured: checkpoints and the end."""


@dataclass(frozen=True)
class Workload:
    """What is trained."""

    preset: UNetPreset
    device: str
    batch: int
    zero_stage: int
    threads: int

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """``(C, h, w)``."""
        return (_CHANNELS, _SIDES[self.preset], _SIDES[self.preset])

    @property
    def precision(self) -> Precision:
        """fp32 on a CPU, bf16 on a GPU."""
        return "fp32" if self.device == "cpu" else "bf16"


def chosen_workload(
    *, preset: str | None, device: str, batch: str, zero_stage: str, threads: str | None
) -> Workload:
    """The workload that options of the bench name.

    Raises:
        ConfigError: One of them cannot be used.
    """
    if device not in _DEFAULT_PRESET or (device == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(f"bench train: device={device}: give cpu, or cuda where there is a GPU")
    preset = preset or _DEFAULT_PRESET[device]
    if preset not in _SIDES:
        raise ConfigError(f"bench train: preset={preset}: give one of {', '.join(_SIDES)}")
    if zero_stage not in {"0", "1", "2", "3"}:
        raise ConfigError(f"bench train: zero_stage={zero_stage}: give 0, 1, 2 or 3")
    images = positive("batch", batch)
    if images % _NUM_LANES:
        raise ConfigError(f"bench train: batch={batch}: give a multiple of {_NUM_LANES}")
    return Workload(
        preset=cast(UNetPreset, preset),
        device=device,
        batch=images,
        zero_stage=int(zero_stage),
        threads=positive("threads", threads or str(os.cpu_count())),
    )


def positive(name: str, text: str) -> int:
    """The number that an option gives.

    Raises:
        ConfigError: It is none above zero.
    """
    if not text.isdecimal() or int(text) == 0:
        raise ConfigError(f"bench train: {name}={text}: give a number above zero")
    return int(text)


def workload_spec(workload: Workload, folder: StoragePath) -> PretrainSpec:
    """The run of ``pretrain`` that is measured; its latents are written below ``folder``."""
    channels, height, width = workload.latent_shape
    size = BenchSize(_ROWS, _ROWS_PER_SHARD, (2 * channels, height, width))
    store: LatentStore = bench_store(folder, size)
    return PretrainSpec(
        run="bench",
        artifact=str(folder / "artifact"),
        stores=(StoreShare(str(store.path), 1.0),),
        # Means and noise are normal, so a draw has a variance of 2.
        whitening=Whitening((0.0,) * channels, (2.0**0.5,) * channels),
        scaling=UNIT_VARIANCE,
        view="sample",
        symmetries="none",
        num_lanes=_NUM_LANES,
        denoiser=DenoiserConfig.model_validate(
            {"network": unet_preset(workload.preset), "objective": {"type": "edm"}}
        ),
        init=None,
        init_sha256=None,
        train=_train_config(workload),
        validation=None,
        snapshot_images=None,
        seed=0,
        threads=workload.threads,
        device=workload.device,
        cache=None,
        hub=None,
    )


def _train_config(workload: Workload) -> TrainConfig:
    """As `configs/pretrain/real.yaml`, but for a rate that does not change and no end in sight."""
    return TrainConfig.model_validate(
        {
            "images": _NEVER,
            "batch": workload.batch,
            "micro_batch": workload.batch,
            "optimizer": {"type": "adamw", "lr": 1.0e-4},
            "rate": {"warmup_images": 0, "shape": "constant"},
            "ema": {"half_lives_images": [8192]},
            "zero_stage": workload.zero_stage,
            "precision": workload.precision,
            "log_images": 1024,
            "checkpoint_images": _NEVER,
        }
    )
