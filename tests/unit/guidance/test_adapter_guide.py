"""A conditional denoiser as a guide, where everything is known: classes that are Gaussians."""

import pytest
import torch

from histodiff.diffusion import (
    AutoguidanceConfig,
    EpsilonObjective,
    GuidanceConfig,
    KarrasSchedule,
    autoguided_denoiser,
    create_preconditioning,
    noise_levels,
    sample,
)
from histodiff.diffusion.samplers import HeunSampler
from histodiff.guidance.adapter_guide import AdapterGuide
from histodiff.guidance.bayes import BayesConfig, class_log_probabilities
from histodiff.guidance.calibration import Temperatures

MEANS, STD = torch.tensor([-1.0, 1.0], dtype=torch.float64), 0.5
KNOWN = (0.001, 100.0)
EVERYWHERE = (0.001, 100.0)
ANY = 2


def log_density(x, sigma, label):
    variance = STD**2 + sigma.reshape(-1, 1, 1, 1) ** 2
    return -((x - MEANS[label]) ** 2 / (2 * variance)).sum(dim=(1, 2, 3))


def of_class(x, sigma, label):
    variance = sigma.reshape(-1, 1, 1, 1) ** 2
    return (STD**2 * x + variance * MEANS[label]) / (STD**2 + variance)


def posterior(x, sigma):
    """``log p(k | x; sigma)`` exactly, of shape (B, 2)."""
    return torch.stack([log_density(x, sigma, k) for k in (0, 1)], dim=1).log_softmax(dim=1)


def of_any(x, sigma):
    weights = posterior(x, sigma).exp()
    parts = torch.stack([of_class(x, sigma, k) for k in (0, 1)], dim=1)
    return (weights.reshape(len(x), 2, 1, 1, 1) * parts).sum(dim=1)


