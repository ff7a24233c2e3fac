"""Batches: the same real images in every arm, and a source that tells nothing of the class."""

import numpy as np
import pytest

from histodiff.classification.images import Images
from histodiff.classification.learning_set import (
    AddedImages,
    JoinMixing,
    ReplaceMixing,
    added_images,
    drawn_images,
    image_weights,
    learning_set,
)
from histodiff.errors import ConfigError

JOIN = JoinMixing(type="join")


def images(target):
    return Images(np.zeros((len(target), 2, 2, 3), np.uint8), np.asarray(target, np.int64))


def unequal(mixing=JOIN):
    """90 benign and 10 cancer patches; samples the other way round."""
    added = added_images(images([0] * 20 + [1] * 80), num_classes=2)
    return learning_set(images([0] * 90 + [1] * 10), added, num_classes=2, mixing=mixing)


def shares(mixed, *, balanced, count=6000):
    rows = drawn_images(mixed, seed=0, indices=range(count), balanced=balanced)
    added, classes = rows >= mixed.num_real, mixed.class_N[rows]
    return [added[classes == number].mean() for number in (0, 1)], (classes == 1).mean()


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize(
    ("mixing", "share"),
    [(JOIN, 0.5), (ReplaceMixing(type="replace", probability=0.2), 0.2)],
    ids=["join", "replace"],
)
def test_drawn_images_added_share_is_the_same_in_each_class(mixing, share, balanced):
    by_class, cancer = shares(unequal(mixing), balanced=balanced)
    np.testing.assert_allclose(by_class, share, atol=0.05)
    assert cancer == pytest.approx(0.5 if balanced else 0.1, abs=0.03)


def test_drawn_images_real_ones_are_those_of_the_control():
    control = learning_set(images([0] * 90 + [1] * 10), None, num_classes=2, mixing=JOIN)
    alone = drawn_images(control, seed=3, indices=range(500), balanced=True)
    mixed = unequal()
    rows = drawn_images(mixed, seed=3, indices=range(500), balanced=True)
    real = rows < mixed.num_real
    np.testing.assert_array_equal(rows[real], alone[real])
    np.testing.assert_array_equal(mixed.class_N[rows], control.class_N[alone])


@pytest.mark.parametrize("balanced", [True, False])
def test_image_weights_are_how_often_images_are_drawn(balanced):
    mixed = unequal(ReplaceMixing(type="replace", probability=0.3))
    weights = image_weights(mixed, balanced=balanced)
    rows = drawn_images(mixed, seed=0, indices=range(6000), balanced=balanced)
    drawn = np.bincount(rows, minlength=200) / 6000 * 200
    for part in (slice(0, 90), slice(90, 100), slice(100, 120), slice(120, 200)):
        assert drawn[part].mean() == pytest.approx(weights[part].mean(), rel=0.12)
    assert weights.mean() == pytest.approx(1.0)


def test_drawn_images_do_not_depend_on_the_batch():
    whole = drawn_images(unequal(), seed=1, indices=range(40), balanced=True)
    parts = [
        drawn_images(unequal(), seed=1, indices=range(start, start + 8), balanced=True)
        for start in range(0, 40, 8)
    ]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_drawn_images_class_without_added_ones_stays_real():
    added = added_images(images([1] * 50), num_classes=2)
    mixed = learning_set(images([0] * 10 + [1] * 10), added, num_classes=2, mixing=JOIN)
    by_class, _ = shares(mixed, balanced=True)
    assert by_class[0] == 0
    assert by_class[1] == pytest.approx(50 / 70, abs=0.05)


def test_learning_set_keeps_soft_targets_and_their_weight():
    soft = np.array([[0.3, 0.1], [0.2, 0.6]], np.float32)
    added = AddedImages(np.ones((2, 2, 2, 3), np.uint8), soft)
    mixed = learning_set(images([0, 1]), added, num_classes=2, mixing=JOIN)
    np.testing.assert_array_equal(mixed.target_NK, np.concatenate([np.eye(2), soft]))
    assert mixed.class_N.tolist() == [0, 1, 0, 1]
    assert mixed.pixels_NHWC[2:].all()


def test_learning_set_added_class_without_a_label_is_refused():
    with pytest.raises(ConfigError, match="none is labelled"):
        learning_set(
            images([0, 0]), added_images(images([1]), num_classes=2), num_classes=2, mixing=JOIN
        )
