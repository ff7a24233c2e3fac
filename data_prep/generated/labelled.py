"""A labelled patch set from many small generated slides, each with its own stain."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from histodiff.data_prep.generated.layout import TissueClass, field_layout
from histodiff.data_prep.generated.painting import painted_tissue
from histodiff.data_prep.generated.stain import Stain, drawn_stain, stained_rgb
from histodiff.runtime import generator_for
from histodiff.storage import storage_path, write_bytes
from histodiff.telemetry import progress

LABELLED_CLASSES = (TissueClass.GLAND, TissueClass.LYMPHOCYTES, TissueClass.STROMA)
_MARGIN_PX = 64
_GRID = 8
MAX_PATCHES_PER_SLIDE = 24
_MIN_GLAND = 0.4
"""A patch of a gland shows this much of it, not the stroma between glands."""


def write_labelled_patches(
    folder: Path,
    *,
    slides_per_class: int,
    patches_per_slide: int,
    seed: int,
    patch_px: int = 32,
    classes: Sequence[TissueClass] = LABELLED_CLASSES,
) -> Path:
    """Writes patches at 0.5 um/px as PNG, and ``patches.csv`` (``path,label,slide_id``).

    Every slide has a stain of its own and shows one class, in at most `MAX_PATCHES_PER_SLIDE`
    patches.

    Returns:
        The path of the CSV.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, str, str]] = []
    total = slides_per_class * len(classes)
    with progress("write labelled patches", total=total, unit="slides") as bar:
        for number in range(total):
            rows += _write_slide(
                folder,
                f"labelled-{number:03d}",
                classes[number % len(classes)],
                seed=seed,
                count=patches_per_slide,
                patch_px=patch_px,
            )
            bar.advance()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "label", "slide_id"))
    writer.writerows(rows)
    path = folder / "patches.csv"
    write_bytes(storage_path(path), text.getvalue().encode())
    return path


def render_patches(
    rng: np.random.Generator, tissue_class: TissueClass, stain: Stain, *, count: int, patch_px: int
) -> list[npt.NDArray[np.uint8]]:
    """``count`` patches of one class, uint8 ``(patch_px, patch_px, 3)`` at 0.5 um/px.

    They do not overlap. Those of glands are taken where a gland is, as far as there are enough.
    """
    side = patch_px * _GRID + 2 * _MARGIN_PX
    layout = field_layout(height=side, width=side, tissue_class=tissue_class)
    canvas = painted_tissue(rng, layout)
    field = stained_rgb(rng, canvas.eosin, canvas.haematoxylin, stain)
    corners = [
        (_MARGIN_PX + patch_px * row, _MARGIN_PX + patch_px * column)
        for row, column in np.ndindex(_GRID, _GRID)
    ]
    corners = [corners[place] for place in rng.permutation(len(corners))]
    if tissue_class == TissueClass.GLAND:
        corners.sort(key=lambda corner: _part(canvas.glands, corner, patch_px).mean() < _MIN_GLAND)
    return [_part(field, corner, patch_px) for corner in corners[:count]]


def _part(field: npt.NDArray[Any], corner: tuple[int, int], side: int) -> npt.NDArray[Any]:
    top, left = corner
    return field[top : top + side, left : left + side]


def _write_slide(
    folder: Path, slide_id: str, label: TissueClass, *, seed: int, count: int, patch_px: int
) -> list[tuple[str, str, str]]:
    rng = generator_for(seed, "labelled", slide_id)
    stain = drawn_stain(rng)
    (folder / label).mkdir(exist_ok=True)
    rows = []
    patches = render_patches(rng, label, stain, count=count, patch_px=patch_px)
    for number, pixels in enumerate(patches):
        path = f"{label}/{slide_id}-{number:02d}.png"
        Image.fromarray(pixels).save(folder / path)
        rows.append((path, str(label), slide_id))
    return rows
