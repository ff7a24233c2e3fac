"""Samples that vary latents: which ones, how far they go, and that a batch does not matter."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from histodiff.diffusion import GuidanceConfig
from histodiff.diffusion.samplers import HeunSampler
from histodiff.synthesis.sampling import Drawing, Networks, draw
from histodiff.synthesis.unguided import Unguided
from histodiff.synthesis.variation import Variation, clean_latents, source_of
from tests.support.samplers import SAMPLERS, name_of

SHAPE = (2, 4, 4)
CLASSES = ("benign", "cancer")
LEVELS = torch.tensor([80.0, 20.0, 5.0, 1.0, 0.2, 0.05, 0.0])


def variation(*sigmas, counts=(3, 2)):
    total = sum(counts)
    mean = np.random.default_rng(0).standard_normal((total, *SHAPE)).astype(np.float32)
    return Variation(
        mean, np.zeros_like(mean), np.repeat([0, 1], counts), np.arange(total) + 100, sigmas
    )


def gaussian_denoise(x, sigma):
    """The exact denoiser of standard normal data."""
    return x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)


def drawn(varied, sampler, samples, *, seed=0):
    """Latents, told by a decoder that shows them as they are."""
    seen = []

    def decode(latents):
        seen.append(latents)
        return torch.zeros(len(latents), 3, 4, 4, dtype=torch.uint8)

    networks = Networks(gaussian_denoise, None, Unguided(CLASSES), decode, SHAPE, "cpu")
    guidance = GuidanceConfig(scale=0.0, sigma_interval=(0.0, 1.0))
    draw(networks, Drawing(LEVELS, sampler, guidance, None, varied, seed), samples)
    return seen[0]


def sources(varied, samples, *, seed=0):
    return [source_of(varied, number, num_classes=2, seed=seed) for number in samples]


def test_sources_take_turns_within_their_class_and_levels_within_a_source():
    varied = variation(0.5, 1.0)
    for label, count in ((0, 3), (1, 2)):
        numbers = [2 * turn + label for turn in range(4 * count)]
        found = sources(varied, numbers)
        pairs = Counter((source.patch, source.sigma) for source in found)
        own = range(100, 103) if label == 0 else range(103, 105)
        assert pairs == {(patch, sigma): 2 for patch in own for sigma in (0.5, 1.0)}
    assert sources(varied, range(6)) != sources(varied, range(6), seed=1)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name_of)
def test_variation_from_almost_no_noise_returns_its_source(sampler):
    varied, numbers = variation(1e-4), list(range(8))
    clean = clean_latents(varied, sources(varied, numbers), numbers, seed=0)
    torch.testing.assert_close(drawn(varied, sampler, numbers), clean, rtol=0, atol=2e-3)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name_of)
def test_variation_from_the_highest_level_does_not_depend_on_its_source(sampler):
    varied, numbers = variation(80.0), list(range(8))
    other = replace(varied, mean_NCHW=-varied.mean_NCHW)
    both = [drawn(each, sampler, numbers) for each in (varied, other)]
    torch.testing.assert_close(*both, rtol=0, atol=0.12)
    half = [drawn(replace(each, sigmas=(1.0,)), sampler, numbers) for each in (varied, other)]
    assert (half[0] - half[1]).abs().mean() > 0.3


def test_variation_of_a_sample_does_not_depend_on_the_batch():
    varied, sampler = variation(0.3, 2.0), HeunSampler(type="heun")
    together = drawn(varied, sampler, range(6))
    apart = torch.cat([drawn(varied, sampler, [number]) for number in range(6)])
    torch.testing.assert_close(together, apart)


def test_clean_latents_are_posterior_draws():
    varied = variation(1.0, counts=(1, 1))
    wide = replace(varied, std_NCHW=np.full_like(varied.mean_NCHW, 0.5))
    numbers = list(range(0, 2000, 2))
    latents = clean_latents(wide, sources(wide, numbers), numbers, seed=0)
    torch.testing.assert_close(
        latents.mean(dim=0), torch.from_numpy(varied.mean_NCHW[0]), rtol=0, atol=0.08
    )
    assert latents.std(dim=0).mean().item() == pytest.approx(0.5, rel=0.05)
