"""The guide learns what can be learned, from draws that depend on seed and index alone."""

import numpy as np
import pytest
import torch

from histodiff.diffusion import EdmObjective, create_preconditioning
from histodiff.guidance.classifier_guide import ClassifierGuide
from histodiff.guidance.evaluate import accuracy_by_sigma
from histodiff.guidance.labelled import LabelledLatents, noisy_batch, read_labelled
from histodiff.guidance.noise import LogUniformNoise, sigma_drawer
from histodiff.guidance.pseudo_labels import shown_latents
from histodiff.guidance.training import GuideTraining, guide_loss, training_batch
from histodiff.latents import Whitening
from histodiff.models.latent_classifier import LatentClassifier, LatentClassifierConfig
from histodiff.storage import storage_path
from histodiff.training import fit
from tests.support.latent_stores import SWAPPED, open_new_store, patch_table
from tests.support.optimization import optimization

PRECONDITIONING = create_preconditioning(EdmObjective(type="edm"))
SIGMA_OF = sigma_drawer(
    LogUniformNoise(type="log_uniform", sigma_min=0.05, sigma_max=20.0), PRECONDITIONING
)


def groups(count):
    """Slides of four latents."""
    return tuple(f"slide {number // 4}" for number in range(count))


def toy_latents(count, *, shift, seed=0):
    """Two classes whose first channel has another mean."""
    rng = np.random.default_rng(seed)
    target = np.arange(count) % 2
    mean = rng.normal(size=(count, 2, 4, 4)).astype(np.float32) * 0.3
    mean[:, 0] += np.where(target == 1, shift, -shift)[:, None, None]
    return LabelledLatents(mean, np.full_like(mean, 0.1), target, np.arange(count), groups(count))


def training(**changes):
    values = {
        "noise": LogUniformNoise(type="log_uniform", sigma_min=0.05, sigma_max=20.0),
        **optimization(steps=60, batch=16, lr=3e-3),
        **changes,
    }
    return GuideTraining(**values)


def classifier():
    torch.manual_seed(0)
    config = LatentClassifierConfig(channels=(16,), dropout=0.0)
    return LatentClassifier(config, latent_channels=2, num_classes=2)


def test_guide_separable_latents_right_at_low_noise_and_unsure_at_high(tmp_path):
    network, settings = classifier(), training()
    loss = guide_loss(
        network,
        toy_latents(24, shift=1.0),
        training=settings,
        sigma_of=sigma_drawer(settings.noise, PRECONDITIONING),
        seed=0,
        device="cpu",
    )
    fit(
        network, loss=loss, config=settings, seed=0, checkpoints=storage_path(tmp_path), run="guide"
    )
    low, high = accuracy_by_sigma(
        ClassifierGuide(network, network.eval(), ("no", "yes")), toy_latents(64, shift=1.0, seed=1),
        bins=[(0.05, 0.2), (15.0, 20.0)], batch=32, seed=0, device="cpu",
    )  # fmt: skip
    assert low.accuracy > 0.95
    assert low.cross_entropy < 0.3
    assert high.accuracy < 0.8  # the signal lies below the noise
    assert low.num == high.num == 64


def test_training_batch_is_a_function_of_seed_and_global_index():
    latents = toy_latents(10, shift=1.0)

    def batch(step, size, seed=0):
        return training_batch(
            latents,
            step,
            shown_at=shown_latents(latents, None, balanced=True, seed=seed),
            training=training(batch=size),
            sigma_of=SIGMA_OF,
            seed=seed,
        )

    whole, first, second = batch(0, 8), batch(0, 4), batch(1, 4)
    torch.testing.assert_close(
        whole.noisy_BCHW, torch.cat([first.noisy_BCHW, second.noisy_BCHW]), rtol=0, atol=0
    )
    torch.testing.assert_close(whole.target_B, torch.cat([first.target_B, second.target_B]))
    assert not torch.equal(whole.noisy_BCHW, batch(0, 8, seed=1).noisy_BCHW)


def test_training_batch_balanced_draws_rare_classes_as_often():
    latents = toy_latents(20, shift=1.0)
    rare = LabelledLatents(
        latents.mean_NCHW,
        latents.std_NCHW,
        np.array([1] + [0] * 19, np.int64),
        np.arange(20),
        groups(20),
    )
    shares = {
        balanced: float(
            training_batch(
                rare, 0, shown_at=shown_latents(rare, None, balanced=balanced, seed=0),
                training=training(batch=400), sigma_of=SIGMA_OF, seed=0,
            ).target_B.float().mean()
        )
        for balanced in (True, False)
    }  # fmt: skip
    assert shares[True] == pytest.approx(0.5, abs=0.1)
    assert shares[False] == pytest.approx(0.05, abs=0.05)


