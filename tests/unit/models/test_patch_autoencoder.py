"""The patch autoencoder: its linear start against scikit-learn, its symmetries, its files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from histodiff.errors import ConfigError
from histodiff.models.autoencoder import (
    Autoencoder,
    LinearMap,
    PatchArchitecture,
    PatchAutoencoder,
    create_network,
    load_autoencoder,
    principal_components,
    save_autoencoder,
    start_from_linear,
    turned,
    turned_each,
)
from histodiff.runtime.symmetries import NAMES, square_symmetry
from histodiff.storage import storage_path
from tests.support.patch_autoencoders import textures


@pytest.fixture(scope="module")
def patches() -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    return textures(64)


@pytest.fixture(scope="module")
def linear(patches: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> LinearMap:
    return principal_components(patches, side=4, count=8, seed=0)


def _network(linear: LinearMap, **changed: int | float) -> PatchAutoencoder:
    fields = {"downsampling": 4, "latent_channels": 8, "width": 8} | changed
    torch.manual_seed(0)
    network = create_network(PatchArchitecture(type="patch", **fields))
    start_from_linear(network, linear)
    return network


def test_components_are_orthonormal_and_ordered(linear: LinearMap) -> None:
    gram = linear.components_CD @ linear.components_CD.T
    np.testing.assert_allclose(gram, np.eye(8), atol=1e-10)
    assert (np.diff(linear.variance_C) <= 1e-9).all()


def test_variance_kept_equals_that_of_scikit_learn_on_blocks_in_every_orientation(
    patches: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", linear: LinearMap
) -> None:
    blocks = patches.reshape(64, 8, 4, 8, 4, 3).transpose(0, 1, 3, 5, 2, 4).reshape(-1, 3, 4, 4)
    turned_blocks = np.concatenate(
        [
            np.stack([square_symmetry(block.astype(np.float32), which) for block in blocks[::4]])
            for which in range(8)
        ]
    )
    values = turned_blocks.reshape(len(turned_blocks), -1) / 127.5 - 1
    oracle = PCA(8).fit(values)
    ours = ((values - linear.mean_D) @ linear.components_CD.T).var(axis=0).sum()
    assert ours == pytest.approx(oracle.explained_variance_.sum(), rel=0.005)


@pytest.mark.parametrize("which", range(8), ids=NAMES)
def test_linear_latents_turn_with_the_pixels_exactly(linear: LinearMap, which: int) -> None:
    network = _network(linear, encoder_blocks=0, decoder_blocks=0)
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = network.encode(pixels).latent_dist.mean
    moved = turned(latents, which, channels=network.symmetries)
    torch.testing.assert_close(network.encode(turned(pixels, which)).latent_dist.mean, moved)
    torch.testing.assert_close(
        network.decode(moved).sample, turned(network.decode(latents).sample, which)
    )


def test_untrained_network_with_blocks_is_the_linear_map(linear: LinearMap) -> None:
    with_blocks = _network(linear)
    without = _network(linear, encoder_blocks=0, decoder_blocks=0)
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    latents = with_blocks.encode(pixels).latent_dist.mean
    torch.testing.assert_close(latents, without.encode(pixels).latent_dist.mean)
    torch.testing.assert_close(with_blocks.decode(latents).sample, without.decode(latents).sample)


def test_all_components_lose_nothing(
    patches: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]",
) -> None:
    linear = principal_components(patches, side=2, count=12, seed=0)
    network = _network(linear, downsampling=2, latent_channels=12, encoder_blocks=0)
    autoencoder = Autoencoder(network)
    pixels = torch.from_numpy(patches[:4]).permute(0, 3, 1, 2)
    assert torch.equal(autoencoder.decode(autoencoder.encode(pixels).mean), pixels)


def test_posterior_has_the_width_that_was_asked_for(linear: LinearMap) -> None:
    autoencoder = Autoencoder(_network(linear, posterior_std=0.05))
    moments = autoencoder.encode(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    torch.testing.assert_close(moments.std, torch.full_like(moments.std, 0.05))


def test_saved_network_opens_with_its_symmetries(linear: LinearMap, tmp_path: Path) -> None:
    autoencoder = Autoencoder(_network(linear))
    save_autoencoder(storage_path(tmp_path / "made"), autoencoder)
    opened = load_autoencoder(storage_path(tmp_path / "made"), device="cpu")
    assert opened.encoder_sha256 == autoencoder.encoder_sha256
    assert opened.symmetries == linear.channels
    assert (opened.downsampling, opened.latent_channels) == (4, 8)


def test_images_turn_each_by_their_own_symmetry() -> None:
    images = torch.rand(5, 3, 8, 8)
    which = torch.tensor([3, 0, 7, 3, 5])
    found = turned_each(images, which)
    for place, symmetry in enumerate(which.tolist()):
        assert torch.equal(found[place], turned(images[place : place + 1], symmetry)[0])


def test_gradient_checkpointing_changes_nothing(linear: LinearMap) -> None:
    pixels = torch.rand(1, 3, 16, 16)
    gradients = []
    for checkpointed in (False, True):
        network = _network(linear).train()
        if checkpointed:
            network.enable_gradient_checkpointing()
        network.decode(network.encode(pixels).latent_dist.mean).sample.square().mean().backward()
        gradients.append(network.encoder.linear.weight.grad)
    torch.testing.assert_close(*gradients)


def test_more_components_than_values_are_refused(
    patches: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]",
) -> None:
    with pytest.raises(ConfigError, match="a block of 2x2 px has 12 values; give fewer"):
        principal_components(patches, side=2, count=13, seed=0)
