import math

import pytest
import torch

from histodiff.errors import TrainingDiverged
from histodiff.storage import StoragePath, storage_path
from histodiff.training import MetricsRow, OptimizationConfig, fit
from tests.support.optimization import optimization


class Interrupted(Exception):
    pass


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1)
    )


def config_of(**options) -> OptimizationConfig:
    ema = options.pop("ema", None)
    return OptimizationConfig(**optimization(**options), ema=ema)


def train(
    folder: StoragePath, config: OptimizationConfig, *, stop_at: int = -1, poison_at: int = -1
) -> tuple[torch.nn.Module, list[MetricsRow]]:
    module = network()

    def loss(step: int) -> torch.Tensor:
        if step == stop_at:
            raise Interrupted
        inputs = torch.randn(16, 3, generator=torch.Generator().manual_seed(step))
        value = (module(inputs)[:, 0] - inputs.sum(1)).square().mean()
        return value * math.nan if step == poison_at else value

    records = fit(module, loss=loss, config=config, seed=5, checkpoints=folder, run="test")
    return module, records


@pytest.mark.parametrize("ema", [None, {"half_lives_images": [100]}])
@pytest.mark.parametrize("shape", ["constant", "cosine"])
def test_fit_resumed_after_interruption_equals_undisturbed(tmp_path, ema, shape):
    config = config_of(
        steps=23,
        batch=16,
        lr=1e-2,
        warmup_steps=5,
        shape=shape,
        ema=ema,
        log_steps=4,
        checkpoint_steps=6,
    )
    undisturbed, records = train(storage_path(tmp_path / "undisturbed"), config)
    folder = storage_path(tmp_path / "interrupted")
    with pytest.raises(Interrupted):
        train(folder, config, stop_at=15)
    resumed, resumed_records = train(folder, config)
    assert resumed_records == records
    for name, tensor in undisturbed.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_fit_repeated_after_the_end_gives_the_same_result(tmp_path):
    config = config_of(steps=6, batch=16, lr=1e-2, ema={"half_lives_images": [16]})
    first, records = train(storage_path(tmp_path), config)
    second, again = train(storage_path(tmp_path), config, stop_at=0)
    assert again == records
    assert torch.equal(first[0].weight, second[0].weight)


def test_fit_learns_and_records_every_so_many_images(tmp_path):
    module = torch.nn.Linear(3, 1)
    inputs = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    records = fit(
        module, loss=lambda k: (module(inputs)[:, 0] - inputs.sum(1)).square().mean(),
        config=config_of(steps=200, batch=16, lr=0.1, log_steps=50), seed=0,
        checkpoints=storage_path(tmp_path), run="test",
    )  # fmt: skip
    assert [record.step for record in records] == [50, 100, 150, 200]
    assert records[-1].loss < 0.05 * records[0].loss


def test_fit_nonfinite_loss_names_step_and_last_checkpoint(tmp_path):
    config = config_of(steps=20, batch=16, lr=1e-2, checkpoint_steps=4)
    with pytest.raises(TrainingDiverged) as caught:
        train(storage_path(tmp_path / "later"), config, poison_at=6)
    assert caught.value.step == 6
    assert caught.value.checkpoint is not None
    with pytest.raises(TrainingDiverged) as caught:
        train(storage_path(tmp_path / "at once"), config, poison_at=0)
    assert caught.value.checkpoint is None


def test_fit_leaves_frozen_parameters_and_callers_random_state_alone(tmp_path):
    module = network()
    module[0].weight.requires_grad_(False)
    before = module[0].weight.clone()
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    fit(
        module, loss=lambda k: module(torch.ones(4, 3)).square().mean(),
        config=config_of(steps=3, batch=4, lr=0.1), seed=0, checkpoints=storage_path(tmp_path),
        run="test",
    )  # fmt: skip
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(module[0].weight, before)
