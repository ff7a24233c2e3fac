"""Intervals, paired differences and verdicts against scipy's own tests and hand-computed values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from histodiff.evaluation.statistics import (
    SCORE,
    Verdict,
    mean_interval,
    paired_difference,
)

SCORES = st.floats(0.0, 1.0)


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


def test_paired_difference_without_spread_has_no_interval_and_no_verdict():
    found = paired_difference([1.0, 2.0, 3.0], [0.0, 1.0, 2.0])
    assert (found.mean, found.low, found.high, found.num) == (1.0, None, None, 3)
    assert found.verdict is Verdict.NOT_TESTABLE
    assert "All 3 paired differences are equal" in found.untestable


def test_differences_that_are_equal_but_for_rounding_have_no_spread():
    treatment, control = [0.8, 0.9, 0.7], [0.7, 0.8, 0.6]
    assert len({a - b for a, b in zip(treatment, control, strict=True)}) > 1
    assert paired_difference(treatment, control).verdict is Verdict.NOT_TESTABLE


def test_mean_interval_of_scores_is_cut_at_the_bounds_and_else_the_t_interval():
    two = [0.5, 0.9]  # the half width is 12.7 * 0.2
    assert (mean_interval(two).low, mean_interval(two).high) == pytest.approx((-1.841, 3.241), 1e-3)
    assert (mean_interval(two, bounds=SCORE).low, mean_interval(two, bounds=SCORE).high) == (0, 1)
    high = mean_interval([0.97, 0.99, 0.95], bounds=SCORE)
    assert high.high == 1.0
    assert high.low == mean_interval([0.97, 0.99, 0.95]).low
    inside = [0.7, 0.75, 0.72]
    assert mean_interval(inside, bounds=SCORE) == mean_interval(inside)


@given(st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=6))
def test_intervals_of_scores_stay_in_their_bounds_and_hold_the_mean(pairs):
    treatment, control = (list(column) for column in zip(*pairs, strict=True))
    alone = mean_interval(treatment, bounds=SCORE)
    gain = paired_difference(treatment, control, bounds=SCORE)
    for found, least in ((alone, 0.0), (gain, -1.0)):
        if found.low is not None:
            assert least <= found.low <= found.mean <= found.high <= 1.0


def test_cut_intervals_cover_the_mean_as_often_as_uncut_ones():
    rng = np.random.default_rng(0)
    samples = rng.beta(8.0, 0.8, size=(2000, 4))  # accuracies near one
    covers = [
        [found.low <= 8.0 / 8.8 <= found.high for found in (mean_interval(row, bounds=bounds)
         for row in samples.tolist())]
        for bounds in (None, SCORE)
    ]  # fmt: skip
    assert covers[0] == covers[1]


def test_bounds_refuse_what_is_no_score():
    with pytest.raises(ValueError, match="from 0 to 1"):
        mean_interval([0.5, 1.2], bounds=SCORE)
    with pytest.raises(ValueError, match="from 0 to 1"):
        paired_difference([0.5], [-0.1], bounds=SCORE)


@pytest.mark.parametrize(
    ("gains", "verdict", "reason"),
    [
        ([0.3], Verdict.NOT_TESTABLE, "One seed has no interval"),
        ([0.30, 0.31], Verdict.NOT_TESTABLE, "2 seeds are fewer than 3"),
        ([0.3, 0.3], Verdict.NOT_TESTABLE, "2 seeds are fewer than 3"),
        ([0.3, 0.3, 0.3], Verdict.NOT_TESTABLE, "spread of zero"),
        ([0.0, 0.0, 0.0], Verdict.NOT_TESTABLE, "spread of zero"),
        ([0.30, 0.31, 0.29], Verdict.BETTER, None),
        ([-0.30, -0.31, -0.29], Verdict.WORSE, None),
        ([0.30, -0.31, 0.29], Verdict.NO_EFFECT, None),
    ],
)
def test_verdict_needs_three_seeds_that_differ(gains, verdict, reason):
    found = paired_difference([0.5 + gain for gain in gains], [0.5] * len(gains), bounds=SCORE)
    assert found.verdict is verdict
    assert (found.untestable is None) == (reason is None)
    assert reason is None or reason in found.untestable


@pytest.mark.parametrize("values", [[], [float("nan")], [1.0, float("inf")]])
def test_mean_interval_bad_values_raise(values):
    with pytest.raises(ValueError, match="finite"):
        mean_interval(values)


def test_paired_difference_of_unequal_lengths_raises():
    with pytest.raises(ValueError, match="against"):
        paired_difference([1.0], [1.0, 2.0])
