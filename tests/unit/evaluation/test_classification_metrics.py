"""Metrics against hand-computed values and scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as oracle

from histodiff.evaluation.metrics import (
    Scored,
    bootstrap_intervals,
    metric_values,
    positive_class,
    slide_level,
)


def scored(probability, target, slides=None):
    probability = np.asarray(probability, np.float64)
    slides = slides or [f"s{n}" for n in range(len(target))]
    return Scored(probability, np.asarray(target, np.int64), tuple(slides))


def binary(positive_probability, target, slides=None):
    p = np.asarray(positive_probability)
    return scored(np.stack([1 - p, p], axis=1), target, slides)


def test_metric_values_two_classes_hand_computed():
    # Truth 0 0 0 1 1; said 0 0 1 1 0.
    values = metric_values(binary([0.1, 0.2, 0.7, 0.9, 0.4], [0, 0, 0, 1, 1]), positive=1)
    assert values["accuracy"] == pytest.approx(3 / 5)
    assert values["sensitivity"] == pytest.approx(1 / 2)
    assert values["specificity"] == pytest.approx(2 / 3)
    assert values["balanced_accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert values["macro_f1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert values["auc"] == pytest.approx(5 / 6)  # one of six pairs is the wrong way round


def test_metric_values_three_classes_equal_scikit_learn():
    rng = np.random.default_rng(3)
    probability = np.round(rng.dirichlet([1, 1, 1], size=80), 2) + 0.001  # ties, on purpose
    probability /= probability.sum(axis=1, keepdims=True)
    target = rng.integers(0, 3, 80)
    values = metric_values(scored(probability, target), positive=None)
    said = probability.argmax(axis=1)
    assert values["accuracy"] == pytest.approx(oracle.accuracy_score(target, said))
    assert values["balanced_accuracy"] == pytest.approx(
        oracle.balanced_accuracy_score(target, said)
    )
    assert values["macro_f1"] == pytest.approx(oracle.f1_score(target, said, average="macro"))
    assert values["sensitivity"] == pytest.approx(
        oracle.recall_score(target, said, average="macro")
    )
    assert values["log_loss"] == pytest.approx(oracle.log_loss(target, probability))
    expected = oracle.roc_auc_score(target, probability, multi_class="ovr", average="macro")
    assert values["auc"] == pytest.approx(expected)
    specificities = [oracle.recall_score(target != k, said != k) for k in range(3)]
    assert values["specificity"] == pytest.approx(np.mean(specificities))


def test_calibration_error_hand_computed_and_zero_for_the_calibrated():
    # bins of 15: 0.9 is in one (one of two right), 0.6 in another (both right)
    values = metric_values(binary([0.9, 0.9, 0.6, 0.6], [1, 0, 1, 1]), positive=1)
    assert values["ece"] == pytest.approx((abs(1 - 1.8) + abs(2 - 1.2)) / 4)
    rng = np.random.default_rng(0)
    p = rng.random(50_000)
    honest = binary(p, rng.random(50_000) < p)
    boastful = binary(np.where(p > 0.5, 0.99, 0.01), honest.target_N)
    assert metric_values(honest, positive=1)["ece"] < 0.01
    assert metric_values(boastful, positive=1)["ece"] == pytest.approx(0.24, abs=0.01)


def test_log_loss_of_a_certain_mistake_is_finite():
    values = metric_values(binary([0.0], [1]), positive=1)
    assert values["log_loss"] == pytest.approx(-np.log(1e-12))


def test_metric_values_missing_class_has_no_auc():
    values = metric_values(binary([0.1, 0.6], [0, 0]), positive=1)
    assert values["auc"] is None
    assert values["sensitivity"] is None
    assert values["balanced_accuracy"] == pytest.approx(0.5)


def test_slide_level_is_the_mean_probability_of_its_patches():
    patches = binary([0.9, 0.3, 0.2, 0.2], [1, 1, 0, 0], ["x", "x", "y", "y"])
    slides = slide_level(patches)
    assert slides.slide_N == ("x", "y")
    np.testing.assert_allclose(slides.probability_NK[:, 1], [0.6, 0.2])
    assert metric_values(slides, positive=1)["accuracy"] == 1.0


def test_slide_level_slide_with_two_labels_has_no_meaning():
    assert slide_level(binary([0.9, 0.3], [1, 0], ["x", "x"])) is None


def test_bootstrap_intervals_one_slide_per_class_has_no_spread():
    patches = binary([0.9, 0.3, 0.2, 0.7], [1, 1, 0, 0], ["x", "x", "y", "y"])
    intervals = bootstrap_intervals(
        patches, positive=1, replicates=50, rng=np.random.default_rng(0)
    )
    assert intervals["accuracy"] == (0.5, 0.5)  # whole slides are drawn, never their patches


def test_bootstrap_intervals_cover_the_value_and_shrink_with_slides():
    rng = np.random.default_rng(4)

    def width(num_slides):
        target = np.repeat([0, 1], num_slides)
        right = rng.random(len(target)) < 0.7
        patches = binary(np.where(right == (target == 1), 0.8, 0.2), target)
        low, high = bootstrap_intervals(patches, positive=1, replicates=400, rng=rng)["accuracy"]
        assert low <= metric_values(patches, positive=1)["accuracy"] <= high
        return high - low

    assert width(400) < 0.5 * width(20)


def test_positive_class_default_is_the_last_of_two():
    assert positive_class(("benign", "cancer"), None) == 1
    assert positive_class(("benign", "cancer"), "benign") == 0
    assert positive_class(("a", "b", "c"), None) is None
