import pytest
import torch

from histodiff.training import EmaConfig, WeightAverage
from histodiff.training.ema import ema_decay


def test_ema_decay_halves_an_old_weight_after_the_half_life():
    config = EmaConfig(half_life_images=1000, rampup=None)
    assert ema_decay(config, images_seen=50, batch=50) ** 20 == pytest.approx(0.5)


def test_ema_decay_rampup_forgets_the_first_weights():
    config = EmaConfig(half_life_images=1e6, rampup=0.05)
    survived = 1.0
    for step in range(1, 101):
        survived *= ema_decay(config, images_seen=step * 10, batch=10)
    assert survived < 1e-6


def test_average_of_bf16_like_small_updates_moves_in_fp32():
    weights = [torch.zeros(3)]
    average = WeightAverage(weights, config=EmaConfig(half_life_images=1e5, rampup=None), batch=10)
    expected = torch.zeros(3, dtype=torch.float64)
    decay = 0.5 ** (10 / 1e5)
    for step in range(1, 201):
        weights[0] += 1e-3
        average.update(weights, images_seen=10 * step)
        expected = decay * expected + (1 - decay) * weights[0].double()
    torch.testing.assert_close(average.parts[0].double(), expected, rtol=1e-4, atol=0)


def test_average_loaded_goes_on_where_it_was():
    config = EmaConfig(half_life_images=100)
    first = WeightAverage([torch.ones(2), torch.zeros(3)], config=config, batch=10)
    first.update([torch.zeros(2), torch.ones(3)], images_seen=10)
    second = WeightAverage([torch.zeros(2), torch.zeros(3)], config=config, batch=10)
    second.load({name: tensor.clone() for name, tensor in first.tensors().items()})
    for mine, theirs in zip(first.parts, second.parts, strict=True):
        assert torch.equal(mine, theirs)
