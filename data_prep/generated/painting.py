"""Paints tissue of every class as densities of two stains: eosin and haematoxylin.

Order: stroma everywhere, then the beds of lymphocytes and tumour, then glands, then single cells.
Lengths are pixels at 0.5 um.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histodiff.data_prep.generated.fields import (
    Fibres,
    Field,
    enlarged,
    fibres,
    smooth_noise,
)
from histodiff.data_prep.generated.glands import paint_glands
from histodiff.data_prep.generated.layout import CLASSES, Layout, TissueClass
from histodiff.data_prep.generated.nuclei import (
    FIBROBLAST,
    LYMPHOCYTE,
    TUMOUR,
    NucleusBank,
    nucleus_bank,
)


@dataclass
class Canvas:
    """Densities of the stains, float32 ``(H, W)``, painted in place, and where glands are."""

    eosin: Field
    haematoxylin: Field
    glands: npt.NDArray[np.bool_]


def painted_tissue(rng: np.random.Generator, layout: Layout) -> Canvas:
    """Densities of a layout."""
    height, width = layout.tissue.shape
    strands = fibres(rng, height=height, width=width)
    canvas = _stroma(rng, strands)
    amount = {name: _soft_region(layout, name) for name in CLASSES}
    _bed(rng, canvas, amount[TissueClass.LYMPHOCYTES], eosin=0.20, haematoxylin=0.14)
    _bed(rng, canvas, amount[TissueClass.TUMOUR], eosin=0.27, haematoxylin=0.17)
    inside = layout.tissue > 0.6
    where = {name: inside & (amount[name] > 0.5) for name in CLASSES}
    canvas.glands |= paint_glands(rng, canvas.eosin, canvas.haematoxylin, where[TissueClass.GLAND])
    free = inside & ~canvas.glands
    _fibroblasts(
        rng, canvas, free & ~where[TissueClass.LYMPHOCYTES] & ~where[TissueClass.TUMOUR], strands
    )
    _crowd(
        rng,
        canvas,
        free & where[TissueClass.LYMPHOCYTES],
        nucleus_bank(LYMPHOCYTE),
        step_px=14.5,
    )
    _crowd(rng, canvas, free & where[TissueClass.TUMOUR], nucleus_bank(TUMOUR), step_px=25)
    _scattered(rng, canvas, free, nucleus_bank(LYMPHOCYTE))
    canvas.eosin *= layout.tissue
    canvas.haematoxylin *= layout.tissue
    return canvas


def lattice(
    rng: np.random.Generator, where: npt.NDArray[np.bool_], *, step_px: float, jitter: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Jittered hexagonal places (xs, ys) inside a mask."""
    height, width = where.shape
    rows = np.arange(step_px / 2, height, step_px * 0.866)
    columns = np.arange(0, width, step_px)
    ys, xs = np.meshgrid(rows, columns, indexing="ij")
    xs = xs + (np.arange(len(rows))[:, None] % 2) * step_px / 2
    xs = (xs + rng.normal(0, jitter * step_px, xs.shape)).ravel()
    ys = (ys + rng.normal(0, jitter * step_px, ys.shape)).ravel()
    inside = (xs >= 0) & (xs < width) & (ys >= 0) & (ys < height)
    xs, ys = xs[inside], ys[inside]
    kept = where[ys.astype(int), xs.astype(int)]
    return xs[kept], ys[kept]


def _stroma(rng: np.random.Generator, strands: Fibres) -> Canvas:
    height, width = strands.strands.shape
    patchy = smooth_noise(rng, height=height, width=width, scale_px=250)
    clefts = np.clip(strands.strands * np.float32(-1.1) - np.float32(1.1), 0, 1)  # between strands
    eosin = np.clip(0.40 + 0.10 * strands.strands + 0.05 * patchy, 0.12, 0.9)
    eosin *= 1 - np.float32(0.82) * clefts
    haematoxylin = np.clip(0.045 + 0.02 * patchy, 0, 1)
    haematoxylin *= 1 - clefts
    return Canvas(
        eosin.astype(np.float32),
        haematoxylin.astype(np.float32),
        glands=np.zeros((height, width), dtype=np.bool_),
    )


def _soft_region(layout: Layout, name: TissueClass) -> Field:
    """0 to 1: how much of a class there is, with an edge some cells wide."""
    height, width = layout.regions.shape
    mask = (layout.regions == CLASSES.index(name)).astype(np.float32)
    small = mask[:: min(32, height), :: min(32, width)]
    return np.clip(enlarged(small, height=height, width=width), 0, 1)


def _bed(
    rng: np.random.Generator, canvas: Canvas, amount: Field, *, eosin: float, haematoxylin: float
) -> None:
    """Mottled ground of a crowd of cells, in place of stroma."""
    rows, columns = np.flatnonzero(amount.any(axis=1)), np.flatnonzero(amount.any(axis=0))
    if not len(rows):
        return
    area = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    part = np.float32(0.85) * amount[area]
    height, width = part.shape
    mottle = smooth_noise(rng, height=height, width=width, scale_px=8)
    mottle *= np.float32(0.12)
    mottle += 1
    for field, density in ((canvas.eosin, eosin), (canvas.haematoxylin, haematoxylin)):
        field[area] += part * (np.float32(density) * mottle - field[area])


def _fibroblasts(
    rng: np.random.Generator, canvas: Canvas, where: npt.NDArray[np.bool_], strands: Fibres
) -> None:
    xs, ys = lattice(rng, where, step_px=38, jitter=0.45)
    angles = strands.angle[ys.astype(int), xs.astype(int)] + rng.normal(0, 0.18, len(xs))
    nucleus_bank(FIBROBLAST).stamp(canvas.haematoxylin, rng, xs=xs, ys=ys, angles=angles)


def _crowd(
    rng: np.random.Generator, canvas: Canvas, where: npt.NDArray[np.bool_], bank: NucleusBank,
    *, step_px: float,
) -> None:  # fmt: skip
    xs, ys = lattice(rng, where, step_px=step_px, jitter=0.2)
    kept = rng.uniform(size=len(xs)) < 0.93
    xs, ys = xs[kept], ys[kept]
    bank.stamp(canvas.haematoxylin, rng, xs=xs, ys=ys, angles=rng.uniform(0, np.pi, len(xs)))


def _scattered(
    rng: np.random.Generator, canvas: Canvas, where: npt.NDArray[np.bool_], bank: NucleusBank
) -> None:
    """Single lymphocytes, in loose clusters."""
    xs, ys = lattice(rng, where, step_px=60, jitter=0.5)
    height, width = where.shape
    often = smooth_noise(rng, height=height, width=width, scale_px=260)[
        ys.astype(int), xs.astype(int)
    ]
    kept = rng.uniform(size=len(xs)) < np.clip(0.12 + 0.25 * often, 0, 0.8)
    xs, ys = xs[kept], ys[kept]
    bank.stamp(canvas.haematoxylin, rng, xs=xs, ys=ys, angles=rng.uniform(0, np.pi, len(xs)))
