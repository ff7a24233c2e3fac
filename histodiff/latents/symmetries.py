"""Symmetries of the square, applied to latents or moments."""

from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

FloatT = TypeVar("FloatT", np.float16, np.float32)

Symmetries = Literal["none", "flips", "flips_and_turns"]
"""Groups of symmetries: the identity; flips of either axis and both; the eight of the square."""

GROUPS: dict[Symmetries, tuple[int, ...]] = {
    "none": (0,),
    "flips": (0, 2, 4, 6),
    "flips_and_turns": tuple(range(8)),
}
"""Members of every group, as ``square_symmetry`` numbers them."""

NAMES = (
    "identity", "turn 90", "turn 180", "turn 270",
    "flip left-right", "transpose", "flip up-down", "anti-transpose",
)  # fmt: skip


def square_symmetry(latent_CHW: npt.NDArray[FloatT], which: int) -> npt.NDArray[FloatT]:
    """One of the eight symmetries of the square: ``which % 4`` quarter turns, then a flip."""
    turned = np.rot90(latent_CHW, which % 4, axes=(1, 2))
    return turned[:, :, ::-1] if which >= 4 else turned
