"""Temperatures: found by held-out slides, never sharper, and unsure where nothing can be told."""

import math

import numpy as np
import pytest
import torch

from histodiff.errors import ConfigError
from histodiff.guidance.calibration import (
    Temperatures,
    best_temperature,
    temperatures_of,
)
from histodiff.guidance.classifier_guide import ClassifierGuide
from histodiff.guidance.crossfit import Judging, cross_fit, folds
from histodiff.guidance.labelled import LabelledLatents

BINS = [(0.05, 0.2), (0.2, 1.0)]


def latents(groups, target, *, seed=0, shift=1.0):
    rng = np.random.default_rng(seed)
    target = np.asarray(target)
    mean = rng.normal(size=(len(target), 2, 4, 4)).astype(np.float32)
    mean[:, 0] += np.where(target == 1, shift, -shift)[:, None, None]
    return LabelledLatents(
        mean, np.zeros_like(mean), target, np.arange(len(target)), tuple(map(str, groups))
    )


@pytest.mark.parametrize("true", [1.7, 6.0])
def test_best_temperature_undoes_what_logits_were_multiplied_by(true):
    generator = torch.Generator().manual_seed(0)
    honest = torch.randn(6000, 3, generator=generator).log_softmax(dim=1)
    target = torch.multinomial(honest.exp(), 1, generator=generator).squeeze(1)
    assert best_temperature(true * honest, target) == pytest.approx(true, rel=0.08)
    assert best_temperature(honest / 3, target) == 1.0  # never sharper


def test_temperature_of_labels_that_cannot_be_told_makes_classes_equally_likely():
    generator = torch.Generator().manual_seed(0)
    sure = (8 * torch.randn(4000, 2, generator=generator)).log_softmax(dim=1)
    target = torch.randint(0, 2, (4000,), generator=generator)
    temperature = best_temperature(sure, target)
    loss = torch.nn.functional.cross_entropy(sure / temperature, target)
    assert loss <= math.log(2) + 1e-3
    assert torch.nn.functional.cross_entropy(sure, target) > 2


def test_temperatures_lie_between_their_nodes():
    found = Temperatures((0.1, 1.0), (2.0, 8.0)).at(torch.tensor([0.01, 0.1, 0.1**0.5, 1.0, 50.0]))
    torch.testing.assert_close(found, torch.tensor([2.0, 2.0, 4.0, 8.0, 8.0]))


def test_folds_hold_out_whole_slides_and_every_class_stays():
    groups, target = np.repeat(range(6), 4), np.repeat([0, 1], 12)
    held_out = folds(latents(groups, target), count=5, seed=0)
    assert len(held_out) == 3  # slides of a class
    assert sorted(np.concatenate(held_out).tolist()) == list(range(24))
    for rows in held_out:
        assert set(target[rows]) == {0, 1}
        assert len(set(groups[rows])) == 2


def test_folds_of_patients_that_have_all_classes_are_as_many_as_asked():
    groups, target = np.repeat(range(5), 4), np.tile([0, 1, 1, 1], 5)  # class 0 is nowhere the main
    held_out = folds(latents(groups, target), count=4, seed=0)
    assert len(held_out) == 4
    assert sorted(np.concatenate(held_out).tolist()) == list(range(20))


def test_folds_of_one_slide_per_class_are_refused():
    with pytest.raises(ConfigError, match=r"two labelled slides of every class.*to null"):
        folds(latents([0, 0, 1, 1], [0, 0, 1, 1]), count=4, seed=0)


def test_cross_fitted_temperatures_see_no_slide_that_a_guide_was_trained_on():
    whole = latents(np.repeat(range(8), 4), np.repeat([0, 1], 16))
    seen = []

    def train(part, number):
        seen.append((number, set(part.group_N)))
        known = {tuple(each[0].flatten()[:2].tolist()) for each in part.mean_NCHW}
        assert len(known) == len(part)

        def logits(x, sigma):  # of the first channel's mean, as sure as can be
            score = 20 * x[:, 0].mean(dim=(1, 2))
            return torch.stack([-score, score], dim=1)

        return ClassifierGuide(torch.nn.Identity(), logits, ("no", "yes"))

    judged = cross_fit(
        train, whole, Judging(BINS, 2, 8, 0, "cpu"), held_out=folds(whole, count=4, seed=0)
    )
    found = temperatures_of(judged)
    assert [number for number, _ in seen] == [0, 1, 2, 3]
    assert all(len(groups) == 6 for _, groups in seen)
    assert found.sigmas == pytest.approx((0.1, 0.2**0.5))
    assert all(value >= 1 for value in found.values)
