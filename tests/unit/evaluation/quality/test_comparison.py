"""Samples against held-out images: floors, intervals, classes, and what is warned of."""

import numpy as np
import pytest

from histodiff.evaluation.quality import FeatureSet, compare
from histodiff.evaluation.quality.comparison import MEASURES


def real_set(num: int, *, seed: int, slides: int = 12, spread: float = 0.0) -> FeatureSet:
    """Images of slides, whose means differ by ``spread``."""
    rng = np.random.default_rng(seed)
    slide_N = np.arange(num) % slides
    offsets = spread * rng.normal(size=(slides, 4))
    labels = tuple("ab"[number % 2] for number in range(num))
    features = rng.normal(size=(num, 4)) + offsets[slide_N]
    return FeatureSet(features, tuple(f"slide-{slide}" for slide in slide_N), labels)


def sample_set(num: int, *, seed: int, shift: float = 0.0, scale: float = 1.0) -> FeatureSet:
    features = scale * np.random.default_rng(seed).normal(size=(num, 4)) + shift
    labels = tuple("ab"[number % 2] for number in range(num))
    return FeatureSet(features, tuple(map(str, range(num))), labels)


def test_samples_of_the_same_distribution_reach_the_floor():
    found = compare(sample_set(300, seed=1), real_set(600, seed=2), replicates=100, seed=0)
    for name in MEASURES:
        measure = found.measures[name]
        assert measure.low <= measure.value <= measure.high, name
        assert measure.low <= measure.floor_high, name
        assert measure.floor_low <= measure.high, name


def test_shifted_samples_are_far_from_the_floor_by_the_shift():
    found = compare(
        sample_set(400, seed=1, shift=2.0), real_set(800, seed=2), replicates=50, seed=0
    )
    distance = found.measures["frechet_distance"]
    assert distance.value == pytest.approx(4 * 2.0**2, rel=0.1)
    assert distance.low > 10 * distance.floor_high
    assert found.measures["kernel_distance"].low > found.measures["kernel_distance"].floor_high
    assert found.measures["precision"].high < found.measures["precision"].floor_low


def test_collapsed_samples_are_precise_and_do_not_recall():
    found = compare(
        sample_set(300, seed=1, scale=0.05), real_set(600, seed=2), replicates=20, seed=0
    )
    assert found.measures["precision"].value > 0.95
    assert found.measures["recall"].value < 0.3 < found.measures["recall"].floor
    assert found.measures["coverage"].value < found.measures["coverage"].floor_low


def test_floor_knows_that_slides_differ():
    alike = compare(sample_set(200, seed=1), real_set(400, seed=2), replicates=10, seed=0)
    unlike = compare(
        sample_set(200, seed=1), real_set(400, seed=2, spread=1.0), replicates=10, seed=0
    )
    for name in ("frechet_distance", "kernel_distance"):
        assert unlike.measures[name].floor > 3 * alike.measures[name].floor, name


def test_interval_over_slides_is_wider_than_over_images():
    rows = real_set(400, seed=2, spread=1.0)
    alone = FeatureSet(rows.features_ND, tuple(map(str, range(400))), rows.labels_N)
    by_slide, by_image = (
        compare(sample_set(200, seed=1), real, replicates=100, seed=0).measures["kernel_distance"]
        for real in (rows, alone)
    )
    assert by_slide.high - by_slide.low > 2 * (by_image.high - by_image.low)


def test_interval_holds_the_truth_as_often_as_it_says():
    # the kernel distance of equal distributions is zero; images are their own groups
    held = []
    for seed in range(40):
        real = sample_set(80, seed=1000 + seed)
        found = compare(sample_set(40, seed=seed), real, replicates=100, seed=seed)
        measure = found.measures["kernel_distance"]
        held.append(measure.floor_low <= 0 <= measure.floor_high)
    assert np.mean(held) >= 0.85


def test_classes_are_measured_apart():
    samples, real = sample_set(200, seed=1), real_set(400, seed=2)
    moved = samples.features_ND.copy()
    moved[1::2] += 3.0  # class b alone
    found = compare(
        FeatureSet(moved, samples.groups_N, samples.labels_N), real, replicates=10, seed=0
    )
    a, b = (found.by_class[label].measures["frechet_distance"] for label in "ab")
    assert a.value < 1 < b.value
    assert found.by_class["a"].num_images == 100
    assert found.by_class["a"].num_real == 200


def test_samples_without_classes_have_no_table_by_class():
    samples = sample_set(100, seed=1)
    unlabelled = FeatureSet(samples.features_ND, samples.groups_N)
    assert not compare(unlabelled, real_set(200, seed=2), replicates=5, seed=0).by_class


def test_same_seed_gives_the_same_numbers():
    pair = sample_set(100, seed=1), real_set(200, seed=2)
    assert compare(*pair, replicates=5, seed=3) == compare(*pair, replicates=5, seed=3)


def test_few_images_are_warned_of():
    found = compare(sample_set(100, seed=1), real_set(200, seed=2), replicates=5, seed=0)
    assert found.num_compared == 100
    assert any("give 1000 samples and 2000 real" in line for line in found.warnings)


def test_too_few_images_are_not_measured():
    found = compare(sample_set(10, seed=1), real_set(200, seed=2), replicates=5, seed=0)
    assert not found.measures
    assert found.num_compared == 0
    assert "nothing is measured of fewer than 20" in found.warnings[0]


def test_one_slide_is_cut_through_and_said_so():
    found = compare(sample_set(100, seed=1), real_set(200, seed=2, slides=1), replicates=5, seed=0)
    assert found.halves_share_slides
    assert found.measures
    assert any("one slide" in line for line in found.warnings)


def test_more_dimensions_than_images_are_warned_of():
    rng = np.random.default_rng(0)
    wide = FeatureSet(rng.normal(size=(40, 100)), tuple(map(str, range(40))))
    found = compare(wide, wide, replicates=5, seed=0)
    assert any("in 100 dimensions" in line for line in found.warnings)
