"""Augmentation depends on seed and global index alone, and leaves what it should."""

import numpy as np
import pytest
import torch

from histodiff.classification.augment import AugmentConfig, augmented, jittered, turned
from histodiff.classification.stain import stain_jittered
from histodiff.runtime import generator_for
from histodiff.runtime.symmetries import square_symmetry

NOTHING = AugmentConfig(symmetries=False, saturation=0, contrast=0, brightness=0, stain=0)


def images(count=4):
    return np.random.default_rng(0).integers(60, 190, (count, 6, 6, 3), dtype=np.uint8)


def augment(pixels, indices, *, config=None, seed=0):
    return augmented(
        pixels, config=config or AugmentConfig(), seed=seed, indices=indices, device="cpu"
    )


def test_augmented_does_not_depend_on_the_batch():
    pixels = images()
    whole = augment(pixels, range(4))
    parts = [augment(pixels[n : n + 1], [n]) for n in range(4)]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=0, atol=1e-4)
    assert not torch.allclose(whole, augment(pixels, range(4, 8)))
    assert not torch.allclose(whole, augment(pixels, range(4), seed=1))


def test_augmented_with_nothing_switched_on_is_the_image():
    pixels = images()
    expected = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(augment(pixels, range(4), config=NOTHING), expected)


def test_augmented_symmetries_keep_the_pixels_and_reach_all_eight():
    pixels = np.repeat(images(1), 100, axis=0)
    config = NOTHING.model_copy(update={"symmetries": True})
    views = augment(pixels, range(100), config=config)
    assert len({view.numpy().tobytes() for view in views}) == 8
    assert {view.sum().item() for view in views} == {pixels[0].sum()}


def test_turned_images_have_each_its_own_symmetry():
    pixels = images(6)
    which = np.array([3, 0, 7, 3, 5, 1])
    for image, number, found in zip(pixels, which, turned(pixels, which), strict=True):
        assert np.array_equal(found, square_symmetry(image[None], number)[0])


def test_augmented_draws_image_by_image():
    pixels, indices = images(), [9, 2, 70, 3]
    moved, changes, stains = [], [], []
    for image, index in zip(pixels, indices, strict=True):
        rng = generator_for(0, "augment", index)
        moved.append(square_symmetry(image[None], int(rng.integers(8)))[0])
        changes.append(rng.uniform(-1, 1, size=6))
        stains.append(generator_for(0, "augment-stain", index).uniform(-1, 1, size=6))
    given = torch.from_numpy(np.stack(moved)).permute(0, 3, 1, 2).float()
    restained = stain_jittered(
        given, strength=0.2, changes_B6=torch.tensor(np.stack(stains)).float()
    )
    config = AugmentConfig(hed=0.2)
    expected = jittered(
        restained, config=config, changes_B6=torch.tensor(np.stack(changes)).float()
    )
    assert torch.equal(augment(pixels, indices, config=config), expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_jittered_is_the_plain_formula_to_the_bit_in_either_layout(layout):
    rng = np.random.default_rng(1)
    pixels = torch.tensor(rng.uniform(0, 255, (5, 3, 32, 32)), dtype=torch.float32)
    pixels = pixels.contiguous(memory_format=layout)
    before = pixels.clone()
    changes = torch.tensor(rng.uniform(-1, 1, (5, 6)), dtype=torch.float32)
    saturation, contrast, brightness, *stain = changes[:, :, None, None, None].unbind(1)
    grey = pixels.mean(dim=1, keepdim=True)
    expected = grey + (pixels - grey) * (1 + 0.5 * saturation)
    mean = expected.mean(dim=(1, 2, 3), keepdim=True)
    expected = mean + (expected - mean) * (1 + 0.4 * contrast)
    factors = (1 + 0.3 * brightness) * (1 + 0.2 * torch.cat(stain, dim=1))
    config = AugmentConfig(saturation=0.5, contrast=0.4, brightness=0.3, stain=0.2)
    found = jittered(pixels, config=config, changes_B6=changes)
    assert torch.equal(found, (expected * factors).clamp(0, 255))
    assert found.is_contiguous(memory_format=layout)
    assert torch.equal(pixels, before)


def test_jittered_changes_one_thing_at_a_time():
    pixels = torch.from_numpy(images(1)).permute(0, 3, 1, 2).float()
    config = AugmentConfig(saturation=0.5, contrast=0.5, brightness=0.2, stain=0.1)

    def change(place, amount):
        changes = torch.zeros(1, 6)
        changes[0, place] = amount
        return jittered(pixels, config=config, changes_B6=changes)

    brighter = change(2, 1.0)
    torch.testing.assert_close(brighter, (pixels * 1.2).clamp(max=255))
    greyer = change(0, -1.0)
    torch.testing.assert_close(greyer.mean(dim=1), pixels.mean(dim=1))
    assert greyer.std(dim=1).mean() < pixels.std(dim=1).mean()
    redder = change(3, 1.0)
    torch.testing.assert_close(redder[:, 1:], pixels[:, 1:])
    torch.testing.assert_close(redder[:, 0], pixels[:, 0] * 1.1)
