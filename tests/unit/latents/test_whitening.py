"""Whitening against draws from the posterior."""

import numpy as np
import pytest
import torch

from histodiff.errors import ArtifactError
from histodiff.latents import Whitening, mixture_whitening
from tests.support.latent_stores import open_new_store, patch_table

WHITENING = Whitening(mean=(1.0, -2.0), scale=(0.5, 4.0))


def test_whitening_numpy_and_torch_agree_and_invert():
    latents = np.random.default_rng(0).normal(size=(3, 2, 4, 4)).astype(np.float32)
    whitened = WHITENING.apply(latents)
    assert whitened[0, 1, 0, 0] == pytest.approx((latents[0, 1, 0, 0] + 2) / 4)
    assert np.array_equal(WHITENING.apply(torch.from_numpy(latents)).numpy(), whitened)
    assert np.allclose(WHITENING.invert(whitened), latents, atol=1e-6)


def test_whitening_json_round_trip_is_exact():
    exact = Whitening((0.1, 1 / 3), (2 / 7, 1e-3))
    assert Whitening.from_json(exact.to_json()) == exact


def test_whitening_of_before_scales_had_rules_still_opens():
    written = '{"mean": [0.5, 0.25], "std": [2.0, 4.0]}'
    assert Whitening.from_json(written) == Whitening((0.5, 0.25), (2.0, 4.0))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 1.5])
def test_power_of_the_standard_deviation_orders_channels_and_keeps_the_mean_variance(
    tmp_path, power
):
    store = open_new_store(tmp_path, patch_table(slides=8, side=4), moment_shape=(6, 2, 2))
    unit = mixture_whitening([store], [1.0], view="mean")
    found = mixture_whitening([store], [1.0], view="mean", power=power)
    assert found.mean == unit.mean
    ratio = np.array(found.scale) / np.array(unit.scale) ** power
    assert ratio == pytest.approx(np.full(3, ratio[0]))
    means = store.read_rows(store.rows_of_split("train")).astype(np.float64)[:, :3]
    variances = found.apply(means).var(axis=(0, 2, 3))
    assert variances.mean() == pytest.approx(1)
    order = np.argsort(unit.scale)  # below 1 the strongest channel stays strongest
    if power != 1:
        assert list(np.argsort(variances)) == list(order if power < 1 else order[::-1])


def test_mixture_whitening_is_that_of_posterior_draws_weighted_by_store(tmp_path):
    patches = patch_table(slides=6, side=4, split="train")
    one = open_new_store(tmp_path / "a", patches, quarantined={3: "UNREADABLE"})
    two = open_new_store(tmp_path / "b", patch_table(slides=2, side=4, split="train"))
    found = mixture_whitening([one, two], [3, 1])
    mean, square = np.zeros(2), np.zeros(2)
    for store, share in ((one, 0.75), (two, 0.25)):
        moments = store.read_rows(store.valid_rows).astype(np.float64)
        mu, sigma = moments[:, :2], moments[:, 2:]
        mean += share * mu.mean(axis=(0, 2, 3))
        square += share * (mu**2 + sigma**2).mean(axis=(0, 2, 3))
    assert found.mean == pytest.approx(mean)
    assert found.scale == pytest.approx(np.sqrt(square - mean**2))


def test_mixture_whitening_reads_the_split_only(tmp_path):
    store = open_new_store(tmp_path, patch_table(slides=8, side=4))
    train = store.read_rows(store.rows_of_split("train")).astype(np.float64)
    found = mixture_whitening([store], [1.0])
    assert found.mean == pytest.approx(train[:, :2].mean(axis=(0, 2, 3)))
    with pytest.raises(ArtifactError, match="split 'none'"):
        mixture_whitening([store], [1.0], split="none")
