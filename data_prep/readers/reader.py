"""What every slide reader offers. All coordinates are level-0 pixels in OpenSlide's frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Resample = Literal["box", "lanczos"]
"""Filter that shrinks what was read to ``patch_px``; applied once, never to enlarge."""


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
    """Where the scale is from (``aperio.MPP``), ``none`` when there is none."""
    objective_power: float | None
    """The objective that the file names, such as 20; never used as a scale."""
    level_tiles: tuple[tuple[int, int] | None, ...]
    """Width and height of the stored tiles of each level in its pixels; None: not tiled."""
    bounds_x: int
    bounds_y: int
    bounds_width: int
    bounds_height: int
    """The scanned part of the slide, in level-0 pixels."""
    reader: str
    reader_version: str
    scale_doubt: str = ""
    """What the file states of its scale and is not believed."""


class Box(NamedTuple):
    """A region: corner in level-0 pixels, size in pixels of ``level``."""

    x: int
    y: int
    level: int
    width: int
    height: int


class SlideReader(Protocol):
    """One open slide. Opened in the process that reads it, never before a fork."""

    @property
    def info(self) -> SlideInfo:
        """What is known of the slide."""

    @property
    def resident_bytes(self) -> int:
        """Pixels held in memory."""

    def exact_at(self, level: int) -> bool:
        """Whether regions of ``level`` have the pixels that OpenSlide gives, to the bit."""

    def prepare(self, boxes: Sequence[Box]) -> None:
        """Announces regions that will be read next: their bytes may be fetched together.

        Raises:
            SlideError: UNREADABLE: the bytes cannot be fetched.
        """

    def read(self, x: int, y: int, *, level: int, width: int, height: int) -> Pixels:
        """A region: corner in level-0 pixels, size in pixels of ``level``; uint8 ``(H, W, 3)``.

        Raises:
            SlideError: UNREADABLE: the region cannot be decoded.
        """

    def read_shrunk(self, box: Box, *, resample: Resample, out: Pixels) -> None:
        """Reads a region and shrinks it into ``out``, uint8 ``(side, side, 3)``.

        Raises:
            SlideError: UNREADABLE: the region cannot be decoded.
        """

    def close(self) -> None:
        """Frees file and memory."""
