"""Tiny configs that train an autoencoder, and the command on real processes that are ended."""

import functools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histodiff.cli.failures import guarded
from histodiff.cluster.gang import run_gang
from histodiff.cluster.site import NoRay, Site
from histodiff.config import parse_config
from histodiff.pretraining.autoencoder import rank as rank_module
from histodiff.pretraining.spec import TrainingProgress
from histodiff.workflows.autoencoder import AutoencoderConfig, autoencoder
from histodiff.workflows.autoencoder import ranks as workflow
from tests.support.ports import free_ports

ARCHITECTURE = {
    "type": "kl", "channels": [8, 16, 16], "latent_channels": 3, "blocks_per_level": 1,
    "norm_groups": 4, "mid_attention": False,
}  # fmt: skip
PATCH_ARCHITECTURE = {
    "type": "patch", "downsampling": 4, "latent_channels": 8, "width": 8, "encoder_blocks": 1,
    "decoder_blocks": 1,
}  # fmt: skip
BATCH = 8


def train_values(*, steps: int = 30, **changes: Any) -> dict[str, Any]:
    """A ``train`` section: a checkpoint every 10 steps."""
    return {
        "images": steps * BATCH, "batch": BATCH, "micro_batch": 4,
        "optimizer": {"type": "adamw", "lr": 5.0e-3},
        "rate": {"warmup_images": 24, "shape": "cosine"},
        "ema": {"half_lives_images": [16]}, "precision": "fp32",
        "log_images": 40, "checkpoint_images": 10 * BATCH,
        **changes,
    }  # fmt: skip


def train_config(
    name: str = "made", *, loss: dict[str, Any] | None = None, steps: int = 30,
    train: dict[str, Any] | None = None, architecture: dict[str, Any] = ARCHITECTURE,
    **changes: Any,
) -> AutoencoderConfig:  # fmt: skip
    """Trains a new autoencoder on ``toy@v1``."""
    mode = {
        "type": "train", "architecture": architecture, "loss": {"kl": 1.0e-3, **(loss or {})},
        "crop_px": 16, "max_patches": 100, "train": train_values(steps=steps, **(train or {})),
    }  # fmt: skip
    return _config(name, mode, changes)


def decoder_config(
    name: str = "tuned", *, source: str = "toy@v1", loss: dict[str, Any] | None = None,
    steps: int = 12, **changes: Any,
) -> AutoencoderConfig:  # fmt: skip
    """Trains the decoder of ``source`` on ``toy@v1``."""
    mode = {
        "type": "decoder", "autoencoder": source, "loss": loss or {}, "crop_px": 32,
        "max_patches": 100, "train": train_values(steps=steps),
    }  # fmt: skip
    return _config(name, mode, changes)


def _config(name: str, mode: dict[str, Any], changes: dict[str, Any]) -> AutoencoderConfig:
    values = {
        "name": name, "version": "v1", "patches": ["toy@v1"], "mode": mode, "threads": 1,
        "seed": 0, **changes,
    }  # fmt: skip
    return parse_config(AutoencoderConfig, values, source="test")


def gang_with(act: Callable[[TrainingProgress], None]) -> Callable[..., Any]:
    """``run_gang`` that calls ``act`` with what rank 0 reports."""

    def run(function: Any, spec: Any, *, report: Any, **options: Any) -> Any:
        def report_and_act(news: TrainingProgress) -> None:
            report(news)
            act(news)

        return run_gang(function, spec, report=report_and_act, **options)

    return run


@dataclass(frozen=True)
class Processes:
    """One start of the command on processes that meet as torchrun's do."""

    root: Path
    config: AutoencoderConfig
    world_size: int
    ending: signal.Signals | None = None
    """What the last rank is sent; None lets the training end."""
    end_at_images: int = 0
    """When."""


def exit_codes(started: Processes) -> list[int]:
    """Runs the processes to their end; a signal counts as its negative number."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.preloaded"])
    [port] = free_ports(1)
    ranks = range(started.world_size)
    processes = [context.Process(target=_process, args=(started, rank, port)) for rank in ranks]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [int(process.exitcode or 0) for process in processes]


def _process(started: Processes, rank: int, port: int) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(started.world_size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    with (started.root / f"said-{os.getpid()}.txt").open("w", buffering=1) as stream:
        os.dup2(stream.fileno(), sys.stderr.fileno())
        train = functools.partial(_ended, started, rank_module.train_rank)
        workflow.train_rank = train  # type: ignore[attr-defined]
        site = Site(root=str(started.root), ray=NoRay(type="none"), device="cpu")
        code = guarded(lambda: bool(autoencoder(started.config, site)) * 0)
    sys.exit(int(code))


def _ended(
    started: Processes, train: Callable[..., Any], spec: Any, rank: int, world_size: int,
    report: Callable[[TrainingProgress], None], notice: Any,
) -> Any:  # fmt: skip
    """Trains; the last rank gets the signal after a certain step."""

    def report_or_end(news: TrainingProgress) -> None:
        report(news)
        due = rank == world_size - 1 and news.images_seen == started.end_at_images
        if due and started.ending:
            os.kill(os.getpid(), started.ending)

    return train(spec, rank, world_size, report_or_end, notice)
