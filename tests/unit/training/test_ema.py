import pytest
import torch

from histodiff.training import EmaConfig, WeightAverages
from histodiff.training.ema import ema_decay


def test_ema_decay_halves_an_old_weight_after_the_half_life():
    assert ema_decay(1000, rampup=None, images_seen=50, batch=50) ** 20 == pytest.approx(0.5)


def test_ema_decay_rampup_forgets_the_first_weights():
    survived = 1.0
    for step in range(1, 101):
        survived *= ema_decay(1e6, rampup=0.05, images_seen=step * 10, batch=10)
    assert survived < 1e-6


def test_averages_of_bf16_like_small_updates_move_in_fp32_each_by_its_half_life():
    half_lives = (1e5, 2e3)
    weights = [torch.zeros(3)]
    config = EmaConfig(half_lives_images=half_lives, rampup=None)
    averages = WeightAverages(weights, config=config, batch=10)
    expected = [torch.zeros(3, dtype=torch.float64) for _ in half_lives]
    for step in range(1, 201):
        weights[0] += 1e-3
        averages.update(weights, images_seen=10 * step)
        for number, half_life in enumerate(half_lives):
            decay = 0.5 ** (10 / half_life)
            expected[number] = decay * expected[number] + (1 - decay) * weights[0].double()
    for parts, value in zip(averages.parts, expected, strict=True):
        torch.testing.assert_close(parts[0].double(), value, rtol=1e-4, atol=0)


def test_ema_half_lives_that_would_share_a_name_are_refused():
    with pytest.raises(ValueError, match="different whole numbers"):
        EmaConfig(half_lives_images=(100.2, 100.4))
