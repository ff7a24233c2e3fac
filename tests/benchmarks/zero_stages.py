"""Memory and step time of ZeRO 0 to 3: two gloo ranks on a CPU, fp32, one UNet.

``python -m tests.benchmarks.zero_stages [ROUNDS]`` prints the table of the README of training.
Every stage runs in fresh processes; the stages take turns, the time is the median of all steps.
State is what a rank keeps between two steps: weights, fp32 masters where they are apart, moments,
and two averages. Peak is the growth of the resident memory over a process that has done nothing.
"""

import os
import resource
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

import torch
import torch.distributed
import torch.multiprocessing

from histodiff.models.denoiser import Denoiser, DenoiserConfig
from histodiff.training import Engine, TrainConfig, WeightAverages
from tests.support.ports import free_ports

RANKS, STEPS, BATCH = 2, 5, 16
LATENT = (4, 16, 16)


@dataclass(frozen=True)
class Measured:
    """One rank of one start."""

    stage: int
    state_mib: float
    peak_mib: float
    seconds: tuple[float, ...]


def denoiser_config() -> DenoiserConfig:
    """A UNet of about 20 M parameters."""
    return DenoiserConfig.model_validate(
        {
            "network": {
                "type": "unet",
                "channels": [128, 256, 256], "attention_levels": [False, True, True],
                "blocks_per_level": 2, "head_dim": 32, "norm_groups": 32,
            },
            "objective": {"type": "edm"},
        }
    )  # fmt: skip


def train_config(stage: int) -> TrainConfig:
    """As little else as possible."""
    return TrainConfig.model_validate(
        {
            "images": 10**6, "batch": BATCH, "micro_batch": BATCH, "zero_stage": stage,
            "optimizer": {"type": "adamw", "lr": 1e-4}, "precision": "fp32",
            "rate": {"warmup_images": 0, "shape": "constant"},
            "ema": {"half_lives_images": [10**4, 10**5]},
            "log_images": 10**6, "checkpoint_images": 10**6,
        }
    )  # fmt: skip


def run_rank(rank: int, stage: int, port: int, results: "Queue[Measured]") -> None:
    """One process: builds, trains some steps, and measures itself."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS))
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS
    )
    Engine(torch.nn.Linear(2, 2), config=train_config(0), device="cpu").close()
    before = _resident_mib()
    torch.manual_seed(0)
    module = Denoiser(denoiser_config(), latent_shape=LATENT).train()
    engine = Engine(module, config=train_config(stage), device="cpu")
    averages = WeightAverages(engine.masters(), config=engine.config.ema, batch=BATCH)
    seconds = [_step(engine, averages, number) for number in range(STEPS)]
    results.put(
        Measured(
            stage,
            state_mib=_state_mib(engine, averages),
            peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10 - before,
            seconds=tuple(seconds[1:]),
        )
    )
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def measured(stage: int) -> list[Measured]:
    """All ranks of one start."""
    [port] = free_ports(1)
    context = torch.multiprocessing.get_context("spawn")
    results: Any = context.SimpleQueue()
    torch.multiprocessing.spawn(run_rank, (stage, port, results), nprocs=RANKS)
    return [results.get() for _ in range(RANKS)]


def _step(engine: Engine, averages: WeightAverages, number: int) -> float:
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(BATCH // RANKS, *LATENT, generator=generator)
    sigma = torch.rand(len(x), generator=generator) + 0.1
    seen = (number + 1) * BATCH
    engine.step([lambda denoise: denoise(x, sigma).square().mean()], images_seen=seen)
    averages.update(engine.masters(), images_seen=seen)
    return time.perf_counter() - started


def _state_mib(engine: Engine, averages: WeightAverages) -> float:
    """Bytes of all different storages that hold state."""
    states = [*engine.states().values(), *averages.parts]
    tensors = [*engine.module.parameters(), *(part for parts in states for part in parts)]
    partitions = [getattr(p, "ds_tensor", p) for p in engine.module.parameters()]
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in [*tensors, *partitions]
    }
    return sum(storages.values()) / 2**20


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    """Prints the table."""
    found: list[Measured] = []
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    for number in range(rounds):
        for stage in range(4):
            found += measured(stage)
            print(f"round {number + 1}, stage {stage}", file=sys.stderr, flush=True)
    millions = sum(p.numel() for p in Denoiser(denoiser_config(), latent_shape=LATENT).parameters())
    print(f"{millions / 1e6:.1f} M parameters, batch {BATCH}, {RANKS} ranks, fp32, two averages\n")
    print("| ZeRO | state per rank, MiB | peak per rank, MiB | step, s |")
    print("|---|---|---|---|")
    for stage in range(4):
        rows = [row for row in found if row.stage == stage]
        print(
            f"| {stage} | {max(row.state_mib for row in rows):.0f}"
            f" | {statistics.median(row.peak_mib for row in rows):.0f}"
            f" | {statistics.median(s for row in rows for s in row.seconds):.2f} |"
        )


if __name__ == "__main__":
    main()
