"""Random fields: smooth noise, and fibres that flow along a bent coordinate.

Everything is float32 ``(H, W)``. Noise is drawn small and enlarged, which is what makes it smooth
and fast.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

Field = npt.NDArray[np.float32]

_BEND_PX, _WAVE_PX, _CRIMP_PX = 900, 220, 60
"""Lengths over which fibres bend, wave and crimp."""


def enlarged(field: Field, *, height: int, width: int) -> Field:
    """``field`` stretched to another size, bicubic."""
    image = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def smooth_noise(
    rng: np.random.Generator, *, height: int, width: int, scale_px: float, along_px: float = 0
) -> Field:
    """Noise of about unit variance with features of ``scale_px`` (``along_px`` in x, if given)."""
    rows = max(2, round(height / scale_px) + 2)
    columns = max(2, round(width / (along_px or scale_px)) + 2)
    field = enlarged(
        rng.standard_normal((rows, columns), dtype=np.float32), height=height, width=width
    )
    return field * np.float32(1.25)  # bicubic interpolation loses some variance


@dataclass(frozen=True)
class Fibres:
    """Fibres of connective tissue."""

    strands: Field
    """Brightness of the strands, about unit variance."""
    angle: Field
    """Direction of the fibres in radians."""


def fibres(rng: np.random.Generator, *, height: int, width: int) -> Fibres:
    """Wavy strands: noise that is long in x, read along bent coordinates."""
    half_height, half_width = max(2, height // 2), max(2, width // 2)
    turn = rng.uniform(0, np.pi)
    y, x = np.mgrid[0:half_height, 0:half_width].astype(np.float32)
    bends = [
        smooth_noise(rng, height=half_height, width=half_width, scale_px=scale_px / 2)
        for scale_px in (_BEND_PX, _BEND_PX, _WAVE_PX, _CRIMP_PX)
    ]
    along = (np.cos(turn) * x + np.sin(turn) * y + 60 * bends[0]).astype(np.float32)
    # slopes below one: strands wind, but close no rings
    across = -np.sin(turn) * x + np.cos(turn) * y + 95 * bends[1] + 17 * bends[2] + 3.5 * bends[3]
    gradient_y, gradient_x = np.gradient(across)
    texture = _strand_texture(rng)
    strands = ndimage.map_coordinates(texture, [across, along], order=1, mode="mirror")
    angle = np.arctan2(-gradient_x, gradient_y).astype(np.float32)
    return Fibres(
        strands=enlarged(strands, height=height, width=width),
        angle=_nearest(angle, height=height, width=width),
    )


def _strand_texture(rng: np.random.Generator) -> Field:
    """A texture of strands along x at three thicknesses."""
    size = 1024
    fine = smooth_noise(rng, height=size, width=size, scale_px=2.5, along_px=70)
    middle = smooth_noise(rng, height=size, width=size, scale_px=7, along_px=150)
    coarse = smooth_noise(rng, height=size, width=size, scale_px=22, along_px=260)
    total: Field = 0.45 * fine + 0.6 * middle + 0.5 * coarse
    return total


def _nearest(field: Field, *, height: int, width: int) -> Field:
    rows = np.minimum(np.arange(height) // 2, field.shape[0] - 1)
    columns = np.minimum(np.arange(width) // 2, field.shape[1] - 1)
    return np.asarray(field[rows[:, None], columns[None, :]])
