import hashlib

import pytest
import safetensors.torch
import timm
import torch

from histodiff.errors import ConfigError
from histodiff.models.classifier import (
    ClassifierConfig,
    FileWeights,
    HubWeights,
    NoWeights,
    create_classifier,
    load_classifier,
    save_classifier,
)
from histodiff.storage import storage_path


def config(model="test_resnet", pretrained=None, input_px=64):
    return ClassifierConfig(
        model=model, pretrained=pretrained or NoWeights(type="none"), input_px=input_px
    )


def pixels(count=2, side=64):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)


def test_classifier_normalises_as_its_backbone_expects():
    classifier = create_classifier(config(), 3).eval()
    settings = classifier.backbone.pretrained_cfg
    mean = torch.tensor(settings["mean"]).reshape(-1, 1, 1)
    std = torch.tensor(settings["std"]).reshape(-1, 1, 1)
    expected = classifier.backbone((pixels() / 255.0 - mean) / std)
    torch.testing.assert_close(classifier(pixels()), expected)
    torch.testing.assert_close(classifier(pixels().float()), expected)


def test_logits_are_a_linear_function_of_the_features():
    classifier = create_classifier(config(), 3).eval()
    head = classifier.backbone.get_classifier()
    torch.testing.assert_close(head(classifier.features(pixels())), classifier(pixels()))


@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
def test_classifier_takes_other_sizes_than_its_own(model):
    classifier = create_classifier(config(model=model, input_px=96), 2).eval()
    assert classifier(pixels(side=40)).shape == (2, 2)


@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
def test_saved_classifier_comes_back_the_same(tmp_path, model):
    path = storage_path(tmp_path) / "classifier"
    torch.manual_seed(0)
    classifier = create_classifier(config(model=model), 2).eval()
    save_classifier(path, classifier, classes=("benign", "cancer"))
    loaded = load_classifier(path, device="cpu")
    assert torch.equal(loaded.classifier(pixels()), classifier(pixels()))
    assert loaded.classes == ("benign", "cancer")
    assert loaded.classifier.normalisation == classifier.normalisation


def weights_file(tmp_path, num_classes):
    torch.manual_seed(7)
    donor = timm.create_model("test_resnet", num_classes=num_classes)
    data = safetensors.torch.save(donor.state_dict())
    path = tmp_path / "weights.safetensors"
    path.write_bytes(data)
    return donor, path, hashlib.sha256(data).hexdigest()


def test_weights_in_a_file_are_used_with_a_new_head(tmp_path):
    donor, path, digest = weights_file(tmp_path, num_classes=1000)
    weights = FileWeights(type="file", path=str(path), sha256=digest)
    classifier = create_classifier(config(pretrained=weights), 2).eval()
    with torch.no_grad():
        expected = donor.eval().forward_features(classifier._prepared(pixels()))
        found = classifier.backbone.forward_features(classifier._prepared(pixels()))
    assert torch.equal(found, expected)
    assert classifier(pixels()).shape == (2, 2)


def test_weights_in_another_file_than_was_meant_are_refused(tmp_path):
    _, path, _ = weights_file(tmp_path, num_classes=1000)
    weights = FileWeights(type="file", path=str(path), sha256="0" * 64)
    with pytest.raises(ConfigError, match="sha256"):
        create_classifier(config(pretrained=weights), 2)
    missing = FileWeights(type="file", path=str(tmp_path / "nothing"), sha256="0" * 64)
    with pytest.raises(ConfigError, match="nothing"):
        create_classifier(config(pretrained=missing), 2)


def test_weights_of_a_hub_that_is_out_of_reach_are_one_clear_error():
    # HF_HUB_OFFLINE is set for all tests
    with pytest.raises(ConfigError, match=r"test_resnet.*no download"):
        create_classifier(config(pretrained=HubWeights(type="hub")), 2)


def test_unknown_backbone_is_refused_with_a_hint():
    with pytest.raises(ConfigError, match="resnet14t"):
        create_classifier(config(model="resnet14x"), 2)
