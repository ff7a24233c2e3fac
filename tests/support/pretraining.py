"""A tiny finished LatentStore and a config that trains on it in seconds."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from histodiff.artifacts import Manifest
from histodiff.cluster.gang import run_gang
from histodiff.latents import LatentStore
from histodiff.pretraining.rank import pretrain_rank
from histodiff.pretraining.spec import PretrainResult, PretrainSpec, TrainingProgress
from histodiff.runtime import Notice
from histodiff.runtime.symmetries import ChannelSymmetries
from histodiff.storage import StoragePath, storage_path, write_bytes
from histodiff.workflows.pretrain import PretrainConfig
from tests.support.latent_stores import patch_table, write_store

LANES = 4


def finished_store(
    root: Path | StoragePath,
    name: str = "tiny",
    *,
    mpp: float | None = 0.5,
    moment_shape: tuple[int, int, int] = (4, 4, 4),
    symmetries: ChannelSymmetries | None = None,
) -> None:
    """Writes a store of 8 slides as the artifact ``name@1`` below ``root``."""
    patches = patch_table(slides=8, side=4)
    path = storage_path(root) / "latents" / name / "1"
    digests = write_store(path, patches, moment_shape=moment_shape, mpp=mpp, symmetries=symmetries)
    store = LatentStore.open(path)
    attributes = store.layout.attributes.model_dump(mode="json")
    contents = {"rows": store.num_rows, **attributes}
    manifest = Manifest(
        kind="latents", name=name, version="1", format=1, fingerprint=name, config={}, inputs={},
        provenance={}, contents=contents,
        content_sha256=digests.content, files=digests.files, skipped=(), failed=(),
    )  # fmt: skip
    write_bytes(path / "manifest.json", json.dumps(manifest.model_dump(mode="json")).encode())


def tiny_config(name: str = "tiny", **changes: Any) -> PretrainConfig:
    """12 steps of 16 images, a checkpoint every 4 steps."""
    train = {
        "images": 192, "batch": 16, "micro_batch": 8, "zero_stage": 1, "precision": "fp32",
        "optimizer": {"type": "adamw", "lr": 2e-3},
        "rate": {"warmup_images": 32, "shape": "cosine"},
        "ema": {"half_lives_images": [64]},
        "log_images": 32, "checkpoint_images": 64,
        **changes.pop("train", {}),
    }  # fmt: skip
    values = {
        "name": name, "version": "1", "stores": [{"latents": "tiny@1"}],
        "view": "sample", "symmetries": "none", "num_lanes": LANES,
        "denoiser": {
            "network": {
                "type": "unet",
                "channels": [16, 16], "attention_levels": [False, True], "blocks_per_level": 1,
                "head_dim": 8, "norm_groups": 8,
            },
            "objective": {"type": "edm"},
        },
        "train": train,
        "validation": {"images": 15, "bins": 3, "every_images": 64},
        "seed": 5, "threads": 1,
        **changes,
    }  # fmt: skip
    return PretrainConfig.model_validate(values)


def interrupted_gang(function: Any, spec: PretrainSpec, *, report: Any, **options: Any) -> Any:
    """``run_gang`` with a Ctrl-C after six steps."""

    def stop(news: TrainingProgress) -> None:
        report(news)
        if news.images_seen == 96:
            raise KeyboardInterrupt

    return run_gang(function, spec, report=stop, **options)


def killed_once(
    spec: PretrainSpec,
    rank: int,
    world_size: int,
    report: Callable[[TrainingProgress], None],
    notice: Callable[[], Notice],
) -> PretrainResult:
    """Trains; the first time, the last rank kills itself with SIGKILL after six steps."""
    marker = Path(spec.artifact) / "scratch" / "killed"

    def report_or_die(news: TrainingProgress) -> None:
        report(news)
        if rank == world_size - 1 and news.images_seen == 96 and not marker.exists():
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return pretrain_rank(spec, rank, world_size, report_or_die, notice)
