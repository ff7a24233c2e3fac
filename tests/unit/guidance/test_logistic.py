"""Logistic regressions: the optimum scikit-learn finds, chosen by slides that were held out."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from histodiff.diffusion import EdmObjective
from histodiff.errors import ConfigError
from histodiff.guidance.calibration import CalibrationConfig
from histodiff.guidance.evaluate import accuracy_by_sigma
from histodiff.guidance.feature_head import FeatureGuideKind
from histodiff.guidance.kinds import load_guide, save_guide
from histodiff.guidance.labelled import LabelledLatents
from histodiff.guidance.lesson import Lesson
from histodiff.guidance.logistic import components_of, log_probabilities, regressions
from histodiff.guidance.logistic_head import LogisticHeadConfig
from histodiff.guidance.noise import LogUniformNoise
from histodiff.guidance.scores import class_weights
from histodiff.guidance.teaching import train_guide
from histodiff.models.denoiser import Denoiser, DenoiserConfig
from histodiff.models.logistic_head import LogisticHead
from histodiff.models.unet import UNetConfig
from histodiff.storage import storage_path

SHAPE = (2, 8, 8)
NOISE = LogUniformNoise(type="log_uniform", sigma_min=0.05, sigma_max=20.0)


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    unet = UNetConfig(
        type="unet", channels=(8, 16), attention_levels=(False, False), blocks_per_level=1,
        head_dim=8, norm_groups=4,
    )  # fmt: skip
    config = DenoiserConfig(network=unet, objective=EdmObjective(type="edm"))
    return Denoiser(config, latent_shape=SHAPE).eval().requires_grad_(requires_grad=False)


def latents(slides, *, seed, signal=True, per_slide=4):
    """Classes whose textures have other strengths, if there is a signal; slides differ anyway."""
    rng = np.random.default_rng(seed)
    count = per_slide * slides
    target = np.arange(count) // per_slide % 2
    mean = rng.normal(size=(count, *SHAPE)).astype(np.float32)
    slide_strength = np.repeat(np.exp(rng.normal(0, 0.3, slides)), per_slide)
    strength = np.where(target == 1, 2.0, 0.4) if signal else np.ones(count)
    mean *= (slide_strength * strength)[:, None, None, None].astype(np.float32)
    return LabelledLatents(
        mean, np.zeros_like(mean), target, np.arange(count),
        tuple(f"slide {number // per_slide}" for number in range(count)),
    )  # fmt: skip


def kind(**changes):
    network = {
        "type": "logistic", "layers": (("mid_block",), ("down_blocks.0", "up_blocks.1")),
        "noise": NOISE, "draws": 2, "folds": 3,
    }  # fmt: skip
    calibration = changes.pop("calibration", CalibrationConfig(folds=3, draws=1))
    return FeatureGuideKind(
        type="features", network=LogisticHeadConfig(**{**network, **changes}),
        calibration=calibration,
    )  # fmt: skip


def taught(denoiser, path, labelled, config=None):
    lesson = Lesson(("weak", "strong"), denoiser, 0, "cpu")
    return train_guide(lesson, labelled, kind=config or kind(), num_bins=3, path=storage_path(path))


@pytest.mark.parametrize(("rows", "size", "num_classes"), [(40, 90, 2), (120, 12, 3)])
def test_regression_is_that_of_scikit_learn(rows, size, num_classes):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(rows, size)) * rng.uniform(0.1, 30, size) + 5
    target = rng.choice(num_classes, rows, p=[0.7, 0.3] if num_classes == 2 else None)
    features[:, 0] += target * 20
    (found,) = regressions(
        features, target, num_classes=num_classes, penalties=[0.05], components=10_000
    )
    whitened = components_of(features, most=10_000).of(features)
    # ours weighs the mean of the losses, theirs the sum; ours has a weight for each of two classes
    oracle = LogisticRegression(C=1 / (0.05 * rows), tol=1e-10, max_iter=20_000)
    if num_classes == 2:
        oracle.set_params(C=2 / (0.05 * rows))
    oracle.fit(whitened, target, sample_weight=class_weights(target) * rows)
    np.testing.assert_allclose(
        np.exp(log_probabilities(found, features)), oracle.predict_proba(whitened), atol=2e-4
    )


def test_components_have_unit_variance_in_all_and_no_correlation():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 200)) * rng.uniform(0.1, 9, 200)
    for part in (features, features[:, :20]):
        found = components_of(part, most=8).of(part)
        covariance = np.cov(found.T, bias=True)
        assert np.trace(covariance) == pytest.approx(1)
        off = covariance - np.diag(np.diag(covariance))
        assert np.abs(off).max() < 1e-9
        assert (np.diff(np.diag(covariance)) <= 1e-9).all()


def test_head_has_the_logits_of_its_levels_and_is_linear_in_log_sigma_between():
    head = LogisticHead(layers=("a",), sigmas=(0.1, 1.0, 10.0), num_features=3, num_classes=2)
    for level in range(3):
        head.take(
            level, mean_D=torch.ones(3), weight_KD=torch.full((2, 3), level + 1.0),
            bias_K=torch.tensor([0.0, level]),
        )  # fmt: skip
    features = torch.full((5, 3), 2.0)
    found = head(features, torch.tensor([0.01, 0.1, 0.1**0.5, 10.0, 99.0]))
    expected = torch.tensor([[3.0, 3.0], [3.0, 3.0], [4.5, 5.0], [9.0, 11.0], [9.0, 11.0]])
    torch.testing.assert_close(found, expected)


def test_guide_with_a_signal_is_right_at_low_noise_on_slides_that_it_did_not_see(
    denoiser, tmp_path
):
    found = taught(denoiser, tmp_path, latents(12, seed=0))
    assert found.cross_fitted[0].balanced_accuracy > 0.9
    assert found.cross_fitted[0].log_loss < 0.4
    low, _, high = accuracy_by_sigma(
        found.guide, latents(24, seed=1), bins=[s_bin(s) for s in found.cross_fitted], batch=32,
        seed=0, device="cpu",
    )  # fmt: skip
    assert low.balanced_accuracy > 0.9
    assert low.log_loss < 0.45
    assert high.log_loss < math.log(2) + 0.01


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_guide_without_a_signal_is_no_worse_than_chance_in_any_bin(denoiser, tmp_path, seed):
    found = taught(denoiser, tmp_path, latents(8, seed=seed, signal=False))
    assert all(score.log_loss < math.log(2) + 1e-4 for score in found.cross_fitted)
    held_out = accuracy_by_sigma(
        found.guide, latents(40, seed=100 + seed, signal=False),
        bins=[s_bin(s) for s in found.cross_fitted], batch=64, seed=0, device="cpu",
    )  # fmt: skip
    assert all(score.log_loss < math.log(2) + 0.02 for score in held_out)


def test_choice_is_recorded_and_is_that_of_the_least_log_loss(denoiser, tmp_path):
    found = taught(denoiser, tmp_path, latents(8, seed=0))
    losses = found.chosen["log_loss_of_layers"]
    assert set(losses) == {"mid_block", "down_blocks.0+up_blocks.1"}
    assert "+".join(found.chosen["layers"]) == min(losses, key=losses.get)
    assert len(found.chosen["penalties_by_sigma"]) == 3
    assert found.guide.network.layers == tuple(found.chosen["layers"])


def test_choice_with_one_slide_of_a_class_is_refused_and_one_candidate_is_not(denoiser, tmp_path):
    with pytest.raises(ConfigError, match=r"kind\.network: nothing can be held out"):
        taught(denoiser, tmp_path, latents(2, seed=0), kind(calibration=None))
    alone = kind(layers=(("mid_block",),), penalties=(0.01,), calibration=None)
    found = taught(denoiser, tmp_path / "alone", latents(2, seed=0), alone)
    assert found.guide.temperatures is None
    assert found.cross_fitted == []


def test_guide_comes_back_the_same_and_has_a_gradient(denoiser, tmp_path):
    found = taught(denoiser, tmp_path / "work", latents(8, seed=0))
    save_guide(storage_path(tmp_path), found.guide, snapshot="last")
    loaded = load_guide(storage_path(tmp_path), lambda snapshot: denoiser, "cpu")
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0), requires_grad=True)
    sigma = torch.tensor([0.1, 0.3, 1.0])
    said = loaded.log_probabilities(x, sigma)
    torch.testing.assert_close(said, found.guide.log_probabilities(x, sigma))
    (gradient,) = torch.autograd.grad(said[0, 0], x)
    assert gradient[0].abs().sum() > 0


def test_features_that_were_taken_are_not_taken_again(denoiser, tmp_path):
    first = taught(denoiser, tmp_path, latents(8, seed=0))
    again = taught(denoiser, tmp_path, latents(8, seed=0))
    for name, tensor in first.guide.network.state_dict().items():
        assert torch.equal(tensor, again.guide.network.state_dict()[name])
    assert sorted(path.name for path in (tmp_path / "scratch").iterdir()) == [
        "features-0.npy", "features-1.npy", "features-2.npy",
    ]  # fmt: skip


def s_bin(score):
    return (score.sigma_low, score.sigma_high)
