import numpy as np
import torch

from histodiff.latents import Whitening
from histodiff.pretraining.draws import drawn_samples

WHITENING = Whitening(mean=(1.0, -2.0), std=(0.5, 4.0))


def moments(count: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    return np.abs(generator.normal(size=(count, 4, 8, 8))).astype(np.float16)


def draw(values: np.ndarray, indices, *, seed: int = 3, purpose: str = "train"):
    return drawn_samples(values, indices, whitening=WHITENING, seed=seed, purpose=purpose)


def test_draws_do_not_depend_on_how_a_batch_is_cut():
    values = moments(6)
    whole = draw(values, range(100, 106))
    parts = [
        draw(values[start : start + 2], range(100 + start, 102 + start)) for start in (0, 2, 4)
    ]
    for name in ("clean_BCHW", "noise_BCHW", "uniform_B"):
        joined = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(getattr(whole, name), joined)


def test_draws_differ_by_sample_seed_and_purpose():
    values = np.repeat(moments(1), 2, axis=0)
    first = draw(values, [0, 1])
    assert not torch.equal(first.noise_BCHW[0], first.noise_BCHW[1])
    assert not torch.equal(first.noise_BCHW, draw(values, [0, 1], seed=4).noise_BCHW)
    assert not torch.equal(first.noise_BCHW, draw(values, [0, 1], purpose="validation").noise_BCHW)


def test_draws_clean_samples_follow_the_whitened_posterior():
    values = np.zeros((2000, 4, 4, 4), np.float16)
    values[:, :2] = 3.0
    values[:, 2:] = 2.0
    found = draw(values, range(2000))
    mean = found.clean_BCHW.mean(dim=(0, 2, 3))
    std = found.clean_BCHW.std(dim=(0, 2, 3))
    torch.testing.assert_close(mean, torch.tensor([4.0, 1.25]), atol=0.08, rtol=0)
    torch.testing.assert_close(std, torch.tensor([4.0, 0.5]), rtol=0.02, atol=0)
    assert 0.45 < float(found.uniform_B.mean()) < 0.55
    correlation = torch.corrcoef(
        torch.stack([found.clean_BCHW.flatten(), found.noise_BCHW.flatten()])
    )
    assert abs(float(correlation[0, 1])) < 0.02
