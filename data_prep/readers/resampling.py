"""Shrinks what was read: the only resampling on the way in."""

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from histodiff.data_prep.readers.reader import Pixels, Resample

cv2.setNumThreads(1)  # there is a process for every core already


def shrink_into(pixels: Pixels, *, resample: Resample, out: Pixels) -> None:
    """Shrinks ``pixels`` into ``out``, both uint8 ``(H, W, 3)``, neither side enlarged.

    ``box`` averages areas, parts of pixels by their part; ``lanczos`` keeps more detail and rings.
    """
    height, width = out.shape[:2]
    assert pixels.shape[0] >= height, "patches are never enlarged"
    assert pixels.shape[1] >= width, "patches are never enlarged"
    if pixels.shape == out.shape:
        out[:] = pixels
    elif resample == "box":
        cv2.resize(pixels, (width, height), dst=out, interpolation=cv2.INTER_AREA)
    else:
        image = Image.fromarray(pixels)
        out[:] = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))


def shrunk(pixels: Pixels, side_px: int, resample: Resample) -> Pixels:
    """``pixels`` ``(H, W, 3)`` as a square of ``side_px``."""
    out = np.empty((side_px, side_px, 3), np.uint8)
    shrink_into(pixels, resample=resample, out=out)
    return out


def resized(pixels: npt.NDArray[np.uint8], *, width: int, height: int) -> npt.NDArray[np.uint8]:
    """``pixels`` at another size by area averaging; for thumbnails."""
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((width, height), Image.Resampling.BOX))
