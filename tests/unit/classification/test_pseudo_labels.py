"""Guessed labels stay soft, are calibrated, and join round the classes; retrieval is exact."""

import numpy as np
import pytest

from histodiff.classification.pseudo_labels import (
    Choice,
    Weighting,
    fitted_temperature,
    pseudo_labelled,
    soft_targets,
    tempered,
)
from histodiff.classification.retrieval import retrieved


def guesses(count=60, seed=0):
    return np.random.default_rng(seed).dirichlet([3, 1, 1], size=count)


def test_pseudo_labelled_goes_round_the_classes_while_they_last():
    probability = guesses()
    rows = pseudo_labelled(probability, count=12, choice=Choice.RANDOM, seed=0)
    assert probability[rows].argmax(axis=1).tolist() == [0, 1, 2] * 4
    every = pseudo_labelled(probability, count=1000, choice=Choice.RANDOM, seed=0)
    assert sorted(every.tolist()) == list(range(60))
    assert rows.tolist() == every[:12].tolist()
    other = pseudo_labelled(probability, count=12, choice=Choice.RANDOM, seed=1)
    assert rows.tolist() != other.tolist()


def test_pseudo_labelled_confident_takes_the_surest_of_each_class():
    probability = guesses()
    rows = pseudo_labelled(probability, count=6, choice=Choice.CONFIDENT, seed=0)
    for number in range(3):
        own = np.flatnonzero(probability.argmax(axis=1) == number)
        surest = own[np.argsort(-probability[own].max(axis=1))[:2]]
        assert rows[number::3].tolist() == surest.tolist()


def test_soft_targets_weight_from_chance_to_certainty():
    probability = np.array([[1 / 3, 1 / 3, 1 / 3], [1, 0, 0], [0.5, 0.5, 0]])
    weighted = soft_targets(probability, weighting=Weighting.CONFIDENCE).sum(axis=1)
    np.testing.assert_allclose(weighted, [0, 1, 0.25], atol=1e-6)
    plain = soft_targets(probability, weighting=Weighting.NONE)
    np.testing.assert_allclose(plain, probability, atol=1e-6)


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_fitted_temperature_finds_what_made_the_labels(true_temperature):
    rng = np.random.default_rng(0)
    said = rng.dirichlet([0.5, 0.5, 0.5], size=20_000)
    honest = tempered(said, true_temperature)
    target = (honest.cumsum(axis=1) > rng.random((len(said), 1))).argmax(axis=1)
    assert fitted_temperature(said, target) == pytest.approx(true_temperature, rel=0.06)


def test_fitted_temperature_of_a_teacher_that_knows_nothing_is_high():
    rng = np.random.default_rng(0)
    said = np.where(rng.random((5000, 1)) < 0.5, [[0.99, 0.01]], [[0.01, 0.99]])
    found = tempered(said, fitted_temperature(said, rng.integers(0, 2, 5000)))
    assert found.max() < 0.53


def test_retrieved_are_the_nearest_of_every_labelled_patch_first():
    angle = np.deg2rad([0, 90])
    labelled = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    pool_angle = np.deg2rad([2, 1, 85, 3, 80, 60])
    pool = 7 * np.stack([np.cos(pool_angle), np.sin(pool_angle)], axis=1)
    found = retrieved(pool, labelled, np.array([0, 1]), count=5)
    assert found.row_N.tolist() == [1, 2, 0, 4, 3]
    assert found.labelled_N.tolist() == [0, 1, 0, 1, 0]
    every = retrieved(pool, labelled, np.array([0, 1]), count=100)
    assert sorted(every.row_N.tolist()) == list(range(6))


def test_retrieved_no_labelled_patch_fills_the_set_alone():
    rng = np.random.default_rng(1)
    labelled = rng.normal(size=(4, 8))
    pool = np.concatenate([
        labelled[0] + 0.01 * rng.normal(size=(50, 8)),
        *(labelled[n] + 0.3 * rng.normal(size=(5, 8)) for n in range(1, 4)),
    ])  # fmt: skip
    found = retrieved(pool, labelled, np.array([0, 0, 1, 1]), count=8)
    assert np.bincount(found.labelled_N, minlength=4).tolist() == [2, 2, 2, 2]
