"""The guide ``features``: a head on a frozen denoiser, with a gradient to the latent."""

import numpy as np
import pytest
import torch

from histodiff.diffusion import EdmObjective
from histodiff.errors import ConfigError
from histodiff.guidance.calibration import CalibrationConfig
from histodiff.guidance.evaluate import accuracy_by_sigma
from histodiff.guidance.feature_head import FeatureGuideKind
from histodiff.guidance.kinds import load_guide, save_guide
from histodiff.guidance.labelled import LabelledLatents
from histodiff.guidance.lesson import Lesson
from histodiff.guidance.noise import LogUniformNoise
from histodiff.guidance.teaching import train_guide
from histodiff.guidance.training import GuideTraining
from histodiff.models.denoiser import Denoiser, DenoiserConfig
from histodiff.models.feature_head import DenoiserFeatures, FeatureHeadConfig
from histodiff.models.unet import UNetConfig
from histodiff.storage import storage_path
from tests.support.optimization import optimization

SHAPE = (2, 8, 8)
UNET = UNetConfig(
    type="unet", channels=(8, 16), attention_levels=(False, False), blocks_per_level=1, head_dim=8,
    norm_groups=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    config = DenoiserConfig(network=UNET, objective=EdmObjective(type="edm"))
    return Denoiser(config, latent_shape=SHAPE).eval().requires_grad_(requires_grad=False)


def latents(slides, *, seed):
    """Classes whose textures have other strengths; two slides each of four latents, or more."""
    rng = np.random.default_rng(seed)
    count = 4 * slides
    target = np.arange(count) // 4 % 2
    mean = rng.normal(size=(count, *SHAPE)).astype(np.float32)
    mean *= np.where(target == 1, 2.0, 0.3)[:, None, None, None].astype(np.float32)
    return LabelledLatents(
        mean, np.zeros_like(mean), target, np.arange(count),
        tuple(f"slide {number // 4}" for number in range(count)),
    )  # fmt: skip


def kind(layers=("mid_block", "up_blocks.0"), *, calibration=None, width=8):
    return FeatureGuideKind(
        type="features",
        network=FeatureHeadConfig(layers=layers, width=width, dropout=0.1),
        training=GuideTraining(
            noise=LogUniformNoise(type="log_uniform", sigma_min=0.05, sigma_max=20.0),
            **optimization(steps=60, batch=16, lr=1e-2),
        ),
        calibration=calibration,
    )


def trained(denoiser, path, config):
    lesson = Lesson(("weak", "strong"), denoiser, 0, "cpu")
    return train_guide(
        lesson, latents(8, seed=0), kind=config, num_bins=3, path=storage_path(path)
    ).guide


@pytest.mark.parametrize("width", [0, 8])
def test_feature_guide_is_right_at_low_noise_and_unsure_at_high(denoiser, tmp_path, width):
    guide = trained(
        denoiser, tmp_path, kind(calibration=CalibrationConfig(folds=2, draws=2), width=width)
    )
    low, high = accuracy_by_sigma(
        guide, latents(16, seed=1), bins=[(0.05, 0.2), (15.0, 20.0)], batch=32, seed=0,
        device="cpu",
    )  # fmt: skip
    assert low.accuracy > 0.9
    assert low.cross_entropy < 0.5
    assert high.cross_entropy < 0.75  # ln 2 is 0.69


def test_feature_guide_comes_back_the_same_and_steers(denoiser, tmp_path):
    guide = trained(
        denoiser, tmp_path / "work", kind(calibration=CalibrationConfig(folds=2, draws=1))
    )
    save_guide(storage_path(tmp_path), guide, snapshot="images-64")
    asked = []

    def opened(snapshot):
        asked.append(snapshot)
        return denoiser

    loaded = load_guide(storage_path(tmp_path), opened, "cpu")
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0), requires_grad=True)
    sigma = torch.tensor([0.1, 1.0, 10.0])
    found = loaded.log_probabilities(x, sigma)
    torch.testing.assert_close(found, guide.log_probabilities(x, sigma))
    assert asked == ["images-64"]
    assert loaded.classes == ("weak", "strong")
    (gradient,) = torch.autograd.grad(found[:, 0].sum(), x)
    assert gradient.abs().flatten(1).sum(dim=1).min() > 0


def test_features_are_of_each_sample_alone(denoiser):
    features = DenoiserFeatures(denoiser, ("down_blocks.0", "mid_block"))
    x, sigma = torch.randn(4, *SHAPE), torch.tensor([0.1, 0.5, 2.0, 9.0])
    apart = torch.cat([features(x[i : i + 1], sigma[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(features(x, sigma), apart, rtol=1e-4, atol=1e-5)
    assert apart.shape == (4, features.num_features)


def test_layer_that_the_denoiser_does_not_have_is_refused(denoiser, tmp_path):
    with pytest.raises(ConfigError, match=r"kind\.network\.layers=up_blocks\.7.*mid_block"):
        trained(denoiser, tmp_path, kind(layers=("up_blocks.7",)))
