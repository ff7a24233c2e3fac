"""The symmetries of the square form the groups that they should."""

import numpy as np
import pytest
from pydantic import ValidationError

from histodiff.runtime.symmetries import (
    GROUPS,
    NAMES,
    ChannelSymmetries,
    square_symmetry,
    turned_moments,
)
from tests.support.latent_stores import SWAPPED

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


@pytest.mark.parametrize("which", range(8), ids=NAMES)
def test_moments_turn_the_mean_with_its_sign_and_the_deviation_without(which):
    moments = np.random.default_rng(0).normal(size=(4, 3, 3)).astype(np.float16)
    moments[2:] = np.abs(moments[2:])
    found = turned_moments(moments, which, channels=SWAPPED)
    assert found.dtype == np.float16
    for channel in range(2):
        place, sign = SWAPPED.permutation[which][channel], SWAPPED.sign[which][channel]
        mean, std = moments[place], moments[2 + place]
        for name, part, factor in (("mean", mean, sign), ("std", std, 1)):
            moved = np.rot90(part, which % 4)
            moved = moved[:, ::-1] if which >= 4 else moved
            row = channel if name == "mean" else 2 + channel
            assert np.array_equal(found[row], factor * moved), (name, channel)


def test_moments_without_channels_only_move():
    moments = np.random.default_rng(0).normal(size=(4, 3, 3)).astype(np.float32)
    moments[2:] = np.abs(moments[2:])
    for which in range(8):
        assert np.array_equal(turned_moments(moments, which), square_symmetry(moments, which))


@pytest.mark.parametrize("group", GROUPS)
def test_groups_stay_closed_when_channels_change_places(group):
    latent = np.random.default_rng(0).normal(size=(2, 3, 3)).astype(np.float32)
    views = [square_symmetry(latent, which, channels=SWAPPED) for which in GROUPS[group]]
    members = {view.tobytes() for view in views}
    assert len(members) == len(GROUPS[group])
    for view in views:
        again = {square_symmetry(view, k, channels=SWAPPED).tobytes() for k in GROUPS[group]}
        assert again == members


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"permutation": ((0, 1),) * 7}, "need 8 entries"),
        ({"permutation": ((0, 0),) * 8}, "every channel once"),
        ({"sign": ((1, 1, 1),) * 8}, "as long"),
        ({"sign": ((1, 2),) * 8}, "1 or -1"),
    ],
)
def test_what_is_no_signed_permutation_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        ChannelSymmetries.model_validate(SWAPPED.model_dump() | changes)
