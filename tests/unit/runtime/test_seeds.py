"""Generators that are seeded together draw what each would draw by itself."""

import numpy as np
import pytest

from histodiff.runtime import generator_for, generators_for


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
def test_generators_for_draw_what_generator_for_does(seed):
    indices = [0, 1, 2**40, *range(100, 400)]
    for index, rng in zip(indices, generators_for(seed, "noise", indices), strict=True):
        alone = generator_for(seed, "noise", index)
        assert rng.integers(8) == alone.integers(8)
        assert np.array_equal(rng.uniform(-1, 1, size=9), alone.uniform(-1, 1, size=9))
        assert np.array_equal(rng.permutation(20), alone.permutation(20))


def test_generators_for_do_not_share_their_state():
    first, second = generators_for(0, "noise", [5, 5])
    assert first.random() == second.random()
    first.random()
    assert first.random() != second.random()


def test_generators_for_nothing_are_none():
    assert not list(generators_for(0, "noise", []))
