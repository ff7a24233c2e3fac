"""Symmetries of the square, applied to latents, moments or images.

Turning tissue turns its latent: positions move, and where a channel stands for something with a
direction (an edge, a slope), channels change places or sign as well. ``ChannelSymmetries`` says
which; without it channels stay as they are. Legend: C channels, M = 2C moments, H height, W width.
"""

from typing import Literal, Self, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from histodiff.config import Config

NumberT = TypeVar("NumberT", np.float16, np.float32, np.uint8)
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


class ChannelSymmetries(Config):
    """What each of the eight symmetries does to the channels of a latent: a signed permutation."""

    permutation: tuple[tuple[int, ...], ...]
    """For every symmetry, the channel that each channel of the turned latent comes from."""
    sign: tuple[tuple[int, ...], ...]
    """For every symmetry, 1 or -1 for each channel of the turned latent."""

    @model_validator(mode="after")
    def _signed_permutations(self) -> Self:
        if len(self.permutation) != len(NAMES) or len(self.sign) != len(NAMES):
            raise ValueError(f"permutation and sign need {len(NAMES)} entries, one per symmetry")
        for order, signs in zip(self.permutation, self.sign, strict=True):
            if sorted(order) != list(range(len(order))) or len(signs) != len(order):
                raise ValueError("permutation must hold every channel once, and sign be as long")
            if set(signs) - {1, -1}:
                raise ValueError("sign must be 1 or -1")
        return self


def square_symmetry(
    image_CHW: npt.NDArray[NumberT], which: int, *, channels: ChannelSymmetries | None = None
) -> npt.NDArray[NumberT]:
    """One of the eight symmetries of the square: ``which % 4`` quarter turns, then a flip.

    The second and third axis are turned, so images ``(N, H, W, C)`` can be given as well.

    Args:
        image_CHW: A latent, or images.
        which: Number of the symmetry, as in ``NAMES``.
        channels: What it does to channels; None leaves them as they are.
    """
    turned = np.rot90(image_CHW, which % 4, axes=(1, 2))
    turned = turned[:, :, ::-1] if which >= 4 else turned
    if channels is None:
        return turned
    sign_C11 = np.asarray(channels.sign[which], image_CHW.dtype).reshape(-1, 1, 1)
    moved: npt.NDArray[NumberT] = turned[list(channels.permutation[which])] * sign_C11
    return moved


def turned_moments(
    moments_MHW: npt.NDArray[FloatT], which: int, *, channels: ChannelSymmetries | None = None
) -> npt.NDArray[FloatT]:
    """Posterior mean, then standard deviation, under a symmetry; a deviation has no sign."""
    mean_CHW, std_CHW = np.split(moments_MHW, 2)
    turned = [square_symmetry(part, which, channels=channels) for part in (mean_CHW, std_CHW)]
    return np.concatenate([turned[0], np.abs(turned[1])])
