"""Planted copies are found, all of them, and held-out images are innocent."""

import numpy as np
import pytest

from histodiff.evaluation.quality.memorisation import closeness, memorisation


def images(count: int, seed: int, *, side: int = 4) -> np.ndarray:
    """Images whose pixels are their features, N x side x side."""
    return np.random.default_rng(seed).normal(size=(count, side, side))


def features(pixels: np.ndarray, *, symmetries: int = 1) -> np.ndarray:
    """G x N x D."""
    turned = [np.rot90(pixels, turns, axes=(1, 2)) for turns in range(4)]
    turned += [one[:, :, ::-1] for one in turned]
    return np.stack([one.reshape(len(pixels), -1) for one in turned[:symmetries]])


def test_planted_copies_are_flagged_first_and_all_of_them():
    training, held_out, fresh = images(300, 0), images(200, 1), images(100, 2)
    copies = [3, 50, 99]
    fresh[copies] = training[[7, 250, 31]] + 0.01 * images(3, 3)
    found = memorisation(features(fresh), features(training)[0], features(held_out), quantile=0.01)
    assert sorted(found.flagged[:3].tolist()) == copies
    assert found.samples.training_N[copies].tolist() == [7, 250, 31]
    assert found.closer_than_any >= 3
    assert found.share < 0.03 + 0.06  # chance flags about 1 of the 97 others


def test_turned_and_flipped_copies_are_found_with_all_symmetries_only():
    training, held_out, fresh = images(300, 0), images(200, 1), images(100, 2)
    fresh[:4] = np.rot90(training[:4], 1, axes=(1, 2))
    fresh[4:8] = training[4:8].transpose(0, 2, 1)
    all_eight = memorisation(
        features(fresh, symmetries=8), features(training)[0], features(held_out, symmetries=8),
        quantile=0.01,
    )  # fmt: skip
    plain = memorisation(features(fresh), features(training)[0], features(held_out), quantile=0.01)
    assert set(range(8)) == set(all_eight.flagged[:8].tolist())
    assert all_eight.samples.training_N[:8].tolist() == list(range(8))
    assert not set(range(8)) <= set(plain.flagged.tolist())


def test_samples_of_crowded_places_are_not_copies():
    # empty tissue: near-equal images, to which anything empty is close
    rng = np.random.default_rng(4)

    def mixed(count: int) -> np.ndarray:
        empty = 1e-3 * rng.normal(size=(count, 8))
        return np.concatenate([empty, rng.normal(size=(count, 8))])[None]

    training, held_out, fresh = mixed(200)[0], mixed(200), mixed(100)
    fresh[0, 150] = training[333] + 0.01  # a copy of tissue that is farther off than empty ones
    found = memorisation(fresh, training, held_out, quantile=0.01)
    assert found.flagged[0] == 150
    assert found.samples.distance_N[150] > np.median(found.samples.distance_N[:100])
    assert found.share < 0.06


def test_share_of_real_images_is_about_the_quantile():
    shares = [
        memorisation(
            features(images(300, seed)), features(images(400, 100 + seed))[0],
            features(images(300, 200 + seed)), quantile=0.05,
        ).share
        for seed in range(10)
    ]  # fmt: skip
    assert np.mean(shares) == pytest.approx(0.05, abs=0.02)


def test_quantile_zero_takes_the_closest_held_out_image():
    training, held_out, fresh = images(50, 0), images(40, 1), images(30, 2)
    found = memorisation(features(fresh), features(training)[0], features(held_out), quantile=0)
    innocent = closeness(features(held_out), features(training)[0]).relative_N
    assert found.threshold == innocent.min()
    assert found.quantile == 1 / 40


def test_closeness_equals_loops():
    training, fresh = features(images(12, 0))[0], features(images(5, 1))[0]
    found = closeness(fresh[None], training)
    for n, row in enumerate(fresh):
        gaps = np.linalg.norm(training - row, axis=1)
        nearest = int(gaps.argmin())
        others = np.sort(np.linalg.norm(training - training[nearest], axis=1))[1:11]
        assert found.training_N[n] == nearest
        assert found.relative_N[n] == pytest.approx(gaps[nearest] / others.mean())


def test_copies_of_repeated_training_images_are_closer_than_any():
    training = np.repeat(features(images(30, 0))[0], 11, axis=0)  # no spacing at all
    found = closeness(training[None, :2], training)
    assert found.relative_N.tolist() == [0, 0]


def test_other_symmetries_of_the_held_out_images_are_refused():
    rows = features(images(9, 0), symmetries=8)
    with pytest.raises(ValueError, match="same symmetries"):
        memorisation(rows, rows[0], rows[:1], quantile=0.01)
