"""Stains, RandAugment and blends: against other implementations, and functions of the index."""

import numpy as np
import pytest
import torch
from skimage.color import hed_from_rgb, rgb_from_hed
from timm.data import Mixup
from torchvision.transforms.v2 import functional as oracle

from histodiff.classification.augment import AugmentConfig, augmented
from histodiff.classification.blending import Blend, blended, drawn_blends
from histodiff.classification.rand_augment import (
    OPERATIONS,
    RandAugmentConfig,
    changed,
    rand_augmented,
)
from histodiff.classification.stain import stain_jittered


def pixels(count=3, side=16):
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(40, 220, (count, 3, side // 4, side // 4)), np.ones((4, 4)))
    return torch.from_numpy(smooth).float()


def amounts(**values):
    row = torch.zeros(1, len(OPERATIONS))
    for name, value in values.items():
        row[0, OPERATIONS.index(name)] = value
    return row


def after(images, **values):
    count = len(images)
    return changed(
        images,
        amounts_BO=amounts(**values).expand(count, -1),
        stains_B6=torch.zeros(count, 6),
    )


def test_stain_jittered_equals_a_naive_oracle():
    images = pixels(1)
    changes = torch.tensor([[0.5, -1.0, 0.2, 0.3, -0.4, 1.0]])
    found = stain_jittered(images, strength=0.2, changes_B6=changes)
    rgb = images[0].permute(1, 2, 0).double().numpy() / 255
    stains = -np.log(rgb) @ hed_from_rgb
    factor, shift = 0.2 * changes[0, :3].numpy(), 0.2 * changes[0, 3:].numpy()
    expected = np.exp(-(stains * (1 + factor) + shift) @ rgb_from_hed)
    np.testing.assert_allclose(
        found[0].permute(1, 2, 0).numpy(), 255 * np.clip(expected, 0, 1), atol=0.05
    )


def test_stain_jittered_without_change_is_the_image():
    images = pixels()
    found = stain_jittered(images, strength=0.2, changes_B6=torch.zeros(3, 6))
    torch.testing.assert_close(found, images, rtol=0, atol=0.01)


def test_changed_by_nothing_is_the_image_exactly():
    images = pixels()
    assert torch.equal(after(images), images)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("brightness", oracle.adjust_brightness),
        ("contrast", oracle.adjust_contrast),
        ("saturation", oracle.adjust_saturation),
    ],
)
def test_changed_colours_equal_torchvision(name, theirs):
    images = pixels()
    torch.testing.assert_close(
        after(images, **{name: 0.4}), theirs(images / 255, 1.4) * 255, rtol=0, atol=0.1
    )


def test_changed_sharpness_equals_torchvision_inside():
    images = pixels()
    expected = oracle.adjust_sharpness(images / 255, 1.4) * 255
    found = after(images, sharpness=0.4)
    torch.testing.assert_close(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], rtol=0, atol=0.1)


def test_changed_shapes_move_what_is_there():
    images = pixels()
    quarter = after(images, shift_x=0.25)
    torch.testing.assert_close(quarter[..., :-4], images[..., 4:], rtol=0, atol=1e-3)
    turned = after(images, turn=np.pi / 2)
    torch.testing.assert_close(turned, torch.rot90(images, 1, (2, 3)), rtol=0, atol=0.1)
    sheared = after(images, shear_x=0.2)
    assert sheared.min() >= images.min() - 1e-3  # the border is reflected, not black
    assert not torch.allclose(sheared, images)


def test_rand_augmented_is_a_function_of_seed_and_index():
    images = pixels(4)
    config = RandAugmentConfig(num_ops=2, magnitude=6)
    whole = rand_augmented(images, config=config, seed=1, indices=range(4))
    parts = [
        rand_augmented(images[n : n + 1], config=config, seed=1, indices=[n]) for n in range(4)
    ]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=0, atol=1e-3)
    other = rand_augmented(images, config=config, seed=2, indices=range(4))
    assert not torch.allclose(whole, other)
    assert ((whole - images).abs().amax(dim=(1, 2, 3)) > 1).all()


def test_augmented_stronger_changes_leave_the_lighter_draws_alone():
    images = pixels(2).permute(0, 2, 3, 1).numpy().astype(np.uint8)

    def view(**changes):
        config = AugmentConfig(saturation=0, contrast=0, brightness=0, stain=0, **changes)
        return augmented(images, config=config, seed=0, indices=range(2), device="cpu")

    turned = view()
    jittered = view(hed=0.1)
    assert not torch.allclose(turned, jittered, atol=1)
    assert (turned - jittered).abs().max() < 80
    assert not torch.allclose(turned, view(rand_augment={"num_ops": 1}), atol=1)


def test_blended_equals_timm_for_a_share_of_its_own():
    images, target = pixels(4), torch.tensor([0, 1, 2, 1])
    theirs = Mixup(mixup_alpha=1.0, num_classes=3, label_smoothing=0.0)
    theirs._params_per_batch = lambda: (0.3, False)
    expected_images, expected_target = theirs(images.clone(), target)
    found_images, found_target = blended(images, torch.eye(3)[target], [Blend(0.3, None)] * 4)
    torch.testing.assert_close(found_images, expected_images)
    torch.testing.assert_close(found_target, expected_target)


def test_drawn_blends_cutmix_targets_have_the_share_of_the_pixels():
    side = 16
    blends = drawn_blends(mixup=0.0, cutmix=1.0, side_px=side, seed=0, indices=range(64))
    own, others = torch.zeros(32, 3, side, side), torch.ones(32, 3, side, side)
    target = torch.eye(2)[[0] * 32 + [1] * 32]
    mixed, found = blended(torch.cat([own, others]), target, blends)
    assert set(mixed.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), found[:, 1])
    assert found[:, 1].std() > 0.1


def test_drawn_blends_take_turns_and_do_not_depend_on_the_batch():
    both = {"mixup": 0.8, "cutmix": 1.0, "side_px": 16, "seed": 0}
    whole = drawn_blends(**both, indices=range(100))
    assert 30 < sum(blend.box is None for blend in whole) < 70
    assert whole[40:50] == drawn_blends(**both, indices=range(40, 50))
