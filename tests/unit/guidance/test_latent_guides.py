"""The guides ``latent`` and ``clean``: regularised by what was held out, and the control."""

import math

import numpy as np
import pytest
import torch

from histodiff.diffusion import EdmObjective
from histodiff.guidance.calibration import CalibrationConfig
from histodiff.guidance.evaluate import accuracy_by_sigma
from histodiff.guidance.kinds import load_guide, save_guide
from histodiff.guidance.labelled import LabelledLatents
from histodiff.guidance.latent_classifier import CleanGuideKind, LatentGuideKind
from histodiff.guidance.lesson import Lesson
from histodiff.guidance.noise import LogUniformNoise
from histodiff.guidance.pseudo_labels import shown_latents
from histodiff.guidance.teaching import train_guide
from histodiff.guidance.training import (
    ClassifierTraining,
    GuideTraining,
    guide_loss,
    mixing_shares,
    training_batch,
)
from histodiff.models.denoiser import Denoiser, DenoiserConfig
from histodiff.models.dit import DiTConfig
from histodiff.models.latent_classifier import LatentClassifierConfig
from histodiff.storage import storage_path
from tests.support.optimization import optimization

SHAPE = (2, 4, 4)
NOISE = LogUniformNoise(type="log_uniform", sigma_min=0.05, sigma_max=20.0)
NETWORK = LatentClassifierConfig(channels=(8,), head_dim=8, dropout=0.0)


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    network = DiTConfig(type="dit", token_side=2, width=16, depth=1, num_heads=2)
    config = DenoiserConfig(network=network, objective=EdmObjective(type="edm"))
    return Denoiser(config, latent_shape=SHAPE).eval().requires_grad_(requires_grad=False)


def latents(slides, *, seed, shift=1.0):
    rng = np.random.default_rng(seed)
    count = 4 * slides
    target = np.arange(count) // 4 % 2
    mean = 0.3 * rng.normal(size=(count, *SHAPE)).astype(np.float32)
    mean += rng.normal(size=(slides, 2, 1, 1)).astype(np.float32).repeat(4, axis=0) * 0.3
    mean[:, 0] += np.where(target == 1, shift, -shift)[:, None, None].astype(np.float32)
    return LabelledLatents(
        mean, np.zeros_like(mean), target, np.arange(count),
        tuple(f"slide {number // 4}" for number in range(count)),
    )  # fmt: skip


def taught(denoiser, path, kind, labelled):
    lesson = Lesson(("left", "right"), denoiser, 0, "cpu")
    return train_guide(lesson, labelled, kind=kind, num_bins=2, path=storage_path(path))


def latent_kind(**changes):
    training = changes.pop("training", {})
    return LatentGuideKind(
        type="latent", network=NETWORK,
        training=GuideTraining(
            **{"noise": NOISE, **optimization(steps=60, batch=16, lr=1e-2), **training}
        ),
        **changes,
    )  # fmt: skip


def clean_kind(used_on, **changes):
    return CleanGuideKind(
        type="clean", network=NETWORK, used_on=used_on, noise=NOISE,
        training=ClassifierTraining(**optimization(steps=60, batch=16, lr=1e-2)), **changes,
    )  # fmt: skip


def test_training_ends_where_slides_held_out_were_judged_best(denoiser, tmp_path):
    kind = latent_kind(lengths=(0.1, 1.0), calibration=CalibrationConfig(folds=2, draws=1))
    signal = taught(denoiser, tmp_path / "signal", kind, latents(8, seed=0))
    assert signal.chosen["length"] == 1.0
    assert signal.rows[-1].step == 60
    noise = taught(denoiser, tmp_path / "noise", kind, latents(8, seed=3, shift=0.0))
    losses = {float(share): loss for share, loss in noise.chosen["log_loss_of_lengths"].items()}
    assert noise.chosen["length"] == min(losses, key=losses.get)
    assert noise.rows[-1].step == round(60 * noise.chosen["length"])
    assert all(score.log_loss < math.log(2) + 1e-4 for score in noise.cross_fitted)