def test_noisy_batch_has_the_noise_level_it_says():
    latents = LabelledLatents(
        np.zeros((1, 2, 64, 64), np.float32), np.zeros((1, 2, 64, 64), np.float32),
        np.zeros(1, int), np.zeros(1, int), groups(1),
    )  # fmt: skip
    batch = noisy_batch(
        latents, [0, 0], sigma_of=lambda u: torch.tensor([0.5, 4.0]), seed=0, purpose="t",
        indices=[0, 1],
    )  # fmt: skip
    assert batch.noisy_BCHW.std(dim=(1, 2, 3)).tolist() == pytest.approx([0.5, 4.0], rel=0.05)


def test_read_labelled_whitens_posterior_and_leaves_out_quarantined_rows(tmp_path):
    patches = patch_table(slides=3, side=2, split="train")
    store = open_new_store(tmp_path / "store", patches, quarantined={1: "UNREADABLE"})
    rows = np.flatnonzero([label is not None for label in store.rows["label"].to_pylist()])
    whitening = Whitening(mean=(1.0, -2.0), scale=(2.0, 4.0))
    latents = read_labelled(store, rows, whitening=whitening, classes=store.classes)
    assert len(latents) == 7  # two labelled slides of four patches, one quarantined
    numbers = latents.mean_NCHW[:, 0, 0, 0] * 2.0 + 1.0  # the store tells each row's patch there
    assert numbers.tolist() == pytest.approx([0, 2, 3, 4, 5, 6, 7])
    assert latents.target_N.tolist() == [0, 0, 0, 1, 1, 1, 1]
    row = int(np.flatnonzero(np.asarray(store.rows["patch"]) == 4)[0])
    raw = store.read_rows([row]).astype(np.float32)[0]
    np.testing.assert_allclose(
        latents.std_NCHW[3], raw[2:] / np.array([2.0, 4.0])[:, None, None], rtol=1e-6
    )
    np.testing.assert_allclose(latents.mean_NCHW[3][1], (raw[1] + 2.0) / 4.0, rtol=1e-6)


def test_read_labelled_of_the_view_mean_has_no_posterior_spread(tmp_path):
    store = open_new_store(tmp_path, patch_table(slides=2, side=2, split="train"))
    whitening = Whitening(mean=(1.0, -2.0), scale=(2.0, 4.0))
    options = {"whitening": whitening, "classes": store.classes}
    drawn = read_labelled(store, store.valid_rows, **options)
    mean = read_labelled(store, store.valid_rows, view="mean", **options)
    assert np.array_equal(mean.mean_NCHW, drawn.mean_NCHW)
    assert drawn.std_NCHW.any()
    assert not mean.std_NCHW.any()


def turned_by_hand(latent_CHW, which):
    """``which % 4`` quarter turns, then a flip, value by value."""
    side = latent_CHW.shape[1]
    for _ in range(which % 4):
        latent_CHW = np.array(
            [[[c[x, side - 1 - y] for x in range(side)] for y in range(side)] for c in latent_CHW]
        )
    return latent_CHW[:, :, ::-1] if which >= 4 else latent_CHW


@pytest.mark.parametrize("symmetries", [None, SWAPPED], ids=["positions", "channels too"])
def test_noisy_batch_shows_what_whitening_makes_of_the_turned_raw_latent(tmp_path, symmetries):
    patches = patch_table(slides=2, side=2, split="train")
    store = open_new_store(tmp_path, patches, symmetries=symmetries)
    whitening = Whitening(mean=(1.0, -2.0), scale=(2.0, 4.0))
    latents = read_labelled(
        store, store.valid_rows, whitening=whitening, classes=store.classes, view="mean"
    )
    seen = noisy_batch(
        latents, [3] * 64, sigma_of=torch.zeros_like, seed=0, purpose="t", indices=range(64),
        symmetries=True,
    ).noisy_BCHW.numpy()  # fmt: skip
    row = int(np.flatnonzero(np.asarray(store.rows["patch"]) == 3)[0])
    raw = store.read_rows([row]).astype(np.float32)[0, :2]
    views = []
    for which in range(8):
        moved = turned_by_hand(raw, which)
        if symmetries is not None:
            order, signs = symmetries.permutation[which], symmetries.sign[which]
            moved = np.stack(
                [sign * moved[place] for place, sign in zip(order, signs, strict=True)]
            )
        views.append((moved - np.array([[[1.0]], [[-2.0]]])) / np.array([[[2.0]], [[4.0]]]))
    gaps = np.abs(seen[:, None] - np.stack(views)).max(axis=(2, 3, 4))
    assert gaps.min(axis=1).max() < 1e-5
    assert set(gaps.argmin(axis=1)) == set(range(8))
