import pytest
import torch

from histodiff.diffusion import EdmObjective, UncertaintyWeighting, training_loss
from histodiff.models.denoiser import (
    Denoiser,
    DenoiserConfig,
    SnapshotInfo,
    load_denoiser,
    save_snapshot,
)
from histodiff.models.uncertainty import Uncertainty
from histodiff.models.unet import UNetConfig
from histodiff.storage import storage_path

SHAPE = (4, 8, 8)
LEARNED = UncertaintyWeighting(type="uncertainty", channels=32)
UNET = UNetConfig(
    type="unet",
    channels=(16, 32),
    attention_levels=(False, True),
    blocks_per_level=1,
    head_dim=8,
    norm_groups=8,
)
INFO = SnapshotInfo((0.0,) * 4, (1.0,) * 4, "0" * 64, patch_px=64, mpp=0.5, images_seen=1)


def learned_denoiser():
    torch.manual_seed(0)
    objective = EdmObjective(type="edm", weighting=LEARNED)
    return Denoiser(DenoiserConfig(network=UNET, objective=objective), latent_shape=SHAPE)


def test_uncertainty_starts_at_zero_and_learns_the_logarithm_of_the_mean_loss():
    torch.manual_seed(0)
    module = Uncertainty(64)
    generator = torch.Generator().manual_seed(1)
    scales = learned_denoiser().preconditioning
    probe = torch.tensor([0.1, 0.5, 2.0])
    assert torch.equal(module(probe), torch.zeros(3))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(600):
        sigma = torch.exp(torch.randn(256, generator=generator) * 1.2 - 0.5)
        loss = mean_loss(sigma) * -torch.rand(256, generator=generator).log()  # exponential
        optimizer.zero_grad()
        training_loss(
            loss, sigma, weighting=LEARNED, preconditioning=scales, uncertainty_B=module(sigma)
        ).backward()
        optimizer.step()
    assert module(probe).tolist() == pytest.approx(mean_loss(probe).log().tolist(), abs=0.15)


def mean_loss(sigma):
    return 0.2 + sigma**2 / (1 + sigma**2)


def test_denoiser_learns_its_uncertainty_beside_the_network():
    denoiser = learned_denoiser()
    x, sigma = torch.randn((3, *SHAPE)), torch.tensor([0.1, 1.0, 5.0])
    found = denoiser(x, sigma, output="training")
    torch.testing.assert_close(found.denoised_BCHW, denoiser(x, sigma))
    loss = denoiser.preconditioning.loss(found.denoised_BCHW, torch.zeros_like(x), sigma)
    training_loss(
        loss, sigma, weighting=LEARNED, preconditioning=denoiser.preconditioning,
        uncertainty_B=found.uncertainty_B,
    ).backward()  # fmt: skip
    gradients = {name: p.grad for name, p in denoiser.named_parameters()}
    assert gradients["uncertainty.weights_K"].abs().sum() > 0
    assert gradients["network.conv_out.weight"].abs().sum() > 0


def test_uncertainty_is_fp32_under_autocast():
    module = learned_denoiser().uncertainty
    torch.nn.init.normal_(module.weights_K)
    sigma = torch.linspace(0.01, 50, 20)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(sigma)
    assert torch.equal(found, module(sigma))


def test_snapshot_keeps_the_uncertainty(tmp_path):
    denoiser = learned_denoiser()
    torch.nn.init.normal_(denoiser.uncertainty.weights_K)
    save_snapshot(storage_path(tmp_path) / "s", denoiser, INFO)
    loaded = load_denoiser(storage_path(tmp_path) / "s", device="cpu").denoiser
    sigma = torch.tensor([0.1, 1.0, 5.0])
    assert torch.equal(loaded.uncertainty(sigma), denoiser.uncertainty(sigma))


def test_denoiser_without_learned_weighting_has_no_more_parameters_than_its_unet():
    objective = EdmObjective(type="edm")
    denoiser = Denoiser(DenoiserConfig(network=UNET, objective=objective), latent_shape=SHAPE)
    assert {name.split(".")[0] for name in denoiser.state_dict()} == {"network"}
    x, sigma = torch.randn((3, *SHAPE)), torch.tensor([0.1, 1.0, 5.0])
    assert denoiser(x, sigma, output="training").uncertainty_B is None
