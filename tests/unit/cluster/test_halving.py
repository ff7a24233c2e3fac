import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histodiff.cluster.halving import Halving, Standing, rungs_of


def judged(values, *, rivals=None, reduction=2, standings=None):
    kept = dict(standings or {})
    halving = Halving(
        rivals or dict.fromkeys(values, "one"), rungs=(0.25, 0.5), reduction=reduction,
        standings=standings or {}, keep=kept.__setitem__,
    )  # fmt: skip
    return {key: halving.goes_on(key, 0.25, value) for key, value in values.items()}, kept


@pytest.mark.parametrize(
    ("grace", "reduction", "rungs"),
    [(0.25, 2, (0.25, 0.5)), (0.1, 3, (0.1, 0.3, 0.9)), (0.5, 4, (0.5,))],
)
def test_rungs_grow_by_the_reduction_and_end_before_the_end(grace, reduction, rungs):
    assert rungs_of(grace, reduction) == pytest.approx(rungs)


@given(
    st.lists(st.integers(0, 1000), min_size=1, max_size=12, unique=True), st.sampled_from([2, 3])
)
def test_halving_lets_a_trial_go_on_that_is_among_the_best_share_so_far(values, reduction):
    named = {f"t{number}": float(value) for number, value in enumerate(values)}
    goes_on, _ = judged(named, reduction=reduction)
    for number, value in enumerate(values):
        before = values[: number + 1]
        better = sum(other > value for other in before)
        # of n trials, at most (n - 1) / reduction may be better
        assert goes_on[f"t{number}"] == (better <= (len(before) - 1) / reduction + 1e-9)


def test_halving_compares_rivals_only():
    goes_on, _ = judged({"a": 9.0, "b": 1.0}, rivals={"a": "x", "b": "y"})
    assert goes_on == {"a": True, "b": True}


def test_halving_keeps_every_value_and_who_was_stopped():
    _, kept = judged({"a": 9.0, "b": 1.0})
    assert kept == {"a": Standing({0.25: 9.0}), "b": Standing({0.25: 1.0}, 0.25)}


def test_halving_with_what_was_kept_goes_on_as_if_nothing_had_happened():
    values = {f"t{number}": float(value) for number, value in enumerate([5, 3, 8, 1, 7, 6])}
    whole, _ = judged(values)
    first, kept = judged(dict(list(values.items())[:3]), rivals=dict.fromkeys(values, "one"))
    second, _ = judged(
        dict(list(values.items())[3:]), rivals=dict.fromkeys(values, "one"), standings=kept
    )
    assert {**first, **second} == whole


def test_halving_leaves_what_is_no_rival_alone():
    halving = Halving({"a": "x"}, rungs=(0.5,), reduction=2, standings={}, keep=lambda *_: None)
    assert halving.rungs_left("other") == ()
    assert halving.rungs_left("a") == (0.5,)
    assert halving.goes_on("a", 0.5, float(np.pi))
    assert halving.rungs_left("a") == ()
