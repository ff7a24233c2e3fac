import numpy as np
import pytest
import torch

from histodiff.data_prep.slides.patch_index import PatchIndex
from histodiff.errors import ConfigError
from histodiff.models.autoencoder import AutoencoderArchitecture, create_network
from histodiff.pretraining.autoencoder import (
    AutoencoderTraining,
    ReconstructionLoss,
    crops_at,
    kl_divergence,
    load_patches,
    reconstruction_error,
    training_loss,
)
from histodiff.training.fit import FitConfig
from tests.support.labelled_chain import CLASSES, PATCHES_PER_SLIDE, SPLITS, make_patches

ARCHITECTURE = AutoencoderArchitecture(
    channels=(8, 8), latent_channels=2, blocks_per_level=1, norm_groups=4, mid_attention=False
)
LOSS = ReconstructionLoss(kl=1e-3)


def training(**changes):
    values = {
        "architecture": ARCHITECTURE, "loss": LOSS, "crop_px": 8, "batch": 4, "max_patches": 100,
        "fit": FitConfig(steps=1, lr=1e-3),
    }  # fmt: skip
    return AutoencoderTraining(**{**values, **changes})


def numbered_pixels(count=6, side=12):
    """Patches whose pixels say which patch, row and column they are."""
    pixels = np.zeros((count, side, side, 3), np.uint8)
    pixels[..., 0] = np.arange(count)[:, None, None]
    pixels[..., 1] = np.arange(side)[None, :, None]
    pixels[..., 2] = np.arange(side)[None, None, :]
    return pixels


def as_uint8(batch_BCHW):
    return ((batch_BCHW + 1) * 127.5).round().to(torch.uint8)


def test_crops_are_a_pure_function_of_seed_and_step():
    pixels = numbered_pixels()
    first = crops_at(pixels, 3, batch=4, crop_px=8, seed=1)
    assert torch.equal(first, crops_at(pixels, 3, batch=4, crop_px=8, seed=1))
    assert not torch.equal(first, crops_at(pixels, 4, batch=4, crop_px=8, seed=1))
    assert not torch.equal(first, crops_at(pixels, 3, batch=4, crop_px=8, seed=2))


def test_crops_are_squares_of_one_patch_in_every_orientation():
    crops = as_uint8(crops_at(numbered_pixels(), 0, batch=200, crop_px=8, seed=0))
    assert crops.shape == (200, 3, 8, 8)
    orientations = set()
    for patch, rows, columns in crops.tolist():
        assert len({value for line in patch for value in line}) == 1
        flat = sorted(value for line in rows for value in line)
        assert flat == sorted(list(range(flat[0], flat[0] + 8)) * 8)
        corner = (rows[0][0], columns[0][0], rows[0][7], columns[0][7])
        low, left = min(map(min, rows)), min(map(min, columns))
        orientations.add(tuple(v - (low, left)[i % 2] for i, v in enumerate(corner)))
    assert len(orientations) == 8


def test_kl_divergence_equals_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn((2, 5, 3, 3), generator=generator)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (log_variance / 2).exp()),
        torch.distributions.Normal(0.0, 1.0),
    ).mean()
    torch.testing.assert_close(kl_divergence(mean, log_variance), expected)


def test_reconstruction_error_equals_the_naive_one():
    generator = torch.Generator().manual_seed(0)
    decoded, clean = torch.randn((2, 2, 3, 8, 8), generator=generator)
    weights = ReconstructionLoss(gradient=2.0, gradient_scales=2, kl=1e-3)

    def gradients(image):
        return torch.diff(image, dim=-1), torch.diff(image, dim=-2)

    def halved(image):
        return (
            image[..., ::2, ::2] + image[..., 1::2, ::2]
            + image[..., ::2, 1::2] + image[..., 1::2, 1::2]
        ) / 4  # fmt: skip

    expected = (decoded - clean).abs().mean()
    for ours, theirs in ((decoded, clean), (halved(decoded), halved(clean))):
        for mine, other in zip(gradients(ours), gradients(theirs), strict=True):
            expected = expected + 2.0 / 2 * (mine - other).abs().mean()
    torch.testing.assert_close(reconstruction_error(decoded, clean, weights), expected)


def test_training_loss_is_a_pure_function_of_the_step():
    torch.manual_seed(0)
    network = create_network(ARCHITECTURE)
    loss = training_loss(network, numbered_pixels(), training(), seed=0)
    first = loss(7)
    torch.manual_seed(123)
    assert torch.equal(loss(7), first)
    assert not torch.equal(loss(8), first)


@pytest.mark.parametrize("crop_px", [16, 7])
def test_crop_that_does_not_suit_is_refused(crop_px):
    network = create_network(ARCHITECTURE)
    unsuitable = training().model_copy(update={"crop_px": crop_px})
    with pytest.raises(ConfigError, match="crop_px"):
        training_loss(network, numbered_pixels(side=12), unsuitable, seed=0)


@pytest.fixture
def index(site, tmp_path):
    return PatchIndex.open(make_patches(site, tmp_path / "images").path)


def test_load_patches_takes_one_split_and_no_more_than_asked(index):
    everything = load_patches([index], split="train", count=1000, seed=0)
    available = len(CLASSES) * SPLITS.count("train") * PATCHES_PER_SLIDE
    assert everything.pixels_NHWC.shape == (available, 32, 32, 3)
    some = load_patches([index, index], split="train", count=5, seed=0).pixels_NHWC
    assert len(some) == 5
    known = {patch.tobytes() for patch in everything.pixels_NHWC}
    assert {patch.tobytes() for patch in some} <= known


def test_load_patches_leaves_out_and_names_what_cannot_be_read(index, tmp_path):
    victim = next(row for row in index.patches.to_pylist() if row["split"] == "val")
    path = tmp_path / "images" / victim["path"]
    path.write_bytes(path.read_bytes()[:60])
    loaded = load_patches([index], split="val", count=1000, seed=0)
    assert len(loaded.pixels_NHWC) == len(CLASSES) * PATCHES_PER_SLIDE - 1
    assert [(issue.unit, issue.reason) for issue in loaded.failed] == [
        (victim["path"], "UNREADABLE")
    ]


def test_load_patches_of_an_empty_split_names_the_split(index, tmp_path):
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    with pytest.raises(ConfigError, match="val"):
        load_patches([index], split="val", count=10, seed=0)
