from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histodiff.data_prep.index.few_groups import few_groups
from histodiff.runtime import derived_seed


def by_trying_all(counts, at_most, each, seed, spread):
    ranked = sorted(counts, key=lambda name: (derived_seed(seed, "budget-group", name), name))
    for names in combinations(ranked, min(at_most, len(ranked))):
        table = np.array([counts[name] for name in names])
        if (table.sum(axis=0) >= each).all() and ((table > 0).sum(axis=0) >= spread).all():
            return list(names)
    return None


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(0, 50),
    st.integers(1, 3),
)
def test_few_groups_are_the_first_that_suffice(table, at_most, each, seed, spread):
    counts = {f"g{number}": list(row) for number, row in enumerate(table)}
    found = few_groups(counts, at_most=at_most, each=each, seed=seed, spread=spread)
    assert found == by_trying_all(counts, at_most, each, seed, spread)


@pytest.mark.parametrize("each", [3, 1000])
def test_few_groups_of_very_many_end(each):
    counts = {f"g{n}": [n % 7 == k for k in range(7)] for n in range(400)}
    found = few_groups(counts, at_most=24, each=each, seed=0)
    assert (found is None) == (each == 1000)