def test_mixed_batches_mix_clean_latents_and_labels_alike_and_leave_the_noise(denoiser):
    training = latent_kind(training={"mixing": 1.0}).training
    whole, low = (
        latents(8, seed=0),
        LogUniformNoise(type="log_uniform", sigma_min=1e-5, sigma_max=1e-4),
    )

    def sigma_of(u):
        return torch.full_like(u, low.sigma_min).float()

    seen = []

    def logits(x, sigma):
        seen.append(x)
        return torch.zeros(len(x), 2)

    guide_loss(logits, whole, training=training, sigma_of=sigma_of, seed=0, device="cpu")(3)
    plain = training_batch(
        whole, 3, shown_at=shown_latents(whole, None, balanced=True, seed=0), training=training,
        sigma_of=sigma_of, seed=0,
    )  # fmt: skip
    share = mixing_shares(training, 3, seed=0).reshape(-1, 1, 1, 1)
    assert 0 < share.min() < 0.4 < 0.6 < share.max() < 1
    expected = (1 - share) * plain.clean_BCHW + share * plain.clean_BCHW.roll(-1, 0)
    torch.testing.assert_close(seen[0], expected, atol=1e-3, rtol=0)


def test_loss_of_mixed_labels_is_least_for_their_shares():
    training = latent_kind(training={"mixing": 1.0}).training
    whole = latents(8, seed=0)
    plain = training_batch(
        whole, 0, shown_at=shown_latents(whole, None, balanced=True, seed=0), training=training,
        sigma_of=lambda u: u.float(), seed=0,
    )  # fmt: skip
    share = mixing_shares(training, 0, seed=0)
    hot = torch.nn.functional.one_hot(plain.target_B, 2).float()
    mixed = (1 - share)[:, None] * hot + share[:, None] * hot.roll(-1, 0)

    def loss_of(logits):
        return guide_loss(
            lambda x, sigma: logits, whole, training=training, sigma_of=lambda u: u.float(),
            seed=0, device="cpu",
        )(0)  # fmt: skip

    best = loss_of(mixed.clamp_min(1e-6).log())
    torch.testing.assert_close(best, -(mixed * mixed.clamp_min(1e-6).log()).sum(1).mean())
    assert best < loss_of(hot.clamp_min(1e-6).log())


@pytest.mark.parametrize("used_on", ["noisy", "denoised"])
def test_clean_guide_knows_clean_latents_and_comes_back_the_same(denoiser, tmp_path, used_on):
    kind = clean_kind(used_on, calibration=CalibrationConfig(folds=4, draws=1))
    found = taught(denoiser, tmp_path / "work", kind, latents(8, seed=0))
    (low,) = accuracy_by_sigma(
        found.guide, latents(8, seed=1), bins=[(1e-3, 2e-3)], batch=32, seed=0, device="cpu"
    )
    assert low.auc > 0.95
    assert all(score.log_loss < math.log(2) + 1e-4 for score in found.cross_fitted)
    save_guide(storage_path(tmp_path), found.guide, snapshot="images-64")
    asked = []

    def opened(snapshot):
        asked.append(snapshot)
        return denoiser

    loaded = load_guide(storage_path(tmp_path), opened, "cpu")
    assert asked == (["images-64"] if used_on == "denoised" else [])
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0), requires_grad=True)
    sigma = torch.tensor([0.1, 1.0, 10.0])
    said = loaded.log_probabilities(x, sigma)
    torch.testing.assert_close(said, found.guide.log_probabilities(x, sigma))
    (gradient,) = torch.autograd.grad(said[0, 0], x)
    assert gradient[0].abs().sum() > 0


def test_clean_guide_on_the_estimate_is_shown_a_clean_latent(denoiser, tmp_path):
    found = taught(denoiser, tmp_path, clean_kind("denoised", calibration=None), latents(4, seed=0))
    x, sigma = torch.randn(2, *SHAPE), torch.tensor([0.5, 3.0])
    network = found.guide.network
    expected = network(denoiser(x, sigma), torch.zeros(2)).log_softmax(dim=1)
    torch.testing.assert_close(found.guide.log_probabilities(x, sigma), expected)
