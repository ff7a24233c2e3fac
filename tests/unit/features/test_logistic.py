"""Logistic regression against scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from histodiff.features.logistic import fitted_logistic, logistic_model


def separated(count=120, seed=0):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 3, count)
    features = rng.normal(size=(count, 5)) * [1, 10, 0.1, 1, 1] + 3
    features[:, 0] += target
    features[:, 1] -= 8 * (target == 2)
    return features, target


@pytest.mark.parametrize("inverse_penalty", [0.1, 1.0, 10.0])
def test_fitted_logistic_equals_scikit_learn(inverse_penalty):
    features, target = separated()
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    oracle = LogisticRegression(C=inverse_penalty, tol=1e-10, max_iter=10_000).fit(standard, target)
    model = fitted_logistic(features, np.eye(3)[target], inverse_penalty=inverse_penalty)
    np.testing.assert_allclose(
        model.probability(features), oracle.predict_proba(standard), atol=1e-5
    )


def test_fitted_logistic_weight_counts_as_copies():
    features, target = separated(40)
    weight = np.where(target == 1, 3.0, 1.0)
    weighted = fitted_logistic(features, weight[:, None] * np.eye(3)[target], inverse_penalty=1.0)
    copies = np.repeat(np.arange(40), weight.astype(int))
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    oracle = LogisticRegression(tol=1e-10, max_iter=10_000).fit(standard[copies], target[copies])
    np.testing.assert_allclose(
        weighted.probability(features), oracle.predict_proba(standard), atol=1e-5
    )


def test_fitted_logistic_of_soft_targets_gives_them_back():
    features = np.array([[0.0], [1.0]])
    soft = np.array([[0.7, 0.3], [0.2, 0.8]])
    model = fitted_logistic(features, soft, inverse_penalty=1e6)
    np.testing.assert_allclose(model.probability(features), soft, atol=1e-3)


def test_logistic_model_is_its_arrays():
    features, target = separated(30)
    model = fitted_logistic(features, np.eye(3)[target], inverse_penalty=1.0)
    again = logistic_model(model.arrays())
    np.testing.assert_array_equal(again.probability(features), model.probability(features))


def test_fitted_logistic_constant_feature_does_no_harm():
    features, target = separated(40)
    padded = np.concatenate([features, np.full((40, 1), 7.0)], axis=1)
    with_it, without = (
        fitted_logistic(each, np.eye(3)[target], inverse_penalty=1.0).probability(each)
        for each in (padded, features)
    )
    np.testing.assert_allclose(with_it, without, atol=1e-6)