class Denoisers:
    """The exact denoisers of both classes and of any, which count how often they are asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, x, sigma, classes):
        self.asked.append(classes.unique().tolist())
        every = torch.stack([of_class(x, sigma, 0), of_class(x, sigma, 1), of_any(x, sigma)])
        return every[classes, torch.arange(len(x))]


def guide(denoisers=None, *, sigmas=EVERYWHERE, levels=24, temperatures=None):
    return AdapterGuide(
        torch.nn.Identity(), denoisers or Denoisers(), ("left", "right"), sigmas=sigmas,
        known=KNOWN, bayes=BayesConfig(levels=levels), temperatures=temperatures,
    )  # fmt: skip


def noisy(count=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sigma = torch.logspace(-1.5, 1.0, count, dtype=torch.float64)
    mean = MEANS[torch.arange(count) % 2].reshape(-1, 1, 1, 1)
    noise = torch.randn((count, 1, 2, 2), generator=generator, dtype=torch.float64)
    return mean + (STD**2 + sigma.reshape(-1, 1, 1, 1) ** 2).sqrt() * noise, sigma


def test_denoising_losses_give_the_exact_posterior_at_every_noise_level():
    x, sigma = noisy()
    x = 0.4 * x  # so that classes are in doubt
    found = class_log_probabilities(
        Denoisers(), x, sigma, num_classes=2, config=BayesConfig(levels=48), sigma_range=KNOWN
    )
    torch.testing.assert_close(found.exp().double(), posterior(x, sigma).exp(), atol=0.02, rtol=0)


def test_few_noise_levels_already_tell_the_classes():
    x, sigma = noisy(count=32)
    exact = posterior(x, sigma)
    found = guide(levels=8).log_probabilities(x, sigma)
    sure = exact.exp().amax(dim=1) > 0.7
    assert sure.sum() > 10
    assert torch.equal(found.argmax(dim=1)[sure], exact.argmax(dim=1)[sure])


def test_what_is_said_of_a_sample_does_not_depend_on_the_others():
    x, sigma = noisy()
    whole = guide().log_probabilities(x, sigma)
    alone = torch.cat([guide().log_probabilities(x[i : i + 1], sigma[i : i + 1]) for i in range(8)])
    torch.testing.assert_close(whole, alone)


def test_temperature_softens_what_is_said_and_not_how_it_steers():
    x, sigma = noisy()
    hot = guide(temperatures=Temperatures((0.01, 10.0), (50.0, 50.0)))
    torch.testing.assert_close(
        hot.log_probabilities(x, sigma),
        (guide().log_probabilities(x, sigma) / 50).log_softmax(dim=1),
    )
    labels, guidance = (
        torch.zeros(8, dtype=torch.long),
        GuidanceConfig(scale=2, sigma_interval=EVERYWHERE),
    )
    steered, plain = (
        each.steered(each.adapted(of_any), labels, guidance=guidance)(x, sigma)
        for each in (hot, guide())
    )
    assert torch.equal(steered, plain)


@pytest.mark.parametrize("label", [0, 1])
def test_scale_one_is_the_denoiser_of_the_class_and_zero_that_of_any(label):
    x, sigma = noisy()
    labels = torch.full((8,), label)
    for scale, expected in ((1.0, of_class(x, sigma, label)), (0.0, of_any(x, sigma))):
        own = guide()
        guidance = GuidanceConfig(scale=scale, sigma_interval=EVERYWHERE)
        steered = own.steered(own.adapted(of_any), labels, guidance=guidance)
        torch.testing.assert_close(steered(x, sigma), expected)


def test_difference_of_denoisers_is_the_gradient_of_the_exact_posterior():
    x, sigma = noisy()
    asked = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(posterior(asked, sigma)[:, 1].sum(), asked)
    own = guide()
    guidance = GuidanceConfig(scale=3.0, sigma_interval=EVERYWHERE)
    steered = own.steered(own.adapted(of_any), torch.ones(8, dtype=torch.long), guidance=guidance)
    expected = of_any(x, sigma) + 3 * sigma.reshape(-1, 1, 1, 1) ** 2 * gradient
    torch.testing.assert_close(steered(x, sigma), expected)


def test_beyond_the_trained_noise_levels_the_denoiser_is_left_alone():
    x, sigma = noisy()
    own = guide(sigmas=(0.1, 1.0))
    adapted = own.adapted(lambda x, sigma: torch.full_like(x, 7.0))(x, sigma)
    inside = (sigma >= 0.1) & (sigma <= 1.0)
    assert inside.any()
    assert not inside.all()
    torch.testing.assert_close(adapted[inside], of_any(x, sigma)[inside])
    assert (adapted[~inside] == 7.0).all()


def test_denoiser_of_any_is_asked_once_for_both_of_its_uses():
    x, sigma = noisy()
    denoisers = Denoisers()
    own = guide(denoisers)
    guidance = GuidanceConfig(scale=2.0, sigma_interval=EVERYWHERE)
    steered = own.steered(own.adapted(of_any), torch.zeros(8, dtype=torch.long), guidance=guidance)
    first = steered(x, sigma)
    assert denoisers.asked == [[ANY], [0]]
    x.mul_(2)  # the same tensor, and not the same latents
    assert not torch.equal(steered(x, sigma), first)
    assert denoisers.asked == [[ANY], [0]] * 2


def test_guide_composes_with_autoguidance():
    x, sigma = noisy()
    own, labels = guide(), torch.ones(8, dtype=torch.long)

    def weak(x, sigma):
        return 0.5 * of_any(x, sigma)

    driven = autoguided_denoiser(
        own.adapted(of_any), weak, AutoguidanceConfig(scale=1.5, sigma_interval=EVERYWHERE)
    )
    guidance = GuidanceConfig(scale=2.0, sigma_interval=EVERYWHERE)
    found = own.steered(driven, labels, guidance=guidance)(x, sigma)
    expected = (
        weak(x, sigma)
        + 1.5 * (of_any(x, sigma) - weak(x, sigma))
        + 2.0 * (of_class(x, sigma, 1) - of_any(x, sigma))
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("label", [0, 1])
def test_samples_land_on_the_wanted_class(label):
    levels = noise_levels(
        KarrasSchedule(type="karras", steps=20),
        create_preconditioning(EpsilonObjective(type="epsilon")),
    )
    noise = torch.randn((200, 1, 2, 2), generator=torch.Generator().manual_seed(2)).double()
    own = guide(sigmas=(0.0, 1e6))
    guidance = GuidanceConfig(scale=1.0, sigma_interval=(0.0, 1e6))
    drawn = sample(
        own.steered(own.adapted(of_any), torch.full((200,), label), guidance=guidance),
        sigmas=levels, sampler=HeunSampler(type="heun"), noise_B=noise,
        step_noise=lambda step: noise,
    )  # fmt: skip
    assert drawn.mean().item() == pytest.approx(float(MEANS[label]), abs=0.05)
    assert drawn.std().item() == pytest.approx(STD, rel=0.06)
