"""Blobs of a picture (nuclei, mostly) and what surrounds each, whichever way the picture lies.

Blobs are extremes of differences of Gaussians over space and scale (Lowe 2004) in optical density.
The surroundings of a blob are read on rings that grow with it, and every ring becomes a Fourier
series over the angle. Turning the picture multiplies the coefficients of order m by exp(i m turn),
mirroring it conjugates them; so magnitudes, and real parts of products of neighbouring rings, stay
what they are under any turn and any flip, and no orientation has to be chosen.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from histodiff.data_prep.readers.resampling import resized

WORK_PX = 144
"""Longest side of the picture in which blobs are looked for."""
NUM_FEATURES = 90
"""Numbers that describe the surroundings of a blob."""

_SIGMA = 1.4
_LEVELS_PER_OCTAVE = 3
_NUM_OCTAVES = 3
_MIN_CONTRAST = 0.008
"""Weakest blob in optical density; JPEG noise on glass stays below."""
_BORDER_PX = 3
_FINE_PX, _COARSE_PX = 1.0, 6.0
_HALF_CONTRAST = 0.05
"""Contrast in optical density that is compressed to a half."""
_RINGS = np.array([1.0, 2.0, 3.2, 4.6, 6.0])
_NUM_ANGLES = 16
_ORDERS = (4, 2, 2)
"""Highest order of the Fourier series, for density and the two colour differences."""
_WEIGHTS = (1.0, 0.6, 0.6)
_STEP = 2 ** (1 / _LEVELS_PER_OCTAVE)

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Keypoints:
    """Blobs, the strongest first."""

    position: npt.NDArray[np.complex128]
    """Place ``x + iy`` in the working picture."""
    size_px: npt.NDArray[np.float64]
    """Scale of the blob in pixels of the working picture."""
    bright: npt.NDArray[np.bool_]
    """Whether the blob is denser than what surrounds it."""
    features: Floats
    """Unit vectors ``(num, NUM_FEATURES)``, unchanged by turns and flips."""


@dataclass(frozen=True)
class _Octave:
    density: Floats
    """``(level, H, W)``, twice as blurred from one end to the other."""
    channels: Floats
    """``(level, channel, H, W)`` at the levels from which surroundings are read."""


def working_picture(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """``pixels`` with the longest side at `WORK_PX`."""
    height, width = pixels.shape[:2]
    factor = WORK_PX / max(height, width)
    return resized(
        pixels, width=max(8, round(width * factor)), height=max(8, round(height * factor))
    )


def density_channels(pixels: npt.NDArray[np.uint8]) -> Floats:
    """Optical density and two colour differences, ``(3, H, W)``."""
    density = -np.log((pixels.astype(np.float32) + 8) / 263)
    red, green, blue = density[..., 0], density[..., 1], density[..., 2]
    return np.stack([density.mean(axis=-1), red - blue, green - (red + blue) / 2])


def density_detail(picture: npt.NDArray[np.uint8]) -> Floats:
    """Nuclei and fibres of a `working_picture`, ``(H, W)``, about -1 to 1.

    Finest detail and whatever is larger than a few cells are taken away, and strong contrasts are
    compressed: the border between tissue and glass, which any two patches can share, counts little.
    """
    density = density_channels(picture)[:1]
    detail = _blurred(density, _FINE_PX)[0] - _blurred(density, _COARSE_PX)[0]
    return np.asarray(detail / (np.abs(detail) + _HALF_CONTRAST))


def keypoints(picture: npt.NDArray[np.uint8], *, limit: int) -> Keypoints:
    """The at most ``limit`` strongest blobs of a `working_picture`."""
    octaves = _scale_space(density_channels(picture))
    found = [_extremes(octave.density) for octave in octaves]
    strength = np.concatenate([np.abs(response) for _, response in found])
    number = np.repeat(np.arange(len(found)), [len(response) for _, response in found])
    place = np.concatenate([at for at, _ in found])
    response = np.concatenate([response for _, response in found])
    best = np.argsort(-strength, kind="stable")[:limit]
    number, place, response = number[best], place[best], response[best]
    features = np.empty((len(best), NUM_FEATURES), dtype=np.float32)
    for octave in range(len(octaves)):
        chosen = number == octave
        features[chosen] = _surroundings(octaves[octave].channels, place[chosen])
    factor = 2.0**number
    return Keypoints(
        position=(place[:, 2] + 1j * place[:, 1]) * factor,
        size_px=_sigma_at(place[:, 0]) * factor,
        bright=response > 0,
        features=features,
    )


def _scale_space(channels: Floats) -> list[_Octave]:
    octaves = []
    current = _blurred(channels, np.sqrt(_SIGMA**2 - 0.5**2))
    for _ in range(_NUM_OCTAVES):
        if min(current.shape[1:]) < 4 * _BORDER_PX:
            break
        levels = [current]
        for level in range(1, _LEVELS_PER_OCTAVE + 1):
            levels.append(_blurred(levels[-1], _extra_sigma(level)))
        density = [level[0] for level in levels]
        for level in range(_LEVELS_PER_OCTAVE + 1, _LEVELS_PER_OCTAVE + 3):
            density.append(_blurred(density[-1][None], _extra_sigma(level))[0])
        octaves.append(_Octave(np.stack(density), np.stack(levels[1:])))
        current = levels[-1][:, ::2, ::2]
    return octaves


def _extra_sigma(level: int) -> float:
    """Blur that takes one level to the next."""
    return float(_SIGMA * _STEP ** (level - 1) * np.sqrt(_STEP**2 - 1))


def _sigma_at(level: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Scale of a difference of Gaussians: between its two levels."""
    return np.asarray(_SIGMA * _STEP ** (level + 0.5))


