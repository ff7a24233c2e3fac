"""Alignment of a layer with a frozen denoiser's features: values, gradients, and what is saved."""

from dataclasses import replace

import pytest
import torch

from histodiff.diffusion import EdmObjective, UniformWeighting
from histodiff.errors import ConfigError
from histodiff.latents import Whitening
from histodiff.models.denoiser import (
    Denoiser,
    DenoiserConfig,
    SelfConditioning,
    SnapshotInfo,
    load_denoiser,
    save_snapshot,
)
from histodiff.models.dit import DiTConfig
from histodiff.models.unet import UNetConfig
from histodiff.pretraining.alignment import Alignment, AlignmentConfig, AlignmentSpec
from histodiff.pretraining.loss import micro_loss
from histodiff.pretraining.posterior import CleanAndNoise
from histodiff.storage import storage_path

SHAPE = (2, 8, 8)
UNET = UNetConfig(
    type="unet", channels=(8, 16), attention_levels=(False, True), blocks_per_level=1, head_dim=8,
    norm_groups=4,
)  # fmt: skip
DIT = DiTConfig(type="dit", token_side=2, width=16, depth=2, num_heads=2)
OURS = Whitening((0.5, -1.0), (2.0, 1.0))
INFO = SnapshotInfo((0.5, -1.0), (2.0, 1.0), "e" * 64, patch_px=64, mpp=0.5, images_seen=1)


def denoiser_of(network, *, seed=0, shown=None):
    torch.manual_seed(seed)
    config = DenoiserConfig(
        network=network, objective=EdmObjective(type="edm"), self_conditioning=shown
    )
    return Denoiser(config, latent_shape=SHAPE)


def alignment_of(folder, denoiser, *, layer="mid_block", of="mid_block", encoder="e" * 64):
    target = {"denoiser": "old@1", "layer": of, "sigma": 0.1}
    config = AlignmentConfig(weight=0.5, layer=layer, width=12, target=target)
    torch.manual_seed(3)
    return Alignment(
        AlignmentSpec(config, str(folder)), denoiser, whitening=OURS, encoder_sha256=encoder,
        device="cpu",
    )  # fmt: skip


@pytest.fixture
def teacher(tmp_path):
    save_snapshot(storage_path(tmp_path), denoiser_of(UNET, seed=1), INFO)
    return tmp_path


def batch(count=4):
    generator = torch.Generator().manual_seed(1)
    clean, noise = torch.randn((2, count, *SHAPE), generator=generator)
    uniform = torch.rand(count, generator=generator).double()
    return CleanAndNoise(clean, noise, uniform, torch.zeros(count).bool())


@pytest.mark.parametrize(
    ("network", "layer"),
    [(UNET, "mid_block"), (UNET, "down_blocks.0"), (UNET, "up_blocks.1"), (DIT, "blocks.1")],
)
def test_gradient_of_the_loss_is_that_of_objective_and_cosine(teacher, network, layer):
    denoiser = denoiser_of(network)
    part, plain = batch(), UniformWeighting(type="uniform")
    options = {"part": part, "preconditioning": denoiser.preconditioning, "weighting": plain}
    alone = micro_loss(denoiser, **options).item()
    alignment = alignment_of(teacher, denoiser, layer=layer)
    loss = micro_loss(denoiser, **options, alignment=alignment)
    assert loss.item() == pytest.approx(alone, rel=1e-5)  # what is reported is the objective's
    weight = denoiser.projection.layers[0].weight
    (found,) = torch.autograd.grad(loss, weight)
    sigma = denoiser.preconditioning.training_sigma(part.uniform_B).float()
    noisy = part.clean_BCHW + sigma.reshape(-1, 1, 1, 1) * part.noise_BCHW
    projected = denoiser(noisy, sigma, output="training").projected_BFHW
    features = []
    old = load_denoiser(storage_path(teacher), device="cpu").denoiser
    old.network.mid_block.register_forward_hook(lambda *given: features.append(given[2]))
    old(part.clean_BCHW, torch.full((4,), 0.1))
    theirs = features[0].flatten(2)
    side = projected.shape[-1] // 4  # the target's grid is 4x4: means over squares
    ours = projected.reshape(4, -1, 4, side, 4, side).mean(dim=(3, 5)).flatten(2)
    cosine = (ours * theirs).sum(1) / ours.norm(dim=1) / theirs.norm(dim=1)
    (expected,) = torch.autograd.grad(-0.5 * cosine.mean(), weight)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    assert alignment.loss(part.clean_BCHW, projected).item() == pytest.approx(
        -cosine.mean().item(), rel=1e-4
    )


def test_alignment_reaches_the_layer_below_and_can_be_learned(teacher):
    denoiser = denoiser_of(UNET, shown=SelfConditioning(probability=0.5))
    alignment, part = alignment_of(teacher, denoiser), batch()
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=3e-3)
    x, sigma = part.clean_BCHW, torch.full((4,), 0.1)
    losses = []
    for _ in range(80):
        projected = denoiser(x, sigma, output="training").projected_BFHW
        loss = alignment.loss(part.clean_BCHW, projected)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert denoiser.network.conv_in.weight.grad.any()
    assert losses[-1] < -0.8 < -0.5 < losses[0]


def test_target_sees_the_latents_in_its_own_whitening(tmp_path):
    old = denoiser_of(UNET, seed=1)
    theirs = replace(INFO, whitening_mean=(0.0, 0.0), whitening_scale=(1.0, 4.0))
    save_snapshot(storage_path(tmp_path / "same"), old, INFO)
    save_snapshot(storage_path(tmp_path / "other"), old, theirs)
    part = batch()
    same, other = (alignment_of(tmp_path / name, denoiser_of(UNET)) for name in ("same", "other"))
    raw = OURS.invert(part.clean_BCHW)
    seen_by_other = Whitening((0.0, 0.0), (1.0, 4.0)).apply(raw)
    projected = torch.randn(4, 16, 4, 4)
    assert other.loss(part.clean_BCHW, projected).item() == pytest.approx(
        same.loss(seen_by_other, projected).item(), rel=1e-4
    )


def test_snapshot_is_without_the_projection(teacher, tmp_path):
    denoiser = denoiser_of(UNET)
    alignment_of(teacher, denoiser)
    save_snapshot(storage_path(tmp_path / "new"), denoiser, INFO)
    loaded = load_denoiser(storage_path(tmp_path / "new"), device="cpu").denoiser
    assert loaded.state_dict().keys() == denoiser_of(UNET).state_dict().keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": "blocks.0"}, r"alignment\.layer=blocks\.0.*mid_block"),
        ({"of": "middle"}, r"alignment\.target\.layer=middle.*down_blocks\.0, down_blocks\.1"),
        ({"encoder": "f" * 64}, "another encoder"),
    ],
)
def test_what_cannot_be_aligned_is_refused(teacher, changes, message):
    with pytest.raises(ConfigError, match=message):
        alignment_of(teacher, denoiser_of(UNET), **changes)
