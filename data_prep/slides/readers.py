"""What every slide reader offers. All coordinates are level-0 pixels in OpenSlide's frame."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class SlideInfo:
    """What a reader knows of a slide without looking at pixels."""

    vendor: str
    width: int
    height: int
    level_downsamples: tuple[float, ...]
    """Level-0 pixels per pixel of each level; the first is 1."""
    mpp_x: float | None
    mpp_y: float | None
    mpp_source: str
    """Where the scale is from, ``none`` when there is none."""
    bounds_x: int
    bounds_y: int
    bounds_width: int
    bounds_height: int
    """The scanned part of the slide, in level-0 pixels."""
    reader: str
    reader_version: str


class SlideReader(Protocol):
    """One open slide."""

    @property
    def info(self) -> SlideInfo:
        """What is known of the slide."""

    @property
    def resident_bytes(self) -> int:
        """Pixels held in memory."""

    def read(self, x: int, y: int, *, level: int, width: int, height: int) -> npt.NDArray[np.uint8]:
        """A region: corner in level-0 pixels, size in pixels of ``level``; uint8 ``(H, W, 3)``.

        Raises:
            SlideError: UNREADABLE: the region cannot be decoded.
        """

    def close(self) -> None:
        """Frees file and memory."""
