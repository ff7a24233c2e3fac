"""Noise levels of guides."""

import math

import pytest
import torch
from pydantic import ValidationError

from histodiff.diffusion import EdmObjective, create_preconditioning
from histodiff.guidance.noise import LogUniformNoise, ObjectiveNoise, noise_sigma, sigma_bins

PRECONDITIONING = create_preconditioning(EdmObjective(type="edm"))
LOG_UNIFORM = LogUniformNoise(type="log_uniform", sigma_min=0.1, sigma_max=10.0)


def test_noise_sigma_log_uniform_is_geometric_in_u():
    sigma = noise_sigma(LOG_UNIFORM, PRECONDITIONING, torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(sigma, torch.tensor([0.1, 1.0, 10.0]))


def test_noise_sigma_objective_is_that_of_the_denoiser():
    u = torch.rand(16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigma = noise_sigma(ObjectiveNoise(type="objective"), PRECONDITIONING, u)
    torch.testing.assert_close(sigma, PRECONDITIONING.training_sigma(u).float())


def test_sigma_bins_are_equal_in_log_sigma():
    bins = sigma_bins(LOG_UNIFORM, PRECONDITIONING, num_bins=4)
    assert bins[0][0] == pytest.approx(0.1)
    assert bins[-1][1] == pytest.approx(10.0)
    assert [math.log10(high / low) for low, high in bins] == pytest.approx([0.5] * 4)


def test_log_uniform_descending_range_is_an_error():
    with pytest.raises(ValidationError, match="below"):
        LogUniformNoise(type="log_uniform", sigma_min=1.0, sigma_max=0.5)
