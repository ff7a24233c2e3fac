"""Folds hold out whole slides, and leave every class a slide."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histodiff.errors import ConfigError
from histodiff.selection.folds import dealt_folds


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(2, 6), min_size=2, max_size=4), st.integers(2, 5), st.integers(0, 9))
def test_folds_hold_out_whole_slides_and_keep_all_classes(slides, count, seed):
    groups, target = [], []
    for label, number in enumerate(slides):
        for slide in range(number):
            groups += [f"{label}-{slide}"] * (1 + slide)
            target += [label] * (1 + slide)
    target_N = np.array(target)
    fold_N = dealt_folds(groups, target_N, count=count, seed=seed, field="rule")
    assert all(len({f for f, g in zip(fold_N, groups, strict=True) if g == own}) == 1
               for own in set(groups))  # fmt: skip
    for fold in range(fold_N.max() + 1):
        assert (fold_N == fold).any()
        assert set(target_N[fold_N != fold]) == set(target)


def test_folds_one_slide_of_a_class_is_refused():
    with pytest.raises(ConfigError, match=r"rule\.rules sure: .*two labelled slides"):
        dealt_folds(["a", "b", "c"], np.array([0, 1, 1]), count=2, seed=0, field="rule.rules sure")
