"""Every objective reproduces a density in the plane that is known exactly.

A mixture of three Gaussians with unequal weights, whitened as latents are. A small network is
trained with our loss on our training noise levels and sampled with our sampler; the oracle is the
mixture itself. ``pytest -s -m "slow or not slow"`` on this file prints the whole table.
"""

import math
from functools import cache

import pytest
import torch

from histodiff.diffusion import (
    DdpmSchedule,
    EdmObjective,
    EpsilonObjective,
    FlowObjective,
    KarrasSchedule,
    MinSnrWeighting,
    UncertaintyWeighting,
    VObjective,
    create_preconditioning,
    noise_levels,
    sample,
    training_loss,
)
from histodiff.diffusion.samplers import DdimSampler, HeunSampler
from histodiff.models.uncertainty import Uncertainty

WEIGHTS = torch.tensor([0.5, 0.3, 0.2])
MEANS = torch.tensor([[-1.0, -0.6], [0.9, -0.6], [0.9, 1.4]])
STD = 0.3
STEPS, BATCH, DRAWN = 1600, 256, 4000
MORE_STEPS = {"epsilon": 3200}
"""Its error of D grows with sigma, so the coarse shape of the density is learned last."""
BOUND = 0.10
"""Largest sliced Wasserstein distance; two exact draws are 0.04 apart, wrong ones over 0.18."""
HEUN = (HeunSampler(type="heun"), KarrasSchedule(type="karras", steps=24))
ANCESTRAL = (DdimSampler(type="ddim", eta=1.0), DdpmSchedule(type="ddpm", steps=250))
CASES = {
    "edm": (EdmObjective(type="edm"), HEUN),
    "v": (VObjective(type="v"), HEUN),
    "epsilon": (EpsilonObjective(type="epsilon"), ANCESTRAL),
    "flow": (FlowObjective(type="flow"), HEUN),
    "edm-uncertainty": (
        EdmObjective(type="edm", weighting=UncertaintyWeighting(type="uncertainty")), HEUN,
    ),
    "v-min_snr": (VObjective(type="v", weighting=MinSnrWeighting(type="min_snr")), HEUN),
}  # fmt: skip
SLOW = ("edm-uncertainty", "v-min_snr")


