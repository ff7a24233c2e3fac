"""First weights and batches are functions of the seed; all rows get their turn."""

import numpy as np
import torch

from histodiff.classification.learning_set import drawn_rows
from histodiff.classification.training import (
    initial_classifier,
    predicted_probability,
    soft_cross_entropy,
)
from histodiff.features.extractor import image_features
from histodiff.models.classifier import ClassifierConfig

BACKBONE = ClassifierConfig(model="test_resnet", pretrained={"type": "none"}, input_px=32)


def classifier(seed=0):
    return initial_classifier(BACKBONE, num_classes=3, seed=seed, device="cpu")


def pixels(count):
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def test_initial_classifier_is_decided_by_the_seed():
    first, same, other = (next(classifier(seed).parameters()) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_drawn_rows_continue_over_batches_and_balance_classes():
    target = np.array([0] * 90 + [1] * 10)
    whole = drawn_rows(target, seed=0, indices=range(400), balanced=True)
    halves = [
        drawn_rows(target, seed=0, indices=r, balanced=True) for r in (range(200), range(200, 400))
    ]
    np.testing.assert_array_equal(whole, np.concatenate(halves))
    assert abs((target[whole] == 1).mean() - 0.5) < 0.1
    plain = drawn_rows(target, seed=0, indices=range(400), balanced=False)
    assert abs((target[plain] == 1).mean() - 0.1) < 0.06
    assert len(set(plain.tolist())) > 90


def test_predicted_probability_in_batches_equals_at_once():
    model = classifier()
    at_once = predicted_probability(model, pixels(5), batch=5, device="cpu")
    np.testing.assert_allclose(
        predicted_probability(model, pixels(5), batch=2, device="cpu"), at_once, atol=1e-5
    )
    np.testing.assert_allclose(at_once.sum(axis=1), 1.0)
    assert at_once.shape == (5, 3)


def test_image_features_give_the_logits_through_the_head():
    model = classifier()
    features = image_features(model, pixels(4), batch=3, device="cpu")
    with torch.no_grad():
        logits = model.backbone.get_classifier()(torch.from_numpy(features))
        expected = model(torch.from_numpy(pixels(4)).permute(0, 3, 1, 2))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_soft_cross_entropy_equals_torch_and_weighs_images():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 3, generator=generator, requires_grad=True)
    classes = torch.tensor([0, 1, 2, 2, 0, 1])
    hard = torch.eye(3)[classes]
    ours = soft_cross_entropy(logits, hard, label_smoothing=0.1)
    theirs = torch.nn.functional.cross_entropy(logits, classes, label_smoothing=0.1)
    torch.testing.assert_close(ours, theirs)
    ours.backward()
    own, logits.grad = logits.grad, None
    theirs.backward()
    torch.testing.assert_close(own, logits.grad)
    weight = torch.tensor([1.0, 0.5, 0.0, 1.0, 0.2, 1.0])
    soft = torch.softmax(torch.randn(6, 3, generator=generator), dim=1)
    each = torch.nn.functional.cross_entropy(logits, soft, label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(
        soft_cross_entropy(logits, soft * weight[:, None], label_smoothing=0.1),
        (weight * each).mean(),
    )
