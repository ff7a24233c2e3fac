"""Brings what was read to the size of a patch: the only resampling on the way in.

Slides are only ever shrunk. Images of patch sets are enlarged or padded if their source says so.
"""

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


def enlarge_into(pixels: Pixels, *, out: Pixels) -> None:
    """Enlarges ``pixels`` into ``out``, both uint8 ``(H, W, 3)``, by Pillow's bicubic (a = -0.5).

    Catmull and Rom 1974: the cubic that passes through the pixels that there are.
    """
    height, width = out.shape[:2]
    image = Image.fromarray(pixels)
    out[:] = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def pad_into(pixels: Pixels, *, out: Pixels) -> None:
    """Puts ``pixels`` into the middle of ``out``, uint8 ``(H, W, 3)``, and reflects the border.

    The outermost pixels are the mirror and are not repeated; where the rest is odd, right and below
    get one more.
    """
    missing = [whole - own for whole, own in zip(out.shape[:2], pixels.shape[:2], strict=True)]
    around = [(each // 2, each - each // 2) for each in missing]
    out[:] = np.pad(pixels, (*around, (0, 0)), mode="reflect")


def shrunk(pixels: Pixels, side_px: int, resample: Resample) -> Pixels:
    """``pixels`` ``(H, W, 3)`` as a square of ``side_px``."""
    out = np.empty((side_px, side_px, 3), np.uint8)
    shrink_into(pixels, resample=resample, out=out)
    return out


def resized(pixels: npt.NDArray[np.uint8], *, width: int, height: int) -> npt.NDArray[np.uint8]:
    """``pixels`` at another size by area averaging; for thumbnails."""
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((width, height), Image.Resampling.BOX))
