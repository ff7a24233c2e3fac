"""The denoiser of a Gaussian against closed forms, and a denoiser that starts from it."""

import pytest
import torch

from histodiff.diffusion import EdmObjective
from histodiff.models.denoiser import (
    Denoiser,
    DenoiserConfig,
    SnapshotInfo,
    load_denoiser,
    save_snapshot,
)
from histodiff.models.gaussian import GaussianDenoiser, GaussianFit, GaussianStart
from histodiff.models.unet import UNetConfig
from histodiff.storage import storage_path

SHAPE = (2, 4, 4)
SIZE = 32


def covariance():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn((SIZE, SIZE), generator=generator, dtype=torch.float64) / SIZE**0.5
    return root @ root.T


def fitted(rank=SIZE):
    mean = torch.linspace(-1, 1, SIZE, dtype=torch.float64)
    return GaussianFit.of_covariance(mean, covariance(), rank=rank)


def of_gaussian(rank=SIZE):
    found = GaussianDenoiser(SHAPE, rank=rank)
    found.take(fitted(rank))
    return found


@pytest.mark.parametrize("sigma", [0.05, 1.0, 20.0])
def test_gaussian_denoiser_is_the_conditional_mean(sigma):
    x = torch.randn((3, *SHAPE), generator=torch.Generator().manual_seed(1))
    mean = fitted().mean_D
    noisy = covariance() + sigma**2 * torch.eye(SIZE, dtype=torch.float64)
    centred = x.double().flatten(1) - mean
    wanted = mean + centred @ torch.linalg.solve(noisy, covariance())
    found = of_gaussian()(x, torch.full((3,), sigma))
    torch.testing.assert_close(found.flatten(1).double(), wanted, rtol=1e-4, atol=1e-5)


def test_left_out_directions_share_their_variance():
    fit = fitted(rank=8)
    whole = fitted()
    assert fit.rest == pytest.approx(float(whole.variance_R[8:].mean()))
    modelled = fit.basis_DR * fit.variance_R @ fit.basis_DR.T
    modelled += fit.rest * (torch.eye(SIZE).double() - fit.basis_DR @ fit.basis_DR.T)
    assert float(modelled.trace()) == pytest.approx(float(covariance().trace()))
    x = torch.randn((2, *SHAPE))
    noisy = modelled + 0.25 * torch.eye(SIZE, dtype=torch.float64)
    wanted = fit.mean_D + (x.double().flatten(1) - fit.mean_D) @ torch.linalg.solve(noisy, modelled)
    found = of_gaussian(rank=8)(x, torch.full((2,), 0.5))
    torch.testing.assert_close(found.flatten(1).double(), wanted, rtol=1e-4, atol=1e-5)


def test_gaussian_stays_fp32_beside_a_network_of_another_type():
    found = of_gaussian().to(torch.bfloat16)
    assert found.basis_DR.dtype == torch.float32
    assert torch.equal(found.basis_DR, of_gaussian().basis_DR)


def denoiser():
    network = UNetConfig(
        type="unet", channels=(16,), attention_levels=(False,), blocks_per_level=1, head_dim=8,
        norm_groups=8,
    )  # fmt: skip
    config = DenoiserConfig(
        network=network, objective=EdmObjective(type="edm"), gaussian_start=GaussianStart()
    )
    made = Denoiser(config, latent_shape=SHAPE)
    made.gaussian.take(fitted())
    return made.eval()


def test_untrained_denoiser_is_that_of_the_gaussian():
    x, sigma = torch.randn((2, *SHAPE)), torch.tensor([0.3, 3.0])
    torch.testing.assert_close(denoiser()(x, sigma), of_gaussian()(x, sigma))


def test_snapshot_holds_the_gaussian(tmp_path):
    info = SnapshotInfo((0.0, 0.0), (1.0, 1.0), "e" * 64, 32, None, 0)
    save_snapshot(storage_path(tmp_path), denoiser(), info)
    opened = load_denoiser(storage_path(tmp_path), device="cpu").denoiser
    assert torch.equal(opened.gaussian.basis_DR, denoiser().gaussian.basis_DR)
    x, sigma = torch.randn((2, *SHAPE)), torch.tensor([0.3, 3.0])
    torch.testing.assert_close(opened(x, sigma), of_gaussian()(x, sigma))
