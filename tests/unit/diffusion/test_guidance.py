import math

import pytest
import torch

from histodiff.config import parse_config
from histodiff.diffusion import (
    AutoguidanceConfig,
    EpsilonObjective,
    GuidanceConfig,
    KarrasSchedule,
    autoguided_denoiser,
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


def test_autoguidance_extrapolates_from_the_weaker_denoiser_inside_its_interval():
    x, sigma = noisy()
    strong, weak = (component_denoiser(x, sigma, mean) for mean in MEANS)

    def guided(scale, interval=(1.0, 5.0)):
        return autoguided_denoiser(
            lambda x, sigma: component_denoiser(x, sigma, MEANS[0]),
            lambda x, sigma: component_denoiser(x, sigma, MEANS[1]),
            AutoguidanceConfig(scale=scale, sigma_interval=interval),
        )(x, sigma)

    inside = ((sigma >= 1.0) & (sigma <= 5.0)).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(
        guided(1.8), torch.where(inside, weak + 1.8 * (strong - weak), strong)
    )
    assert torch.equal(guided(1.0), strong)
    assert torch.equal(guided(3.0, interval=(50.0, 60.0)), strong)


def test_autoguidance_of_a_wider_gaussian_narrows_the_samples():
    # The score of N(0, s^2) is linear, so guiding one by another gives a narrower Gaussian again.
    def wide(std):
        return lambda x, sigma: std**2 * x / (std**2 + sigma.reshape(-1, 1, 1, 1) ** 2)

    config = AutoguidanceConfig(scale=2.0, sigma_interval=(0.0, 1e6))
    schedule = KarrasSchedule(type="karras", steps=60, sigma_max=80.0)
    levels = noise_levels(schedule, create_preconditioning(EpsilonObjective(type="epsilon")))
    noise = torch.randn(4000, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    stds = [
        sample(
            denoise, sigmas=levels, sampler=HeunSampler(type="heun"), noise_B=noise,
            step_noise=lambda step: noise,
        ).std().item()
        for denoise in (wide(1.0), autoguided_denoiser(wide(1.0), wide(1.5), config))
    ]  # fmt: skip
    assert stds[0] == pytest.approx(1.0, rel=0.03)
    assert stds[1] < 0.85


@pytest.mark.parametrize("fields", [{"scale": 0.5}, {"sigma_interval": [3.0, 1.0]}])
def test_autoguidance_config_refuses_what_is_no_guidance(fields):
    given = {"scale": 2.0, "sigma_interval": [0.1, 5.0], **fields}
    with pytest.raises(ConfigError, match=next(iter(fields))):
        parse_config(AutoguidanceConfig, given, source="here")
