"""Folds hold out whole slides, and leave every class a slide."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from histodiff.data_prep.index.folds import dealt_folds


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(2, 6), min_size=2, max_size=4), st.integers(2, 5), st.integers(0, 9))
def test_folds_hold_out_whole_slides_and_keep_all_classes(slides, count, seed):
    groups, target = [], []
    for label, number in enumerate(slides):
        for slide in range(number):
            groups += [f"{label}-{slide}"] * (1 + slide)
            target += [label] * (1 + slide)
    target_N = np.array(target)
    fold_N = dealt_folds(groups, target_N, count=count, seed=seed, purpose="test")
    assert all(len({f for f, g in zip(fold_N, groups, strict=True) if g == own}) == 1
               for own in set(groups))  # fmt: skip
    for fold in range(fold_N.max() + 1):
        assert (fold_N == fold).any()
        assert set(target_N[fold_N != fold]) == set(target)


def test_folds_of_one_slide_of_a_class_cannot_be_dealt():
    assert dealt(["a", "b", "c"], [0, 1, 1]) is None


def test_complete_folds_have_every_class_on_both_sides():
    # dealt by their main class, a and b would share a fold, and class 1 be in one alone
    groups, target = list("aaabbbccdd"), [0, 0, 1, 0, 0, 1, 0, 0, 0, 0]
    for seed in range(20):
        fold_N = dealt(groups, target, seed=seed, complete=True)
        assert [set(np.array(target)[fold_N == fold]) for fold in (0, 1)] == [{0, 1}, {0, 1}]
    assert dealt(groups, target, count=3, complete=True) is None
    assert dealt(["a", "b"], [0, 0], count=3, complete=True) is None


def dealt(groups, target, *, count=2, seed=0, complete=False):
    return dealt_folds(
        groups, np.array(target), count=count, seed=seed, purpose="test", complete=complete
    )
