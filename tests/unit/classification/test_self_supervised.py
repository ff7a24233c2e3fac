"""The contrastive loss against a naive one; the logistic regression as a network's head."""

import math

import numpy as np
import torch

from histodiff.classification.self_supervised import (
    contrastive_loss,
    set_linear_head,
)
from histodiff.classification.training import initial_classifier, predicted_probability
from histodiff.features.extractor import image_features
from histodiff.features.logistic import fitted_logistic
from histodiff.models.classifier import ClassifierConfig

BACKBONE = ClassifierConfig(model="test_resnet", pretrained={"type": "none"}, input_px=32)


def test_contrastive_loss_equals_a_naive_loop():
    generator = torch.Generator().manual_seed(0)
    first, second = (
        torch.nn.functional.normalize(torch.randn(3, 4, generator=generator), dim=1)
        for _ in range(2)
    )
    views = [*first, *second]
    total = 0.0
    for place, view in enumerate(views):
        others = [
            math.exp(float(view @ other) / 0.5)
            for number, other in enumerate(views) if number != place
        ]  # fmt: skip
        partner = math.exp(float(view @ views[(place + 3) % 6]) / 0.5)
        total -= math.log(partner / sum(others))
    found = contrastive_loss(first, second, temperature=0.5)
    torch.testing.assert_close(found, torch.tensor(total / 6))
    alike = contrastive_loss(first, first, temperature=0.5)
    assert alike < found


def test_set_linear_head_gives_the_probabilities_of_the_regression():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    network = initial_classifier(BACKBONE, num_classes=2, seed=0, device="cpu").eval()
    features = image_features(network, pixels, batch=6, device="cpu")
    target = np.eye(2)[rng.integers(0, 2, 12)]
    model = fitted_logistic(features, target, inverse_penalty=0.1)
    set_linear_head(network, model)
    found = predicted_probability(network, pixels, batch=6, device="cpu")
    np.testing.assert_allclose(found, model.probability(features), atol=1e-3)
