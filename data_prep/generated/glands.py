"""Glands: a lumen, a wall of pink cytoplasm, dark basal nuclei, and a thin rim of stroma."""

from typing import Any

import numpy as np
import numpy.typing as npt

from histodiff.data_prep.generated.fields import Field, smooth_noise
from histodiff.data_prep.generated.nuclei import EPITHELIAL, NucleusBank, nucleus_bank

_STEP_PX = 215.0
_NUCLEUS_STEP_PX = 12.0


def paint_glands(
    rng: np.random.Generator, eosin: Field, haematoxylin: Field, where: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Paints glands inside ``where`` and returns what they cover, boolean ``(H, W)``."""
    covered = np.zeros_like(where)
    bank = nucleus_bank(EPITHELIAL)
    for x, y in _centres(rng, where):
        _paint_one(rng, eosin, haematoxylin, covered, bank, x, y)
    return covered


def _centres(rng: np.random.Generator, where: npt.NDArray[np.bool_]) -> list[tuple[float, float]]:
    height, width = where.shape
    centres = []
    for row, y in enumerate(np.arange(0, height + _STEP_PX, _STEP_PX * 0.866)):
        for x in np.arange(0, width + _STEP_PX, _STEP_PX):
            place_x = x + (row % 2) * _STEP_PX / 2 + rng.normal(0, 0.09 * _STEP_PX)
            place_y = y + rng.normal(0, 0.09 * _STEP_PX)
            column, line = int(np.clip(place_x, 0, width - 1)), int(np.clip(place_y, 0, height - 1))
            if where[line, column]:
                centres.append((float(place_x), float(place_y)))
    return centres


def _paint_one(
    rng: np.random.Generator, eosin: Field, haematoxylin: Field, covered: npt.NDArray[np.bool_],
    bank: NucleusBank, x: float, y: float,
) -> None:  # fmt: skip
    shape = _Outline(rng)
    reach = int(shape.largest * 1.15)
    top, left = max(0, int(y) - reach), max(0, int(x) - reach)
    area = (slice(top, int(y) + reach), slice(left, int(x) + reach))
    rows, columns = eosin[area].shape
    if rows < 3 or columns < 3:
        return
    grid_y, grid_x = np.mgrid[top : top + rows, left : left + columns].astype(np.float32)
    radius, direction = np.hypot(grid_x - x, grid_y - y), np.arctan2(grid_y - y, grid_x - x)
    outer = shape.radius(direction)
    wall = shape.wall_px
    depth = outer - radius  # inwards from the basement membrane, in px
    mottle = smooth_noise(rng, height=rows, width=columns, scale_px=6)
    apical = outer - wall * (1 + 0.10 * mottle)
    body = _step(depth)
    lumen = _step(apical - radius)
    cell_eosin = 0.34 + 0.05 * mottle + 0.10 * np.clip(depth / wall, 0, 1)
    cell_blue = 0.15 + 0.02 * mottle - 0.06 * np.clip(depth / wall, 0, 1)
    secretion = 0.02 + shape.secretion * np.clip(0.5 + 0.4 * mottle, 0, 1)
    halo = 1 - 0.55 * np.exp(-(((depth + 5) / 4) ** 2))  # loose stroma around the gland
    eosin[area] = eosin[area] * halo * (1 - body) + body * (
        cell_eosin * (1 - lumen) + secretion * lumen
    )
    haematoxylin[area] = haematoxylin[area] * (1 - body) + body * cell_blue * (1 - lumen)
    eosin[area] += 0.16 * np.exp(-((depth / 1.6) ** 2))
    covered[area] |= body > 0.3
    _ring(rng, haematoxylin, bank, shape, x, y)


class _Outline:
    """Outline of one gland in polar coordinates."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.mean_px = float(rng.uniform(62, 104))
        self.wall_px = float(rng.uniform(30, 42))
        self.secretion = float(rng.choice([0.0, 0.0, 0.12, 0.22]))
        self._parts = [
            (order, rng.normal(0, amplitude), rng.uniform(0, 2 * np.pi))
            for order, amplitude in ((2, 0.13), (3, 0.07), (5, 0.03), (8, 0.015))
        ]

    def radius(self, direction: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Distance of the basement membrane from the centre in px."""
        factor = np.ones_like(direction)
        for order, amplitude, phase in self._parts:
            factor = factor + amplitude * np.cos(order * direction + phase)
        return np.asarray(self.mean_px * np.clip(factor, 0.55, 1.5))

    @property
    def largest(self) -> float:
        """Largest distance of the outline from the centre in px."""
        return float(self.radius(np.linspace(0, 2 * np.pi, 90)).max()) + 10


def _ring(
    rng: np.random.Generator, haematoxylin: Field, bank: NucleusBank, shape: _Outline,
    x: float, y: float,
) -> None:  # fmt: skip
    """Nuclei side by side near the basement membrane, their long axis across the wall."""
    count = int(2 * np.pi * shape.mean_px * 0.84 / _NUCLEUS_STEP_PX)
    direction = np.linspace(0, 2 * np.pi, count, endpoint=False) + rng.normal(0, 0.025, count)
    depth = np.abs(rng.normal(12, 2.6, count))
    second = rng.uniform(size=count) < 0.15
    depth[second] += 9
    distance = shape.radius(direction) - depth
    bank.stamp(
        haematoxylin, rng,
        xs=x + distance * np.cos(direction), ys=y + distance * np.sin(direction),
        angles=direction + rng.normal(0, 0.15, count),
    )  # fmt: skip


def _step(distance: npt.NDArray[Any]) -> Field:
    """0 outside, 1 inside, over about two pixels."""
    return np.asarray(1 / (1 + np.exp(np.clip(-2.0 * distance, -30, 30))), dtype=np.float32)
