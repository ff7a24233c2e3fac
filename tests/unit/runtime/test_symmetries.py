"""The symmetries of the square form the groups that they should."""

import numpy as np
import pytest

from histodiff.runtime.symmetries import GROUPS, NAMES, square_symmetry

LATENT = np.arange(18, dtype=np.float32).reshape(2, 3, 3)


def test_square_symmetry_gives_eight_different_views():
    views = {square_symmetry(LATENT, which).tobytes() for which in range(8)}
    assert len(views) == 8


@pytest.mark.parametrize(("name", "size"), [("none", 1), ("flips", 4), ("flips_and_turns", 8)])
def test_groups_are_closed(name, size):
    members = {square_symmetry(LATENT, which).tobytes() for which in GROUPS[name]}
    assert len(members) == size
    for first in GROUPS[name]:
        once = square_symmetry(LATENT, first)
        assert {square_symmetry(once, second).tobytes() for second in GROUPS[name]} == members


def test_names_say_what_is_done():
    assert len(NAMES) == 8
    flipped = square_symmetry(LATENT, NAMES.index("flip up-down"))
    assert np.array_equal(flipped, LATENT[:, ::-1])
    flipped = square_symmetry(LATENT, NAMES.index("flip left-right"))
    assert np.array_equal(flipped, LATENT[:, :, ::-1])
    assert np.array_equal(square_symmetry(LATENT, NAMES.index("turn 180")), LATENT[:, ::-1, ::-1])
    flat = square_symmetry(LATENT, NAMES.index("transpose"))
    other = square_symmetry(LATENT, NAMES.index("anti-transpose"))
    assert np.array_equal(np.swapaxes(LATENT, 1, 2), flat) or np.array_equal(
        np.swapaxes(LATENT, 1, 2), other
    )
