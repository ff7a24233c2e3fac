"""Guided sampling with every sampler and every objective, against a density known exactly.

The data are two Gaussians. The network is the best there is: it sees what an objective shows it,
``c_in x`` and ``c_noise``, and answers with the objective's own target, by the textbook form of its
path; so a wrong scale, sign or time anywhere between network and sample shows. With scale 1 the
classifier's gradient makes the denoiser that of one Gaussian alone, by Bayes.
"""

import math

import numpy as np
import pytest
import torch

from histodiff.diffusion import (
    EdmObjective,
    EpsilonObjective,
    FlowObjective,
    KarrasSchedule,
    VObjective,
    create_preconditioning,
    guided_denoiser,
    noise_levels,
    sample,
)
from tests.support.samplers import SAMPLERS, name_of

MEANS, STD, SHAPE = (-2.0, 1.0), 0.5, (100, 1, 2, 2)


def column(noise):
    return noise.reshape(-1, 1, 1, 1)


def log_density(x, sigma, mean):
    variance = STD**2 + column(sigma) ** 2
    return -((x - mean) ** 2 / (2 * variance) + variance.log() / 2).sum(dim=(1, 2, 3))


def log_probabilities(x, sigma):
    return torch.stack([log_density(x, sigma, mean) for mean in MEANS]).log_softmax(dim=0)


def exact(x, sigma):
    """The posterior mean of the clean data, given x at sigma."""
    variance = column(sigma) ** 2
    parts = [(STD**2 * x + variance * mean) / (STD**2 + variance) for mean in MEANS]
    weights = log_probabilities(x, sigma).exp()
    return sum(column(weight) * part for weight, part in zip(weights, parts, strict=True))


def edm_network(z, noise):
    sigma = (noise / 25).exp()  # c_noise = 25 ln sigma
    both = (column(sigma) ** 2 + 1).sqrt()
    x = z * both
    return (exact(x, sigma) - x / both**2) * both / column(sigma)  # Karras et al. 2022, Eq. 8


def v_network(z, noise):
    angle = noise * math.pi / 2000
    x = z / column(angle).cos()
    clean = exact(x, angle.tan())
    added = (x - clean) / column(angle).tan()
    return column(angle).cos() * added - column(angle).sin() * clean


def epsilon_network(z, timestep):
    betas = np.linspace(math.sqrt(0.0015), math.sqrt(0.0155), 1000) ** 2
    bars = np.cumprod(1 - betas)
    log_sigma = np.interp(timestep, np.arange(1000), np.log((1 - bars) / bars) / 2)
    sigma = torch.from_numpy(np.exp(log_sigma))
    x = z * (1 + column(sigma) ** 2).sqrt()
    return (x - exact(x, sigma)) / column(sigma)


def flow_network(z, noise):
    time = noise / 1000
    sigma = time / (1 - time)
    x = z / (1 - column(time))
    clean = exact(x, sigma)
    return (x - clean) / column(sigma) - clean  # velocity: noise - data


OBJECTIVES = {
    "edm": (EdmObjective(type="edm"), edm_network),
    "v": (VObjective(type="v"), v_network),
    "epsilon": (EpsilonObjective(type="epsilon"), epsilon_network),
    "flow": (FlowObjective(type="flow"), flow_network),
}


def denoiser_of(scales, network):
    def denoise(x, sigma):
        level = column(sigma)
        output = network(scales.c_in(level) * x, scales.c_noise(sigma))
        return scales.c_skip(level) * x + scales.c_out(level) * output

    return denoise


def drawn(objective, sampler, *, label, scale, interval=(0.0, math.inf), steps=120):
    config, network = OBJECTIVES[objective]
    scales = create_preconditioning(config)
    generator = torch.Generator().manual_seed(3)

    def noise(step=0):
        return torch.randn(SHAPE, generator=generator, dtype=torch.float64)

    guided = guided_denoiser(
        denoiser_of(scales, network), lambda x, sigma: log_probabilities(x, sigma)[label],
        scale=scale, sigma_interval=interval,
    )  # fmt: skip
    levels = noise_levels(KarrasSchedule(type="karras", steps=steps, sigma_max=30.0), scales)
    return sample(
        guided, sigmas=levels, sampler=sampler, noise_B=noise(), step_noise=noise
    )  # fmt: skip


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_ideal_network_behind_its_scales_is_the_exact_denoiser(objective):
    config, network = OBJECTIVES[objective]
    scales = create_preconditioning(config)
    sigma = torch.logspace(-1.3, 1.2, 40, dtype=torch.float64)
    x = 3 * torch.randn(
        (40, 1, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    torch.testing.assert_close(
        denoiser_of(scales, network)(x, sigma), exact(x, sigma), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=name_of)
def test_guided_samples_are_those_of_the_wanted_gaussian(sampler, objective):
    for label in (0, 1):
        found = drawn(objective, sampler, label=label, scale=1.0)
        standard_error = STD / math.sqrt(found.numel())
        assert found.mean().item() == pytest.approx(MEANS[label], abs=0.02 + 4 * standard_error)
        assert found.std().item() == pytest.approx(STD, rel=0.09)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=name_of)
def test_more_guidance_leaves_the_other_gaussian_and_none_keeps_both(sampler, objective):
    def right(scale, interval=(0.0, math.inf)):
        found = drawn(objective, sampler, label=0, scale=scale, interval=interval, steps=30)
        lowest = torch.full((len(found),), 0.05, dtype=torch.float64)
        return log_probabilities(found, lowest)[0].exp().mean().item()

    assert right(0.0) == pytest.approx(0.5, abs=0.15)
    assert right(4.0, interval=(40.0, 50.0)) == right(0.0)
    assert right(4.0) > 0.99
