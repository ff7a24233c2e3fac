"""stub"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histodiff.config import Config
from histodiff.data_prep.slides.tissue import square_fractions


class QualityConfig(Config):
    max_pen_fraction: float = 0.05
    max_black_fraction: float = 0.05
    max_white_fraction: float = 1.0
    min_sharpness: float | None = None
    focus_mpp: float | None = None


@dataclass(frozen=True)
class PatchScores:
    tissue: npt.NDArray[np.float64]
    pen: npt.NDArray[np.float64]
    black: npt.NDArray[np.float64]
    white: npt.NDArray[np.float64]

    def take(self, chosen):
        return PatchScores(
            self.tissue[chosen], self.pen[chosen], self.black[chosen], self.white[chosen]
        )


def patch_scores(picture, mask, corners, *, width_px, height_px):
    f = lambda m: square_fractions(m, corners, side_px=width_px)
    z = f(mask.artefact)
    return PatchScores(f(mask.tissue), z, z * 0, z * 0)


def sharpness(pixels):
    return np.ones(len(pixels))
