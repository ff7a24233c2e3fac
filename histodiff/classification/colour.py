"""Colour histograms: the baseline that knows nothing of tissue.

On some targets they tell the classes as well as a network does, so that what a network gains over
them is what it learned of shapes. Legend: N images, H height, W width, C colours, D features.
"""

import numpy as np
import numpy.typing as npt

from histodiff.classification.images import Pixels

_LEVELS = 256


def colour_histograms(pixels_NHWC: Pixels, *, bins: int) -> npt.NDArray[np.float64]:
    """Share of the pixels in each of ``bins`` equal bins of every colour, ``(N, 3 bins)``."""
    num_images, channels = len(pixels_NHWC), pixels_NHWC.shape[-1]
    bin_NPC = pixels_NHWC.reshape(num_images, -1, channels).astype(np.int64) * bins // _LEVELS
    histograms = np.empty((num_images, channels, bins))
    for place, bin_PC in enumerate(bin_NPC):
        for channel in range(channels):
            histograms[place, channel] = np.bincount(bin_PC[:, channel], minlength=bins)
    return histograms.reshape(num_images, -1) / bin_NPC.shape[1]
