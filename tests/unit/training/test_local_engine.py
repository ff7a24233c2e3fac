"""The engine of small models equals a training written down plainly, and shares its checkpoints."""

import math

import torch

from histodiff.runtime import Notice
from histodiff.storage import storage_path
from histodiff.training import LocalEngine, OptimizationConfig, TrainingState
from tests.support.optimization import optimization

BATCH, STEPS = 8, 12


def config(**changes) -> OptimizationConfig:
    values = optimization(steps=STEPS, batch=BATCH, lr=1e-2, warmup_steps=3, log_steps=4)
    values["optimizer"] |= {"weight_decay": 0.1, "clip": 0.05}
    ema = {"half_lives_images": [64, 16], "rampup": 0.5}
    return OptimizationConfig(**{**values, "ema": ema, **changes})


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.SiLU(), torch.nn.Linear(8, 1))


def inputs(step: int) -> torch.Tensor:
    return torch.randn(BATCH, 3, generator=torch.Generator().manual_seed(step))


def error(module: torch.nn.Module, part: torch.Tensor) -> torch.Tensor:
    return (module(part)[:, 0] - part.sum(1)).square().mean()


def engine_training(num_parts: int) -> tuple[list[float], dict, list[dict]]:
    """Losses, weights and averages of a training whose batches are cut into micro-batches."""
    module, settings = network(), config()
    engine = LocalEngine(module, config=settings)
    state = TrainingState(
        engine, config=settings, checkpoints=storage_path("memory://unused"), run="test",
        notice=lambda: Notice.NONE,
    )  # fmt: skip
    losses = []
    for step in range(STEPS):
        parts = inputs(step).chunk(num_parts)
        micro_losses = [lambda network, part=part: error(network, part) for part in parts]
        losses.append(state.advance(micro_losses, require_sound=lambda result: None).loss)
    return losses, module.state_dict(), [state.average(0), state.average(1)]


def plain_training() -> tuple[list[float], dict, list[dict]]:
    """The same with a bare optimizer and averages in double precision."""
    module, settings = network(), config()
    groups = [
        {"params": [module[0].weight, module[2].weight], "weight_decay": 0.1},
        {"params": [module[0].bias, module[2].bias], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999))
    averages = [{n: p.detach().double() for n, p in module.named_parameters()} for _ in range(2)]
    losses = []
    for step in range(STEPS):
        seen = (step + 1) * BATCH
        loss = error(module, inputs(step))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 0.05)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * factor(seen)
        optimizer.step()
        losses.append(loss.item())
        for half_life, average in zip(settings.ema.half_lives_images, averages, strict=True):
            decay = 0.5 ** (BATCH / min(half_life, 0.5 * seen))
            for name, weight in module.named_parameters():
                average[name] = decay * average[name] + (1 - decay) * weight.detach().double()
    return losses, module.state_dict(), averages


def factor(seen: int) -> float:
    warmup, total = 3 * BATCH, STEPS * BATCH
    if seen < warmup:
        return seen / warmup
    return 0.5 * (1 + math.cos(math.pi * (seen - warmup) / (total - warmup)))


def test_local_engine_equals_a_plain_training_however_batches_are_cut():
    expected_losses, expected_weights, expected_averages = plain_training()
    for num_parts in (1, 2, 4):
        losses, weights, averages = engine_training(num_parts)
        torch.testing.assert_close(losses, expected_losses, rtol=1e-5, atol=0)
        torch.testing.assert_close(dict(weights), dict(expected_weights))
        for average, expected in zip(averages, expected_averages, strict=True):
            for name, tensor in expected.items():
                torch.testing.assert_close(average[name].double(), tensor, rtol=1e-4, atol=1e-6)


def test_local_engine_nonfinite_loss_leaves_the_weights_alone():
    module = network()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    engine = LocalEngine(module, config=config())
    result = engine.step([lambda network: error(network, inputs(0)) * math.nan], images_seen=BATCH)
    assert math.isnan(result.loss)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
