import pytest
import torch

from histodiff.config import parse_config
from histodiff.errors import ArtifactCorrupt, ConfigError
from histodiff.models.denoiser import load_denoiser
from histodiff.models.latent_classifier import (
    LatentClassifier,
    LatentClassifierConfig,
    load_latent_classifier,
    save_latent_classifier,
)
from histodiff.storage import storage_path

SMALL = LatentClassifierConfig(channels=(16, 32), head_dim=8)


def small_classifier():
    torch.manual_seed(0)
    return LatentClassifier(SMALL, latent_channels=4, num_classes=3)


def noisy(count=4):
    x = torch.randn((count, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    return x, torch.tensor([0.0, 0.1, 1.0, 60.0])[:count]


def test_classifier_gives_finite_logits_at_every_sigma():
    x, sigma = noisy()
    logits = small_classifier().eval()(x + sigma.reshape(-1, 1, 1, 1) * torch.randn_like(x), sigma)
    assert logits.shape == (4, 3)
    assert torch.isfinite(logits).all()


def test_classifier_knows_the_noise_level():
    classifier = small_classifier().eval()
    x, _ = noisy(2)
    first = classifier(x, torch.tensor([0.5, 0.5]))
    assert not torch.allclose(first, classifier(x, torch.tensor([5.0, 0.5]))[0], atol=1e-4)


def test_classifier_does_not_mix_samples_and_has_a_gradient_in_x():
    classifier = small_classifier().eval()
    x, sigma = noisy()
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(classifier(x, sigma)[2, 1], x)
    assert gradient[2].abs().max() > 0
    assert torch.equal(gradient[[0, 1, 3]], torch.zeros(3, 4, 8, 8))


def test_saved_guide_comes_back_the_same(tmp_path):
    path = storage_path(tmp_path) / "guide"
    classifier = small_classifier().eval()
    save_latent_classifier(path, classifier, classes=("benign", "cancer", "other"))
    loaded = load_latent_classifier(path, "cpu")
    x, sigma = noisy()
    assert torch.equal(loaded.classifier(x, sigma), classifier(x, sigma))
    assert loaded.classes == ("benign", "cancer", "other")
    with pytest.raises(ArtifactCorrupt, match="guide"):
        load_denoiser(path, device="cpu")


def test_config_with_widths_that_do_not_divide_is_refused():
    with pytest.raises(ConfigError, match="head_dim"):
        parse_config(LatentClassifierConfig, {"channels": [16], "head_dim": 5}, source="test")