class PlaneNetwork(torch.nn.Module):
    """``F(x; c_noise)`` for points of the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", 0.5 ** torch.arange(0.0, 12.0))
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(2 + 24, 96), torch.nn.SiLU(),
            torch.nn.Linear(96, 96), torch.nn.SiLU(), torch.nn.Linear(96, 2),
        )  # fmt: skip

    def forward(self, x, noise):
        angle = noise.reshape(-1, 1) * self.frequencies
        return self.layers(torch.cat([x, angle.sin(), angle.cos()], dim=1))


def drawn_exactly(count, generator):
    component = torch.multinomial(WEIGHTS, count, replacement=True, generator=generator)
    return MEANS[component] + STD * torch.randn((count, 2), generator=generator)


def denoiser_of(network, scales):
    """Points as latents of shape (2, 1, 1)."""

    def denoise(x, sigma):
        column = sigma.reshape(-1, 1)
        points = x.reshape(-1, 2)
        output = network(scales.c_in(column) * points, scales.c_noise(sigma))
        return (scales.c_skip(column) * points + scales.c_out(column) * output).reshape(x.shape)

    return denoise


@cache
def trained_denoiser(case):
    objective, steps = CASES[case][0], MORE_STEPS.get(case, STEPS)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    scales, network, u = create_preconditioning(objective), PlaneNetwork(), Uncertainty(32)
    denoise = denoiser_of(network, scales)
    parameters = [*network.parameters(), *u.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=3e-3, fused=True)
    learned = isinstance(objective.weighting, UncertaintyWeighting)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * 0.5 * (1 + math.cos(math.pi * step / steps))
        clean = drawn_exactly(BATCH, generator).reshape(-1, 2, 1, 1)
        sigma = scales.training_sigma(torch.rand(BATCH, generator=generator))
        noise = torch.randn(clean.shape, generator=generator)
        denoised = denoise(clean + sigma.reshape(-1, 1, 1, 1) * noise, sigma)
        loss = training_loss(
            scales.loss(denoised, clean, sigma), sigma, weighting=objective.weighting,
            preconditioning=scales, uncertainty_B=u(sigma) if learned else None,
        )  # fmt: skip
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return denoise, scales


def sampled(denoise, scales, how, *, seed=2):
    sampler, schedule = how
    generator = torch.Generator().manual_seed(seed)
    shape = (DRAWN, 2, 1, 1)
    return sample(
        denoise, sigmas=noise_levels(schedule, scales), sampler=sampler,
        noise_B=torch.randn(shape, generator=generator),
        step_noise=lambda step: torch.randn(shape, generator=generator),
    ).reshape(-1, 2)  # fmt: skip


def sliced_wasserstein(left, right, *, directions=64):
    """Mean 1-Wasserstein distance of projections (Bonneel et al. 2015), both of equal count."""
    angles = torch.arange(directions) * math.pi / directions
    across = torch.stack([angles.cos(), angles.sin()])
    gaps = (left @ across).sort(dim=0).values - (right @ across).sort(dim=0).values
    return gaps.abs().mean().item()


def found_modes(points):
    """Share, mean and standard deviation of the points nearest to each mode."""
    nearest = torch.cdist(points, MEANS).argmin(dim=1)
    parts = [points[nearest == mode] for mode in range(3)]
    shares = torch.tensor([len(part) / len(points) for part in parts])
    means = torch.stack([part.mean(dim=0) for part in parts])
    return shares, means, torch.stack([part.std() for part in [p - p.mean(0) for p in parts]])


def exact_draw(seed=99):
    return drawn_exactly(DRAWN, torch.Generator().manual_seed(seed))


def broken(kind, denoise, scales):
    """A denoiser whose preconditioning is wrong in one place."""

    def column(sigma):
        return sigma.reshape(-1, 1, 1, 1)

    return {
        "c_noise": lambda x, sigma: denoise(x, 2 * sigma),
        "c_in": lambda x, sigma: denoise(x / scales.c_in(column(sigma)), sigma),
        "sign of c_out": lambda x, sigma: 2 * scales.c_skip(column(sigma)) * x - denoise(x, sigma),
    }[kind]


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case in SLOW else case for case in CASES]
)
def test_objective_reproduces_the_density(case):
    denoise, scales = trained_denoiser(case)
    points = sampled(denoise, scales, CASES[case][1])
    distance = sliced_wasserstein(points, exact_draw())
    shares, means, stds = found_modes(points)
    print(
        f"\n{case:16s} distance {distance:.3f}"
        f" (of two exact draws {sliced_wasserstein(exact_draw(5), exact_draw()):.3f})"
        f"  shares {[round(share, 3) for share in shares.tolist()]}"
        f"  means off by {(means - MEANS).norm(dim=1).max():.3f}"
        f"  std {[round(std, 3) for std in stds.tolist()]}"
    )
    assert distance < BOUND
    torch.testing.assert_close(shares, WEIGHTS, rtol=0, atol=0.05)
    torch.testing.assert_close(means, MEANS, rtol=0, atol=0.15)
    torch.testing.assert_close(stds, torch.full((3,), STD), rtol=0, atol=0.10)


@pytest.mark.parametrize("kind", ["c_noise", "c_in", "sign of c_out"])
def test_bound_fails_a_wrong_preconditioning(kind):
    denoise, scales = trained_denoiser("edm")
    points = sampled(broken(kind, denoise, scales), scales, HEUN)
    distance = sliced_wasserstein(points, exact_draw())
    print(f"\nwrong {kind:16s} distance {distance:.3f}")
    assert distance > 1.5 * BOUND
