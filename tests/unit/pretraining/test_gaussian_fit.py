"""The Gaussian of a mixture against NumPy's covariance of every latent that training can see."""

import numpy as np
import pytest

from histodiff.errors import ConfigError
from histodiff.latents import LatentStore, Whitening
from histodiff.models.gaussian import GaussianStart
from histodiff.pretraining.gaussian import fitted_gaussian, load_fit, save_fit
from histodiff.runtime.symmetries import turned_moments
from histodiff.storage import storage_path
from tests.support.latent_stores import SWAPPED, patch_table, write_store

WHITENING = Whitening((0.5, -1.0), (2.0, 3.0))
EVERY_ROW = GaussianStart(rows=10_000)


def opened(path, *, slides=8, **changes):
    write_store(path, patch_table(slides=slides, side=3), **changes)
    return LatentStore.open(storage_path(path))


def fit_of(stores, weights=(1.0,), *, view="mean", symmetries="none", start=EVERY_ROW):
    return fitted_gaussian(
        stores, weights, start=start, whitening=WHITENING, view=view, symmetries=symmetries, seed=0
    )


def covariance_of(fit):
    kept = fit.basis_DR * fit.variance_R @ fit.basis_DR.T
    size = len(fit.mean_D)
    left_over = np.eye(size) - (fit.basis_DR @ fit.basis_DR.T).numpy()
    return kept.numpy() + fit.rest * left_over


def whitened(moments):
    return WHITENING.apply(moments[:, :2].astype(np.float64)).reshape(len(moments), -1)


@pytest.mark.parametrize("symmetries", ["none", "flips_and_turns"])
def test_fit_is_the_covariance_of_all_latents_under_their_symmetries(tmp_path, symmetries):
    store = opened(tmp_path / "store", symmetries=SWAPPED)
    moments = store.read_rows(store.rows_of_split("train"))
    group = range(8) if symmetries == "flips_and_turns" else (0,)
    raw = Whitening((0.0, 0.0), (1.0, 1.0))
    every = np.concatenate(
        [np.stack([turned_moments(each, g, channels=SWAPPED) for each in moments]) for g in group]
    )
    values = every[:, :2].astype(np.float64).reshape(len(every), -1)
    fit = fitted_gaussian(
        [store], [1.0], start=EVERY_ROW, whitening=raw, view="mean", symmetries=symmetries, seed=0
    )
    np.testing.assert_allclose(fit.mean_D, values.mean(axis=0), atol=1e-9)
    wanted = np.cov(values, rowvar=False, bias=True)
    np.testing.assert_allclose(covariance_of(fit), wanted, atol=1e-8 * np.abs(wanted).max())


def test_posterior_noise_adds_its_variance(tmp_path):
    store = opened(tmp_path / "store")
    moments = store.read_rows(store.rows_of_split("train")).astype(np.float64)
    noise = (moments[:, 2:] / np.array([2.0, 3.0]).reshape(-1, 1, 1)) ** 2
    added = covariance_of(fit_of([store], view="sample")) - covariance_of(fit_of([store]))
    wanted = np.diag(noise.mean(axis=0).reshape(-1))
    np.testing.assert_allclose(added, wanted, atol=1e-8 * wanted.max())


def test_stores_count_by_their_weight(tmp_path):
    first, second = opened(tmp_path / "first"), opened(tmp_path / "second", slides=12)
    values = [whitened(store.read_rows(store.rows_of_split("train"))) for store in (first, second)]
    mean = 0.75 * values[0].mean(axis=0) + 0.25 * values[1].mean(axis=0)
    fit = fit_of([first, second], (3.0, 1.0))
    np.testing.assert_allclose(fit.mean_D, mean, atol=1e-9 * np.abs(mean).max())


def test_saved_fit_is_read_back(tmp_path):
    fit = fit_of([opened(tmp_path / "store")])
    save_fit(storage_path(tmp_path / "fit.safetensors"), fit)
    again = load_fit(storage_path(tmp_path / "fit.safetensors"))
    np.testing.assert_array_equal(again.basis_DR, fit.basis_DR)
    assert again.rest == fit.rest


def test_latents_too_large_for_a_covariance_are_refused_in_one_line(tmp_path):
    store = opened(tmp_path / "store", moment_shape=(4, 65, 65))
    with pytest.raises(ConfigError, match=r"gaussian_start: latents have 8450 values"):
        fit_of([store])
