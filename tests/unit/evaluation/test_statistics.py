"""Intervals and paired differences against scipy's own tests and hand-computed values."""

import pytest
from scipy import stats

from histodiff.evaluation.statistics import mean_interval, paired_difference


def test_mean_interval_hand_computed():
    interval = mean_interval([1.0, 2.0, 3.0])
    half = 4.302652729911275 / 3**0.5  # t quantile for 2 degrees of freedom, standard deviation 1
    assert interval.mean == 2.0
    assert (interval.low, interval.high) == pytest.approx((2 - half, 2 + half))


def test_mean_interval_of_one_value_has_no_bounds():
    interval = mean_interval([0.4])
    assert (interval.mean, interval.low, interval.high, interval.num) == (0.4, None, None, 1)


def test_paired_difference_equals_scipy():
    treatment, control = [0.8, 0.7, 0.9, 0.85], [0.7, 0.72, 0.8, 0.8]
    found = paired_difference(treatment, control)
    expected = stats.ttest_rel(treatment, control)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_paired_difference_without_spread_is_an_interval_without_width():
    found = paired_difference([1.0, 2.0], [0.0, 1.0])
    assert (found.mean, found.low, found.high, found.num) == (1.0, 1.0, 1.0, 2)


@pytest.mark.parametrize("values", [[], [float("nan")], [1.0, float("inf")]])
def test_mean_interval_bad_values_raise(values):
    with pytest.raises(ValueError, match="finite"):
        mean_interval(values)


def test_paired_difference_of_unequal_lengths_raises():
    with pytest.raises(ValueError, match="against"):
        paired_difference([1.0], [1.0, 2.0])
