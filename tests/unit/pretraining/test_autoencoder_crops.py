import numpy as np
import pytest
import torch

from histodiff.errors import ConfigError
from histodiff.pretraining.autoencoder.crops import CropSource
from histodiff.pretraining.autoencoder.patches import PlacedPatches


def numbered_pixels(count=6, side=12):
    """Patches whose pixels say which patch, row and column they are."""
    pixels = np.zeros((count, side, side, 3), np.uint8)
    pixels[..., 0] = np.arange(count)[:, None, None]
    pixels[..., 1] = np.arange(side)[None, :, None]
    pixels[..., 2] = np.arange(side)[None, None, :]
    return pixels


def source(places=range(4), *, batch=4, crop_px=8, seed=1, count=6):
    by_place = {place: np.arange(place % count, count, batch) for place in places}
    patches = PlacedPatches(numbered_pixels(count), 10 * np.arange(count), by_place, ())
    return CropSource(
        patches, crop_px=crop_px, latent_channels=2, downsampling=4, batch=batch, seed=seed
    )


def test_crops_are_a_pure_function_of_seed_and_step():
    pixels, noise, _, _ = source().batch_at(3)
    again = source().batch_at(3)
    assert torch.equal(pixels, again.pixels_BCHW)
    assert torch.equal(noise, again.noise_BCHW)
    for other in (source().batch_at(4), source(seed=2).batch_at(3)):
        assert not torch.equal(pixels, other.pixels_BCHW)
        assert not torch.equal(noise, other.noise_BCHW)


def test_crops_of_ranks_together_are_those_of_one():
    whole = source(range(4)).batch_at(5)
    halves = [source(range(2)).batch_at(5), source(range(2, 4)).batch_at(5)]
    for number in range(4):
        assert torch.equal(torch.cat([half[number] for half in halves]), whole[number])


def test_places_show_their_patches_only_and_all_of_them():
    seen = [set() for _ in range(4)]
    for step in range(40):
        batch = source().batch_at(step)
        patch_B = batch.pixels_BCHW[:, 0, 0, 0]
        assert batch.label_B.tolist() == (10 * patch_B.int()).tolist()
        for place, patch in enumerate(patch_B.tolist()):
            seen[place].add(patch)
    assert seen == [{0, 4}, {1, 5}, {2}, {3}]


def test_crops_are_squares_of_one_patch_in_every_orientation():
    crops = source(range(200), batch=200).batch_at(0).pixels_BCHW
    assert crops.dtype == torch.uint8  # arithmetic is left to the thread that trains
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


def test_noise_is_standard_normal_of_the_shape_of_the_latents():
    noise = source(range(500), batch=500).batch_at(0).noise_BCHW
    assert noise.shape == (500, 2, 2, 2)
    assert abs(float(noise.mean())) < 0.05
    assert abs(float(noise.std()) - 1) < 0.05


@pytest.mark.parametrize("crop_px", [16, 6])
def test_crop_that_does_not_suit_is_refused(crop_px):
    with pytest.raises(ConfigError, match="crop_px"):
        source(crop_px=crop_px)
