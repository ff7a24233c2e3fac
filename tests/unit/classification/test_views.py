"""Views: squares of the patch at any angle, blurred and noisy by as much as asked, one by one."""

import numpy as np
import pytest
import torch

from histodiff.classification.augment import AugmentConfig
from histodiff.classification.views import ViewConfig, reframed, views_of

STILL = AugmentConfig(symmetries=False, saturation=0, contrast=0, brightness=0, stain=0)


def framed(images, *, smallest=1.0, rotate=False, indices=None):
    indices = range(len(images)) if indices is None else indices
    return reframed(images, smallest=smallest, rotate=rotate, seed=0, indices=indices)


def viewed(pixels, indices=None, **changes):
    config = ViewConfig(**{"smallest_crop": 1.0, "rotate": False, "augment": STILL, **changes})
    indices = range(len(pixels)) if indices is None else indices
    return views_of(pixels, config=config, seed=0, indices=indices, device="cpu")


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)


def test_reframed_whole_image_stays_and_parts_are_enlarged():
    images = torch.arange(64.0).reshape(1, 1, 8, 8).expand(2, 3, 8, 8)
    torch.testing.assert_close(framed(images), images)
    parts = framed(images, smallest=0.2)
    assert parts.shape == images.shape
    assert (parts.amax((1, 2, 3)) - parts.amin((1, 2, 3)) < 63).all()
    torch.testing.assert_close(parts[1:], framed(images[1:], smallest=0.2, indices=[1]))


def test_reframed_at_any_angle_turns_about_the_middle():
    rows, columns = np.mgrid[:33, :33] - 16
    disc = torch.from_numpy(1.0 * (rows**2 + columns**2 < 100)).expand(20, 1, 33, 33)
    turned = framed(disc.clone(), rotate=True)
    assert (turned - disc).abs().mean() < 0.03  # a disc stays where it is
    bar = torch.from_numpy(1.0 * ((abs(rows) < 3) & (abs(columns) < 12))).expand(20, 1, 33, 33)
    turned = framed(bar.clone(), rotate=True)
    directions = {
        round(0.5 * float(np.arctan2(2 * (w * rows * columns).sum(),
                                     (w * (columns**2 - rows**2)).sum())), 1)
        for w in turned[:, 0].numpy()
    }  # fmt: skip
    assert len(directions) > 8  # and a bar points everywhere
    torch.testing.assert_close(turned.sum((1, 2, 3)), bar.sum((1, 2, 3)), rtol=0.1, atol=0)


def test_views_without_any_change_are_the_images(pixels):
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(viewed(pixels), images, rtol=0, atol=1e-3)


def test_views_are_blurred_and_noisy_by_no_more_than_asked(pixels):
    images = viewed(pixels)
    blurred = viewed(pixels, blur=1.0)
    share = blurred.std((1, 2, 3)) / images.std((1, 2, 3))
    assert (share < 1).all()
    assert (share > 0.3).all()  # the mean of nine independent pixels has a third
    noise = (viewed(pixels, noise=0.2) - images).std((1, 2, 3))
    assert (noise > 0).all()
    assert (noise < 0.2 * 255 * 1.1).all()
    assert noise.std() > 1


def test_view_depends_on_its_own_index_alone(pixels):
    settings = {"smallest_crop": 0.5, "rotate": True, "blur": 1.0, "noise": 0.1}
    whole = viewed(pixels, **settings)
    torch.testing.assert_close(viewed(pixels[4:], [4, 5], **settings), whole[4:])
