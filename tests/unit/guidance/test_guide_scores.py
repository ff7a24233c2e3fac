"""Scores of judgements against scikit-learn, and against what chance is."""

import math

import numpy as np
import pytest
import torch
from sklearn import metrics

from histodiff.guidance.scores import bin_score, chance, class_weights

BIN = (0.1, 1.0)


def judged(num_classes, *, count=300, seed=0):
    rng = np.random.default_rng(seed)
    shares = np.arange(1, num_classes + 1) / np.arange(1, num_classes + 1).sum()
    target = rng.choice(num_classes, size=count, p=shares)  # unequal classes
    logits = rng.normal(size=(count, num_classes)).round(1)  # with ties
    logits[np.arange(count), target] += 1.0
    return torch.from_numpy(logits).log_softmax(dim=1), torch.from_numpy(target)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_scores_are_those_of_scikit_learn_with_classes_weighing_alike(num_classes):
    log_p, target = judged(num_classes)
    found = bin_score(log_p, target, bin_of_sigma=BIN)
    p, truth = log_p.exp().numpy(), target.numpy()
    weights = class_weights(truth)
    assert found.balanced_accuracy == pytest.approx(
        metrics.balanced_accuracy_score(truth, p.argmax(axis=1))
    )
    assert found.accuracy == pytest.approx(metrics.accuracy_score(truth, p.argmax(axis=1)))
    assert found.log_loss == pytest.approx(metrics.log_loss(truth, p, sample_weight=weights))
    assert found.cross_entropy == pytest.approx(metrics.log_loss(truth, p))
    scores = p[:, 1] if num_classes == 2 else p
    assert found.auc == pytest.approx(metrics.roc_auc_score(truth, scores, multi_class="ovr"))


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    sure = torch.tensor([[0.9, 0.1]]).log().repeat(10, 1)
    target = torch.tensor([0] * 6 + [1] * 4)
    # each class weighs half: of what is said with 0.9, half is right
    found = bin_score(sure, target, bin_of_sigma=BIN)
    assert found.ece == pytest.approx(0.4)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_who_says_all_are_equally_likely_scores_as_chance(num_classes):
    target = torch.tensor([0] * 30 + list(range(num_classes)))
    even = torch.full((len(target), num_classes), -math.log(num_classes))
    found, expected = bin_score(even, target, bin_of_sigma=BIN), chance(num_classes)
    assert found.log_loss == pytest.approx(expected.log_loss)
    assert found.balanced_accuracy == pytest.approx(expected.balanced_accuracy)
    assert found.auc == pytest.approx(expected.auc)
    assert found.ece == pytest.approx(0, abs=1e-6)


def test_auc_without_a_class_is_not_defined():
    even = torch.zeros(4, 3).log_softmax(dim=1)
    assert bin_score(even, torch.tensor([0, 0, 1, 1]), bin_of_sigma=BIN).auc is None
