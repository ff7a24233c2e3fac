"""``bench train``: what our training loop costs, against bare loops around the same network.

The loops take turns block by block, in another order every round, so that noise of the machine
falls on all alike; ratios are medians over rounds of the times within one round. The loop of
``pretrain`` runs as it is; checkpoints, validation and snapshots are not due in so few steps. On a
CPU the workload is the preset `tiny` in fp32 (latents of 4x16x16), on CUDA `small` or `base` in
bf16 (4x32x32).

The Accelerate loop (``peers=PYTHON``) runs in an environment of its own.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from histodiff.artifacts import provenance
from histodiff.cluster.gang import run_gang
from histodiff.cluster.site import NoRay
from histodiff.pretraining.posterior import CleanAndNoise
from histodiff.pretraining.spec import PretrainSpec, TrainingProgress
from histodiff.pretraining.trainer import DenoiserTrainer
from histodiff.runtime import Notice
from histodiff.storage import storage_path
from histodiff.telemetry import progress
from histodiff.workflows.bench.peers import PeerProcess, peer_process
from histodiff.workflows.bench.train.limits import device_name, matmul_flops
from histodiff.workflows.bench.train.loops import (
    EngineLoop,
    Loop,
    TorchLoop,
    TrainerLoop,
    first_batches,
)
from histodiff.workflows.bench.train.peer import PEERS_SCRIPT, PEERS_TARGET, AccelerateLoop
from histodiff.workflows.bench.train.rounds import (
    WARM_UP,
    Block,
    Entrant,
    Seconds,
    largest_difference,
    speed_ratio,
    take_turns,
)
from histodiff.workflows.bench.train.workload import chosen_workload, positive, workload_spec

BATCH, ROUNDS = 64, 100
BLOCKS = {"cpu": 1, "cuda": 20}
"""Steps of a block; on a GPU enough of them to hide how long it takes to wait for the last."""
OURS, ENGINE, STAGE_0, TORCH, ACCELERATE = "ours", "engine", "engine_stage_0", "torch", "accelerate"
_NO_PEER = f"not measured: give peers=PYTHON (make {PEERS_TARGET})"


@dataclass(frozen=True)
class _Amounts:
    """How much is measured."""

    rounds: int
    block: int
    peak_flops: float | None


def bench_train(
    preset: str | None = None,
    device: str | None = None,
    batch: str = str(BATCH),
    zero_stage: str = "1",
    threads: str | None = None,
    rounds: str = str(ROUNDS),
    block: str | None = None,
    peak_tflops: str | None = None,
    peers: str | None = None,
) -> dict[str, Any]:
    """Overhead, ratios (above 1: the first is faster), MFU, memory, raw timings and versions.

    Args:
        preset: Of the UNet; `tiny` on a CPU and `small` on CUDA.
        device: `cpu` or `cuda`; by default what there is.
        batch: Images of a step; another number than the default is another workload.
        zero_stage: Of our loop and of the bare one beside it.
        threads: Torch's; by default one for each core.
        rounds: Blocks of every loop.
        block: Steps of a block.
        peak_tflops: What MFU is a share of; by default the fastest matrix product of the run.
        peers: The Python of the peers' environment (``make bench-train-peers``).

    Raises:
        ConfigError: An option cannot be used.
    """
    started = time.monotonic()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    workload = chosen_workload(
        preset=preset, device=device, batch=batch, zero_stage=zero_stage, threads=threads
    )
    amounts = _Amounts(
        rounds=positive("rounds", rounds),
        block=positive("block", block or str(BLOCKS[device])),
        peak_flops=None if peak_tflops is None else 1e12 * positive("peak_tflops", peak_tflops),
    )
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="histodiff-bench-"))
        # Started before there is a process group, whose variables are not the peer's business.
        peer = _peer(peers, stack)
        found = run_gang(
            partial(_measured, amounts, Path(folder), peer),
            partial(workload_spec, workload, storage_path(folder)),
            ranks=1, ray_config=NoRay(type="none"), device=device, report=_ignored,
        )  # fmt: skip
    return {
        "bench": "train",
        "workload": {
            **asdict(workload),
            "latent_shape": workload.latent_shape,
            "precision": workload.precision,
            "rounds": amounts.rounds,
            "steps_per_block": amounts.block,
        },
        **found,
        "device_name": device_name(device),
        "provenance": provenance(time.monotonic() - started),
    }


def _measured(
    amounts: _Amounts,
    folder: Path,
    process: PeerProcess | None,
    spec: PretrainSpec,
    rank: int,
    world_size: int,
    report: Callable[[TrainingProgress], None],
    notice: Callable[[], Notice],
) -> dict[str, Any]:
    """Everything that is measured, in the process group of one rank."""
    del report
    steps = WARM_UP + amounts.rounds * amounts.block
    with ExitStack() as stack:
        stack.enter_context(_threads(spec.threads))
        images = steps * spec.train.batch
        bar = stack.enter_context(progress("bench train", total=images, unit="images"))

        def ours() -> TrainerLoop:
            def show(training: TrainingProgress) -> None:
                bar.advance(spec.train.batch, loss=training.loss)

            return TrainerLoop(
                DenoiserTrainer(spec, rank=rank, world_size=world_size, report=show, notice=notice)
            )

        batches = first_batches(spec, steps)
        entrants = _entrants(spec, batches, ours)
        for entrant in entrants.values():
            stack.callback(entrant.loop.close)
        ways: dict[str, Block] = {name: entrant.block for name, entrant in entrants.items()}
        peer = None
        if process:
            peer = AccelerateLoop(process, spec, batches, folder=folder)
            ways[ACCELERATE] = peer.block
        dtype = torch.float32 if spec.train.precision == "fp32" else torch.bfloat16
        products: list[float] = []
        seconds = take_turns(
            ways,
            rounds=amounts.rounds,
            steps=amounts.block,
            between=lambda: products.append(matmul_flops(spec.device, dtype)),
        )
        return {
            **_ratios(seconds),
            **_rates(
                entrants,
                seconds,
                images=amounts.block * spec.train.batch,
                peak_flops=amounts.peak_flops or max(products),
            ),
            "peak": "given" if amounts.peak_flops else "the fastest of the matrix products",
            "matmul_flops_per_s": products,
            "peak_bytes": _peak_bytes(entrants, peer),
            "loss_difference": _loss_differences(entrants),
            "accelerate": peer.facts if peer else _NO_PEER,
            "seconds": seconds,
        }


def _peer(python: str | None, stack: ExitStack) -> PeerProcess | None:
    if python is None:
        return None
    return stack.enter_context(peer_process(python, PEERS_SCRIPT, target=PEERS_TARGET))


def _entrants(
    spec: PretrainSpec, batches: Sequence[CleanAndNoise], ours: Callable[[], TrainerLoop]
) -> dict[str, Entrant]:
    """The trainings of this process, after their first steps."""
    stage_0 = replace(spec, train=spec.train.model_copy(update={"zero_stage": 0}))
    starts: dict[str, Callable[[], Loop]] = {
        OURS: ours,
        ENGINE: lambda: EngineLoop(spec, batches),
        STAGE_0: lambda: EngineLoop(stage_0, batches),
        TORCH: lambda: TorchLoop(spec, batches),
    }
    return {name: Entrant(start, device=spec.device) for name, start in starts.items()}


def _ratios(seconds: Seconds) -> dict[str, float | None]:
    engine_vs_ours = speed_ratio(seconds, ENGINE, OURS)
    assert engine_vs_ours is not None
    return {
        "overhead_vs_engine": engine_vs_ours - 1,
        "vs_plain_torch": speed_ratio(seconds, OURS, TORCH),
        "vs_accelerate_loop": speed_ratio(seconds, OURS, ACCELERATE),
        "deepspeed_vs_torch": speed_ratio(seconds, ENGINE, TORCH),
        "deepspeed_stage_0_vs_torch": speed_ratio(seconds, STAGE_0, TORCH),
    }


def _rates(
    entrants: Mapping[str, Entrant], seconds: Seconds, *, images: int, peak_flops: float
) -> dict[str, Any]:
    ours = entrants[OURS].loop
    assert isinstance(ours, TrainerLoop)
    rates = {name: images / median(values) for name, values in seconds.items()}
    flops = ours.trainer.flops.training
    return {
        "images_per_s": rates,
        "mfu": {name: rate * flops / peak_flops for name, rate in rates.items()},
        "training_flops_per_image": flops,
        "peak_flops_per_s": peak_flops,
        "data_wait_share": sum(ours.waited_seconds[WARM_UP:]) / sum(seconds[OURS]),
        "attention": ours.trainer.attention.to_json(),
        "parameters": ours.trainer.num_parameters,
    }


def _peak_bytes(
    entrants: Mapping[str, Entrant], peer: AccelerateLoop | None
) -> dict[str, int | None]:
    found: dict[str, int | None] = {name: each.peak_bytes for name, each in entrants.items()}
    return {**found, ACCELERATE: peer.facts["peak_bytes"] if peer else None}


def _loss_differences(entrants: Mapping[str, Entrant]) -> dict[str, float]:
    """Largest relative difference to our losses, over all steps."""
    ours = entrants[OURS].losses
    return {
        name: largest_difference(entrant.losses, ours)
        for name, entrant in entrants.items()
        if name != OURS
    }


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Torch with so many threads for the time of the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _ignored(training: TrainingProgress) -> None:
    """The bar of the bench shows them."""
    del training
