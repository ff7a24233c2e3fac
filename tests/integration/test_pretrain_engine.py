"""Two gloo ranks under every ZeRO stage against a plain torch loop with a naive average."""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from safetensors.torch import load_file, save_file

from histodiff.storage import storage_path
from histodiff.training import (
    CheckpointWriter,
    DeepSpeedEngine,
    TrainConfig,
    WeightAverages,
    opened_newest,
)

STEPS, BATCH, WORLD = 6, 8, 2
HALF_LIVES = (12, 40)


def config(stage: int) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "images": STEPS * BATCH, "batch": BATCH, "micro_batch": 2, "zero_stage": stage,
            "optimizer": {"type": "adamw", "lr": 0.02, "weight_decay": 0.1, "clip": 0.5},
            "rate": {"warmup_images": 16, "shape": "cosine"},
            "ema": {"half_lives_images": HALF_LIVES, "rampup": 0.5},
            "precision": "fp32", "log_images": 8, "checkpoint_images": 8,
        }
    )  # fmt: skip


def network() -> torch.nn.Module:
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.SiLU(), torch.nn.Linear(7, 3))


def inputs(step: int) -> torch.Tensor:
    return torch.randn(BATCH, 5, generator=torch.Generator().manual_seed(step))


def oracle() -> tuple[list[float], dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Losses, weights and averaged weights of an ordinary loop over whole batches."""
    module, train = network(), config(0)
    groups = [
        {"params": [module[0].weight, module[2].weight], "weight_decay": 0.1},
        {"params": [module[0].bias, module[2].bias], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.99), eps=1e-8)
    averages = [
        {name: p.detach().double().clone() for name, p in module.named_parameters()}
        for _ in HALF_LIVES
    ]
    losses = []
    for step in range(STEPS):
        seen = (step + 1) * BATCH
        loss = module(inputs(step)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = train.lr_at(seen)
        optimizer.step()
        losses.append(loss.item())
        for half_life, average in zip(HALF_LIVES, averages, strict=True):
            decay = 0.5 ** (BATCH / min(half_life, 0.5 * seen))
            for name, parameter in module.named_parameters():
                average[name] = decay * average[name] + (1 - decay) * parameter.detach().double()
    return losses, {n: p.detach() for n, p in module.named_parameters()}, averages


def train_rank(rank: int, world: int, port: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
    )
    for stage in range(4):
        for resume_at in (None, 3):
            run_stage(stage, rank, world, Path(folder), resume_at)
    torch.distributed.destroy_process_group()


def run_stage(stage: int, rank: int, world: int, folder: Path, resume_at: int | None) -> None:
    """Trains; with ``resume_at`` it stops there, and a new engine goes on from the checkpoint."""
    checkpoints = storage_path(folder / f"stage{stage}")
    spans = [(0, STEPS)] if resume_at is None else [(0, resume_at), (resume_at, STEPS)]
    losses = []
    for start, stop in spans:
        engine = DeepSpeedEngine(network(), config=config(stage), device="cpu")
        averages = WeightAverages(engine.masters(), config=config(stage).ema, batch=BATCH)
        if start:
            with opened_newest(checkpoints, needed=engine.needed) as opened:
                assert opened is not None
                assert opened.record.step == start
                engine.load(opened.folder, record=opened.record, averages=averages.states())
        for step in range(start, stop):
            share = inputs(step).chunk(world)[rank].split(2)
            seen = (step + 1) * BATCH
            result = engine.step(
                [lambda module, x=x: module(x).square().mean() for x in share], images_seen=seen
            )
            averages.update(engine.masters(), images_seen=seen)
            losses.append(result.loss)
        weights = engine.gathered(engine.masters())
        averaged = [engine.gathered(parts) for parts in averages.parts]
        if resume_at is not None and not start:
            writer = CheckpointWriter(checkpoints, zero_stage=stage, kept=set)
            states = averages.states()
            writer.save(lambda local: engine.save(local, averages=states), step=stop)  # noqa: B023
            writer.close()
        engine.close()
    if rank == 0:
        name = f"stage{stage}-{'resumed' if resume_at else 'straight'}.safetensors"
        tensors = {f"weights/{n}": t for n, t in weights.items()}
        for number, average in enumerate(averaged):
            tensors |= {f"average{number}/{n}": t for n, t in average.items()}
        save_file(tensors | {"losses": torch.tensor(losses, dtype=torch.float64)}, folder / name)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(train_rank, (WORLD, free_port(), str(folder)), nprocs=WORLD)
    return folder


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("course", ["straight", "resumed"])
def test_engine_two_ranks_equal_plain_loop(trained, stage, course):
    losses, weights, averages = oracle()
    found = load_file(trained / f"stage{stage}-{course}.safetensors")
    torch.testing.assert_close(found["losses"], torch.tensor(losses, dtype=torch.float64),
                               rtol=1e-5, atol=1e-6)  # fmt: skip
    for name in weights:
        torch.testing.assert_close(found[f"weights/{name}"], weights[name], rtol=1e-5, atol=1e-6)
        for number, average in enumerate(averages):
            torch.testing.assert_close(
                found[f"average{number}/{name}"], average[name].float(), rtol=1e-5, atol=1e-6
            )


@pytest.mark.parametrize("stage", range(4))
def test_engine_resumed_equals_straight_exactly(trained, stage):
    straight = load_file(trained / f"stage{stage}-straight.safetensors")
    resumed = load_file(trained / f"stage{stage}-resumed.safetensors")
    for name, tensor in straight.items():
        assert torch.equal(tensor, resumed[name]), name
