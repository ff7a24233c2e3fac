"""Augmentation depends on seed and global index alone, and leaves what it should."""

import numpy as np
import torch

from histodiff.classification.augment import AugmentConfig, augmented, jittered, symmetry

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
    assert {symmetry(pixels[0], n).sum() for n in range(8)} == {pixels[0].sum()}


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
