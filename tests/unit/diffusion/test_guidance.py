import math

import pytest
import torch

from histodiff.config import parse_config
from histodiff.diffusion import (
    EpsilonObjective,
    GuidanceConfig,
    KarrasSchedule,
    create_preconditioning,
    guided_denoiser,
    noise_levels,
    sample,
)
from histodiff.diffusion.samplers import HeunSampler
from histodiff.errors import ConfigError

EVERYWHERE = (0.0, math.inf)
MEANS, STD = (-2.0, 2.0), 0.5


def component(x, sigma, mean):
    """Log density of one noisy Gaussian, summed over the dimensions of each sample."""
    variance = STD**2 + sigma.reshape(-1, 1, 1, 1) ** 2
    return -((x - mean) ** 2 / (2 * variance) + variance.log() / 2).sum(dim=(1, 2, 3))


def component_denoiser(x, sigma, mean):
    variance = sigma.reshape(-1, 1, 1, 1) ** 2
    return (STD**2 * x + variance * mean) / (STD**2 + variance)


def mixture_denoiser(x, sigma):
    weights = torch.stack([component(x, sigma, mean) for mean in MEANS]).softmax(dim=0)
    parts = torch.stack([component_denoiser(x, sigma, mean) for mean in MEANS])
    return (weights.reshape(2, -1, 1, 1, 1) * parts).sum(dim=0)


def log_prob_of(label):
    def log_prob(x, sigma):
        scores = torch.stack([component(x, sigma, mean) for mean in MEANS])
        return scores.log_softmax(dim=0)[label]

    return log_prob


def noisy(count=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn((count, 1, 2, 2), generator=generator, dtype=torch.float64)
    sigma = torch.linspace(0.1, 6.0, count, dtype=torch.float64)
    return x, sigma


@pytest.mark.parametrize("label", [0, 1])
def test_guidance_of_scale_one_gives_the_posterior_denoiser(label):
    # Bayes: D(x) + sigma^2 grad log p(y | x) is the denoiser of the component y alone.
    x, sigma = noisy()
    guided = guided_denoiser(
        mixture_denoiser, log_prob_of(label), scale=1.0, sigma_interval=EVERYWHERE
    )
    torch.testing.assert_close(guided(x, sigma), component_denoiser(x, sigma, MEANS[label]))


@pytest.mark.parametrize("scale", [0.5, 10.0])
def test_guidance_equals_the_paper_in_noise_coordinates(scale):
    # eps' = eps - w sqrt(1 - abar) grad_z log p(y | z), z = sqrt(abar) x
    x, sigma = noisy()
    column = sigma.reshape(-1, 1, 1, 1)
    root = (1 + column**2).rsqrt()
    z = (root * x).requires_grad_()
    (gradient,) = torch.autograd.grad(log_prob_of(1)(z / root, sigma).sum(), z)
    noise = (x - mixture_denoiser(x, sigma)) / column
    steered = noise - scale * (1 - root**2).sqrt() * gradient
    guided = guided_denoiser(
        mixture_denoiser, log_prob_of(1), scale=scale, sigma_interval=EVERYWHERE
    )
    torch.testing.assert_close(guided(x, sigma), x - column * steered)


def test_guidance_acts_inside_the_interval_alone():
    x, sigma = noisy()
    guided = guided_denoiser(mixture_denoiser, log_prob_of(0), scale=3.0, sigma_interval=(1.0, 4.0))
    plain, steered = mixture_denoiser(x, sigma), guided(x, sigma)
    inside = (sigma >= 1.0) & (sigma <= 4.0)
    assert inside.any()
    assert not inside.all()
    assert torch.equal(steered[~inside], plain[~inside])
    assert ((steered - plain)[inside].abs().amax(dim=(1, 2, 3)) > 0).all()


@pytest.mark.parametrize("label", [0, 1])
def test_guided_samples_land_on_the_wanted_component(label):
    levels = noise_levels(
        KarrasSchedule(type="karras", steps=30),
        create_preconditioning(EpsilonObjective(type="epsilon")),
    )
    noise = torch.randn((300, 1, 2, 2), generator=torch.Generator().manual_seed(2)).double()
    drawn = sample(
        guided_denoiser(mixture_denoiser, log_prob_of(label), scale=1.0, sigma_interval=EVERYWHERE),
        sigmas=levels, sampler=HeunSampler(type="heun"), noise_B=noise,
        step_noise=lambda step: noise,
    )  # fmt: skip
    assert drawn.mean().item() == pytest.approx(MEANS[label], abs=0.06)
    assert drawn.std().item() == pytest.approx(STD, rel=0.06)


def test_guidance_with_crossed_interval_is_refused():
    values = {"scale": 1.0, "sigma_interval": [3.0, 1.0]}
    with pytest.raises(ConfigError, match="ascending"):
        parse_config(GuidanceConfig, values, source="test")
