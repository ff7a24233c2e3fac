"""Agreement against hand-computed values, a loop, and the known spread of a proportion."""

import numpy as np
import pytest

from histodiff.evaluation.agreement import agreement

CLASSES = ("a", "b", "c")
# asked for a a a b b c; most probable a b a b c c
PROBABILITY = np.array(
    [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.4, 0.3, 0.3], [0.2, 0.5, 0.3], [0.0, 0.1, 0.9],
     [0.1, 0.2, 0.7]]
)  # fmt: skip
INTENDED = np.array([0, 0, 0, 1, 1, 2])


def measured(probability=PROBABILITY, intended=INTENDED, classes=CLASSES, **changes):
    return agreement(probability, intended, classes, **{"replicates": 100, "seed": 0, **changes})


def test_agreement_hand_computed():
    found = measured()
    assert found.num_samples == 6
    assert found.share.value == pytest.approx(4 / 6)
    assert found.mean_probability.value == pytest.approx((0.7 + 0.1 + 0.4 + 0.5 + 0.1 + 0.7) / 6)
    assert {label: one.num_samples for label, one in found.by_class.items()} == {
        "a": 3, "b": 2, "c": 1,
    }  # fmt: skip
    assert [found.by_class[k].share.value for k in CLASSES] == pytest.approx([2 / 3, 1 / 2, 1])
    assert [found.by_class[k].mean_probability.value for k in CLASSES] == pytest.approx(
        [0.4, 0.3, 0.7]
    )
    assert found.confusion == {
        "a": {"a": 2, "b": 1, "c": 0}, "b": {"a": 0, "b": 1, "c": 1}, "c": {"a": 0, "b": 0, "c": 1},
    }  # fmt: skip


def test_agreement_of_equal_probabilities_counts_the_first_class():
    found = measured(np.full((2, 2), 0.5), np.array([0, 1]), ("a", "b"))
    assert found.confusion == {"a": {"a": 1, "b": 0}, "b": {"a": 1, "b": 0}}
    assert found.share.value == 0.5


def test_agreement_class_without_samples_has_no_row():
    found = measured(PROBABILITY[:5], INTENDED[:5])
    assert set(found.by_class) == set(found.confusion) == {"a", "b"}


def test_agreement_interval_has_the_spread_of_proportions_within_classes():
    # 400 of class 0 right with 0.9, 100 of class 1 right with 0.3: strata vary on their own
    intended = np.repeat([0, 1], [400, 100])
    right = np.concatenate([np.arange(400) < 360, np.arange(100) < 30])
    said = np.where(right, intended, 1 - intended)
    found = measured(np.eye(2)[said], intended, ("a", "b"), replicates=4000)
    deviation = np.sqrt(400 * 0.9 * 0.1 + 100 * 0.3 * 0.7) / 500
    assert found.share.value == pytest.approx(390 / 500)
    assert found.share.high - found.share.low == pytest.approx(2 * 1.96 * deviation, rel=0.06)
    own = found.by_class["b"].share
    assert own.high - own.low == pytest.approx(2 * 1.96 * np.sqrt(0.3 * 0.7 / 100), rel=0.06)


def test_agreement_depends_on_the_seed_in_its_intervals_alone():
    first, again, other = measured(), measured(), measured(seed=1)
    assert first == again
    assert first.mean_probability.value == other.mean_probability.value
    assert first.mean_probability.low != other.mean_probability.low


def test_agreement_of_nothing_is_refused():
    with pytest.raises(ValueError, match="one sample or more"):
        measured(np.zeros((0, 3)), np.zeros(0, np.int64))
