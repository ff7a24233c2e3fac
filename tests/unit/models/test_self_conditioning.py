"""Self-conditioning: what the network is shown, in training and while a sampler runs."""

from functools import partial

import pytest
import torch

from histodiff.diffusion import EdmObjective, UniformWeighting, for_one_run, sample
from histodiff.diffusion.samplers import EulerSampler, HeunSampler
from histodiff.models.cost import flops_per_image, network_cost
from histodiff.models.denoiser import Denoiser, DenoiserConfig, SelfConditioning
from histodiff.models.dit import DiTConfig
from histodiff.models.unet import UNetConfig
from histodiff.pretraining.loss import first_estimates, micro_loss
from histodiff.pretraining.posterior import CleanAndNoise

SHAPE = (2, 8, 8)
UNET = UNetConfig(
    type="unet", channels=(8, 16), attention_levels=(False, True), blocks_per_level=1, head_dim=8,
    norm_groups=4,
)  # fmt: skip
DIT = DiTConfig(type="dit", token_side=2, width=16, depth=1, num_heads=2)
SHOWN = SelfConditioning(probability=0.5)


def denoiser_of(network=UNET, shown=SHOWN):
    """Its output layer, which starts at zero, has some weight."""
    torch.manual_seed(0)
    config = DenoiserConfig(
        network=network, objective=EdmObjective(type="edm"), self_conditioning=shown
    )
    denoiser = Denoiser(config, latent_shape=SHAPE).eval()
    for parameter in denoiser.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return denoiser


def noisy(count=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn((count, *SHAPE), generator=generator), torch.linspace(0.3, 2.0, count)


@pytest.mark.parametrize("network", [UNET, DIT], ids=lambda network: network.type)
def test_no_estimate_is_zeros_and_another_estimate_another_answer(network):
    denoiser = denoiser_of(network)
    x, sigma = noisy()
    with torch.no_grad():
        without = denoiser(x, sigma)
        assert torch.equal(denoiser(x, sigma, previous_BCHW=torch.zeros_like(x)), without)
        assert not torch.allclose(denoiser(x, sigma, previous_BCHW=x), without, atol=1e-3)


@pytest.mark.parametrize(
    ("conditioned", "whole"),
    [([0, 1, 1, 0], False), ([0, 1, 1, 0], True), ([0, 0, 0, 0], False), ([1, 1, 1, 1], False)],
)
def test_chosen_samples_are_shown_their_own_estimate_and_others_zeros(conditioned, whole):
    denoiser = denoiser_of()
    x, sigma = noisy()
    chosen = torch.tensor(conditioned).bool()
    with torch.no_grad():
        expected = torch.where(chosen.reshape(-1, 1, 1, 1), denoiser(x, sigma), 0.0)
    found = first_estimates(denoiser, x, sigma, chosen, whole=whole)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not found.requires_grad


def test_loss_is_that_of_the_second_pass_alone():
    denoiser = denoiser_of()
    clean, _ = noisy()
    part = CleanAndNoise(
        clean, torch.randn_like(clean), torch.rand(4).double(), torch.tensor([True, False] * 2)
    )
    loss_of = partial(
        micro_loss, denoiser, part=part, preconditioning=denoiser.preconditioning,
        weighting=UniformWeighting(type="uniform"),
    )  # fmt: skip
    sigma = denoiser.preconditioning.training_sigma(part.uniform_B).float()
    x = clean + sigma.reshape(-1, 1, 1, 1) * part.noise_BCHW
    shown = torch.where(part.conditioned_B.reshape(-1, 1, 1, 1), denoiser(x, sigma).detach(), 0.0)
    denoised = denoiser(x, sigma, previous_BCHW=shown)
    expected = denoiser.preconditioning.loss(denoised, clean, sigma).mean()
    (gradient,) = torch.autograd.grad(expected, denoiser.network.conv_in.weight)
    for estimates in ("chosen", "whole_batch"):
        loss = loss_of(estimates=estimates)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        (found,) = torch.autograd.grad(loss, denoiser.network.conv_in.weight)
        torch.testing.assert_close(found, gradient, rtol=1e-3, atol=1e-6)


def test_sampler_shows_the_estimate_of_its_last_call_and_none_of_another_run():
    denoiser = denoiser_of()
    levels = torch.tensor([5.0, 1.0, 0.2, 0.0])
    noise = noisy()[0]
    draw = partial(
        sample, sigmas=levels, sampler=EulerSampler(type="euler"), noise_B=noise, step_noise=None
    )
    x, previous = noise * 5.0, None  # Euler by hand
    with torch.no_grad():
        for level, following in ((5.0, 1.0), (1.0, 0.2), (0.2, 0.0)):
            previous = denoiser(x, torch.full((4,), level), previous_BCHW=previous)
            x = x + (following - level) * (x - previous) / level
    first = draw(for_one_run(denoiser))
    torch.testing.assert_close(first, x)
    assert torch.equal(draw(for_one_run(denoiser)), first)
    assert not torch.allclose(draw(denoiser), first, atol=1e-3)


def test_sampler_of_a_denoiser_that_is_shown_nothing_is_as_before():
    denoiser = denoiser_of(shown=None)
    assert for_one_run(denoiser) is denoiser
    drawn = sample(
        for_one_run(lambda x, sigma: x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)),
        sigmas=torch.tensor([2.0, 0.5, 0.0]), sampler=HeunSampler(type="heun"),
        noise_B=noisy()[0], step_noise=None,
    )  # fmt: skip
    assert drawn.isfinite().all()


def test_cost_counts_the_wider_input_and_the_estimates():
    plain, shown = denoiser_of(shown=None), denoiser_of()
    first = 2 * 64 * 9 * 2 * 8  # the first convolution sees two channels more
    flops = flops_per_image(shown)
    assert flops.forward == flops_per_image(plain).forward + first
    wider = network_cost(UNET, SHAPE, 4).flops
    assert flops.training == wider.training + round(0.5 * wider.forward)