def _blurred(channels: Floats, sigma: float) -> Floats:
    return np.stack(
        [
            ndimage.gaussian_filter(channel, sigma, mode="reflect", truncate=3)
            for channel in channels
        ]
    )


def _extremes(density: Floats) -> tuple[npt.NDArray[np.float64], Floats]:
    """Places ``(level, y, x)`` of extremes to a fraction of a pixel, and their responses."""
    difference = density[1:] - density[:-1]
    strength = np.abs(difference)
    peak = (strength == ndimage.maximum_filter(strength, size=(3, 5, 5), mode="nearest")) & (
        strength > _MIN_CONTRAST
    )
    inner = np.zeros_like(peak)
    inner[1:-1, _BORDER_PX:-_BORDER_PX, _BORDER_PX:-_BORDER_PX] = True
    at = np.argwhere(peak & inner)
    offsets = [_peak_offset(strength, at, axis) for axis in range(3)]
    # blobs are denser inside, so a dense blob loses density with every blur
    place = np.asarray(at + np.stack(offsets, axis=1), dtype=np.float64)
    return place, np.asarray(-difference[tuple(at.T)])


def _peak_offset(strength: Floats, at: npt.NDArray[np.int64], axis: int) -> npt.NDArray[np.float64]:
    """How far the top of a parabola through three neighbours is from the middle one."""
    step = np.eye(3, dtype=np.int64)[axis]
    below, middle, above = (strength[tuple((at + k * step).T)] for k in (-1, 0, 1))
    return np.asarray(
        np.clip((below - above) / (2 * (below + above - 2 * middle) - 1e-9), -0.5, 0.5),
        dtype=np.float64,
    )


def _surroundings(channels: Floats, place: npt.NDArray[np.float64]) -> Floats:
    """Features of the blobs of one octave, ``(num, NUM_FEATURES)``."""
    level = np.clip(np.rint(place[:, 0] - 0.5), 0, len(channels) - 1).astype(np.int64)
    size_px = _sigma_at(place[:, 0])
    angle = 2 * np.pi * np.arange(_NUM_ANGLES) / _NUM_ANGLES
    reach = size_px[:, None, None] * _RINGS[:, None]
    y = place[:, 1, None, None] + reach * np.sin(angle)
    x = place[:, 2, None, None] + reach * np.cos(angle)
    parts = []
    for channel, (order, weight) in enumerate(zip(_ORDERS, _WEIGHTS, strict=True)):
        plane = channels[:, channel]
        ring = _interpolated(plane, level[:, None, None], y, x)
        centre = _interpolated(plane, level, place[:, 1], place[:, 2])
        parts.append(weight * _invariants(ring, centre, order))
    features = np.concatenate(parts, axis=1)
    return np.asarray(features / _lengths(features), dtype=np.float32)


def _interpolated(
    levels: Floats, level: npt.NDArray[np.int64], y: npt.NDArray[Any], x: npt.NDArray[Any]
) -> Floats:
    """Bilinear values; beyond the border, those of the border."""
    height, width = levels.shape[1:]
    y, x = np.clip(y, 0, height - 1.001), np.clip(x, 0, width - 1.001)
    top, left = y.astype(np.int64), x.astype(np.int64)
    down, right = (y - top).astype(np.float32), (x - left).astype(np.float32)
    upper = levels[level, top, left] * (1 - right) + levels[level, top, left + 1] * right
    lower = levels[level, top + 1, left] * (1 - right) + levels[level, top + 1, left + 1] * right
    return np.asarray(upper * (1 - down) + lower * down)


def _invariants(ring: Floats, centre: Floats, order: int) -> Floats:
    """What turns and flips leave alone, of values ``(num, ring, angle)``."""
    mean = ring.mean(axis=(1, 2), keepdims=True)
    spread = ring.std(axis=(1, 2), keepdims=True) + 0.02
    series = np.fft.rfft((ring - mean) / spread, axis=2) / _NUM_ANGLES
    parts = [(centre[:, None] - mean[:, 0]) / spread[:, 0] / 2, series[:, :, 0].real]
    for m in range(1, order + 1):
        wave = 2 * series[:, :, m]
        parts += [np.abs(wave), _coherence(wave[:, :-1], wave[:, 1:])]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _coherence(inner: npt.NDArray[Any], outer: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Whether two rings have their waves in the same directions."""
    return np.asarray((inner * outer.conj()).real / (np.sqrt(np.abs(inner) * np.abs(outer)) + 0.05))


def _lengths(features: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.asarray(np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-6))
