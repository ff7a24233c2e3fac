"""Nuclei: small pictures of haematoxylin, drawn once per kind and stamped many times.

A kind has a bank of variants (size, outline, chromatin) at several angles. Stamping keeps the
denser of what is there and what is added, as overlapping nuclei do.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from histodiff.data_prep.generated.fields import Field
from histodiff.runtime import generator_for

_ANGLES, _VARIANTS = 24, 8


@dataclass(frozen=True)
class NucleusKind:
    """Shape and chromatin of a kind of nucleus; lengths in pixels at 0.5 um."""

    length_px: float
    width_px: float
    spread: float
    """Relative variation of the size."""
    wobble: float
    """Irregularity of the outline."""
    chromatin: float
    """Strength of the chromatin's texture."""
    rim: float
    """How much denser the membrane is than the inside."""
    nucleoli: int
    """Number of dark spots inside, at most."""
    density: float
    """Density of haematoxylin."""


FIBROBLAST = NucleusKind(24, 5.6, 0.25, 0.10, 0.18, 0.05, 0, 0.95)
EPITHELIAL = NucleusKind(18, 12, 0.12, 0.06, 0.20, 0.12, 1, 0.92)
LYMPHOCYTE = NucleusKind(13.5, 12.5, 0.12, 0.06, 0.34, 0.05, 0, 1.02)
TUMOUR = NucleusKind(24, 18, 0.22, 0.13, 0.30, 0.30, 2, 0.62)


class NucleusBank:
    """Stamps of one kind of nucleus."""

    def __init__(self, kind: NucleusKind) -> None:
        rng = generator_for(0, "nuclei", str(kind))
        self._stamps = [
            [_drawn(rng, kind, np.pi * angle / _ANGLES) for _ in range(_VARIANTS)]
            for angle in range(_ANGLES)
        ]

    def stamp(
        self,
        haematoxylin: Field,
        rng: np.random.Generator,
        *,
        xs: npt.NDArray[np.float64],
        ys: npt.NDArray[np.float64],
        angles: npt.NDArray[np.float64],
    ) -> None:
        """Puts a nucleus at every (x, y), turned by its angle in radians, into the field."""
        height, width = haematoxylin.shape
        turns = np.round(np.mod(angles, np.pi) / np.pi * _ANGLES).astype(int) % _ANGLES
        variants = rng.integers(0, _VARIANTS, len(xs))
        strengths = rng.normal(1.0, 0.12, len(xs)).clip(0.6, 1.3)
        for x, y, turn, variant, strength in zip(xs, ys, turns, variants, strengths, strict=True):
            stamp = self._stamps[turn][variant]
            radius = stamp.shape[0] // 2
            left, top = int(x) - radius, int(y) - radius
            if (
                left < 0
                or top < 0
                or left + stamp.shape[1] > width
                or top + stamp.shape[0] > height
            ):
                continue
            area = haematoxylin[top : top + stamp.shape[0], left : left + stamp.shape[1]]
            np.maximum(area, stamp * np.float32(strength), out=area)


@cache
def nucleus_bank(kind: NucleusKind) -> NucleusBank:
    """The stamps of a kind; the same for all slides, drawn at the first use."""
    return NucleusBank(kind)


def _drawn(rng: np.random.Generator, kind: NucleusKind, angle: float) -> Field:
    size = max(0.5, 1 + kind.spread * rng.standard_normal())
    half_length, half_width = kind.length_px * size / 2, kind.width_px * size / 2
    radius = int(np.ceil(half_length * 1.3)) + 3
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    along = (np.cos(angle) * x + np.sin(angle) * y) / half_length
    across = (-np.sin(angle) * x + np.cos(angle) * y) / half_width
    direction = np.arctan2(across, along)
    outline = np.ones_like(x)
    for order in (2, 3, 4):
        phase = rng.uniform(0, 2 * np.pi)
        outline += (
            kind.wobble * rng.standard_normal() / order * 1.5 * np.cos(order * direction + phase)
        )
    distance = np.hypot(along, across) / outline
    edge_px = (1 - distance) * half_width
    body = 1 / (1 + np.exp(-2.2 * edge_px))
    texture = ndimage.gaussian_filter(rng.standard_normal(x.shape), 1.2)
    texture /= texture.std()
    rim = np.exp(-(((edge_px - 1.2) / 1.1) ** 2))
    inside = kind.density * (1 - kind.rim * 0.6 + kind.chromatin * 0.5 * texture) + kind.rim * rim
    for _ in range(rng.integers(0, kind.nucleoli + 1)):
        spot_x, spot_y = rng.uniform(-0.4, 0.4, 2) * half_width
        inside += 0.5 * np.exp(-((x - spot_x) ** 2 + (y - spot_y) ** 2) / (2 * 1.6**2))
    return np.asarray(body * np.clip(inside, 0.25, 1.7), dtype=np.float32)
