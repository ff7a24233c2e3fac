"""Every kind of extractor: the right shape, the same for equal images, told apart by a digest."""

import hashlib

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from histodiff.diffusion import EdmObjective
from histodiff.errors import ConfigError
from histodiff.features.extractor import extracted_features, image_features, resized
from histodiff.features.kinds import (
    DenoiserExtractor,
    RandomExtractor,
    TimmExtractor,
    classifier_extractor,
    denoiser_extractor,
    random_extractor,
    timm_extractor,
)
from histodiff.models.activations import middle_features
from histodiff.models.autoencoder import Autoencoder, KlArchitecture, create_network
from histodiff.models.classifier import ClassifierConfig, NoWeights, create_classifier
from histodiff.models.denoiser import Denoiser, DenoiserConfig, LoadedDenoiser, SnapshotInfo
from histodiff.models.unet import UNetConfig


def images(count: int = 6, side: int = 32, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, size=(count, side, side, 3), dtype=np.uint8)


def features(extractor, pixels, **options):
    blocks = [pixels[:4], pixels[4:]]
    return extracted_features(extractor, blocks, total=len(pixels), batch=3, **options)


def tiny_timm(tmp_path, *, without: str | None = None) -> TimmExtractor:
    torch.manual_seed(7)
    state = timm.create_model("test_resnet").state_dict()
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({k: v for k, v in state.items() if k != without}, file)
    return TimmExtractor.model_validate(
        {
            "type": "timm", "model": "test_resnet", "input_px": 64,
            "pretrained": {
                "type": "file", "path": str(file),
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            },
        }
    )  # fmt: skip


def tiny_denoiser():
    config = DenoiserConfig(
        network=UNetConfig(
            type="unet", channels=(8, 16), attention_levels=(False, False), blocks_per_level=1,
            head_dim=8, norm_groups=4,
        ),
        objective=EdmObjective(type="edm"),
    )  # fmt: skip
    architecture = KlArchitecture(
        type="kl", channels=(8, 8, 8, 8), latent_channels=4, blocks_per_level=1, norm_groups=4,
        mid_attention=False,
    )  # fmt: skip
    torch.manual_seed(0)
    autoencoder = Autoencoder(create_network(architecture))
    info = SnapshotInfo((0.0,) * 4, (1.0,) * 4, autoencoder.encoder_sha256, 32, 1.0, 0)
    return LoadedDenoiser(Denoiser(config, latent_shape=(4, 4, 4)).eval(), info), autoencoder


def test_timm_features_are_those_of_the_backbone_before_its_logits(tmp_path):
    extractor = timm_extractor(tiny_timm(tmp_path), device="cpu")
    found = features(extractor, images(side=64))[0]
    torch.manual_seed(7)
    backbone = timm.create_model("test_resnet").eval()
    mean, std = (
        torch.tensor(backbone.pretrained_cfg[key]).reshape(3, 1, 1) for key in ("mean", "std")
    )
    pixels = torch.from_numpy(images(side=64)).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        maps = backbone.forward_features((pixels - mean) / std)
        wanted = backbone.forward_head(maps, pre_logits=True)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_timm_file_that_lacks_a_weight_of_the_backbone_is_refused(tmp_path):
    lacking = tiny_timm(tmp_path, without="layer2.0.conv1.weight")
    with pytest.raises(ConfigError, match=r"are missing \(layer2\.0\.conv1\.weight\)"):
        timm_extractor(lacking, device="cpu")


def test_classifier_features_are_those_of_its_own_method():
    network = ClassifierConfig(model="test_resnet", pretrained=NoWeights(type="none"), input_px=48)
    classifier = create_classifier(network, 2)
    found = features(classifier_extractor(classifier, name="c", device="cpu"), images())[0]
    wanted = image_features(classifier, images(), batch=6, device="cpu")
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_denoiser_features_are_pooled_activations_of_the_middle_block():
    loaded, autoencoder = tiny_denoiser()
    config = DenoiserExtractor(type="denoiser", denoiser="d@v1", autoencoder="a@v1", sigma=0.5)
    extractor = denoiser_extractor(config, loaded, autoencoder, name="d", device="cpu")
    found = features(extractor, images())[0]
    assert found.shape == (6, 16)
    again = features(extractor, images()[::-1].copy())[0]
    np.testing.assert_allclose(found, again[::-1], rtol=1e-4, atol=1e-5)  # noise is no image's own
    assert extractor.input_px == 32


def test_middle_features_leave_no_hook_behind():
    loaded, _ = tiny_denoiser()
    latents, sigma = torch.randn(2, 4, 4, 4), torch.full((2,), 0.3)
    first, second = (middle_features(loaded.denoiser, latents, sigma) for _ in range(2))
    torch.testing.assert_close(first, second)
    assert not loaded.denoiser.network.mid_block._forward_hooks


def test_random_features_tell_seeds_apart_and_repeat():
    first, again, other = (
        random_extractor(RandomExtractor(type="random_features", seed=seed), device="cpu")
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(features(first, images()), features(again, images()))
    assert first.weights_sha256 == again.weights_sha256 != other.weights_sha256


def test_symmetries_are_those_of_turned_and_flipped_images():
    extractor = random_extractor(RandomExtractor(type="random_features"), device="cpu")
    found = features(extractor, images(), symmetries="flips_and_turns")
    assert found.shape[0] == 8
    np.testing.assert_array_equal(found[0], features(extractor, images())[0])
    turned = np.ascontiguousarray(np.rot90(images(), 1, axes=(1, 2)))
    np.testing.assert_array_equal(found[1], features(extractor, turned)[0])
    flipped = np.ascontiguousarray(images()[:, :, ::-1])
    np.testing.assert_array_equal(found[4], features(extractor, flipped)[0])


def test_resized_averages_where_it_shrinks():
    stripes = torch.zeros(1, 3, 64, 64)
    stripes[..., ::2] = 255.0
    shrunk = resized(stripes, side=16)[..., 2:-2, 2:-2]
    assert (shrunk - 127.5).abs().max() < 8  # without a low-pass filter: 0 or 255
    assert resized(stripes, side=64) is stripes
