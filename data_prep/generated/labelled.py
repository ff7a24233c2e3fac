"""A labelled patch set from many small generated slides, each with its own stain."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from histodiff.data_prep.generated.layout import TissueClass, field_layout
from histodiff.data_prep.generated.painting import painted_tissue
from histodiff.data_prep.generated.stain import Stain, drawn_stain, stained_rgb
from histodiff.data_prep.readers.resampling import resized
from histodiff.runtime import generator_for
from histodiff.storage import storage_path, write_bytes
from histodiff.telemetry import progress

LABELLED_CLASSES = (TissueClass.GLAND, TissueClass.LYMPHOCYTES, TissueClass.STROMA)
_MARGIN_PX = 64
_GRID = 4


def write_labelled_patches(
    folder: Path,
    *,
    slides_per_class: int,
    patches_per_slide: int,
    seed: int,
    patch_px: int = 64,
    classes: Sequence[TissueClass] = LABELLED_CLASSES,
) -> Path:
    """Writes patches at 1.0 um/px as PNG, and ``patches.csv`` (``path,label,slide_id``).

    Every slide has a stain of its own and shows mostly one class; one patch in eight is of another
    class. At most 16 patches per slide.

    Returns:
        The path of the CSV.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, str, str]] = []
    total = slides_per_class * len(classes)
    with progress("write labelled patches", total=total, unit="slides") as bar:
        for number in range(total):
            main = classes[number % len(classes)]
            slide_id = f"labelled-{number:03d}"
            rows += _write_slide(
                folder,
                slide_id,
                main,
                classes,
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
    """``count`` patches of one class, uint8 ``(patch_px, patch_px, 3)`` at 1.0 um/px."""
    side = 2 * patch_px * _GRID + 2 * _MARGIN_PX  # at 0.5 um/px
    layout = field_layout(height=side, width=side, tissue_class=tissue_class)
    canvas = painted_tissue(rng, layout)
    field = stained_rgb(rng, canvas.eosin, canvas.haematoxylin, stain)
    places = rng.permutation(_GRID * _GRID)[:count]
    patches = []
    for place in places:
        row, column = divmod(int(place), _GRID)
        top, left = _MARGIN_PX + 2 * patch_px * row, _MARGIN_PX + 2 * patch_px * column
        region = field[top : top + 2 * patch_px, left : left + 2 * patch_px]
        patches.append(resized(region, width=patch_px, height=patch_px))
    return patches


def _write_slide(
    folder: Path, slide_id: str, main: TissueClass, classes: Sequence[TissueClass],
    *, seed: int, count: int, patch_px: int,
) -> list[tuple[str, str, str]]:  # fmt: skip
    rng = generator_for(seed, "labelled", slide_id)
    stain = drawn_stain(rng)
    others = [name for name in classes if name != main]
    num_others = count // 8 if others else 0
    parts = [(main, count - num_others)]
    if num_others:
        parts.append((others[rng.integers(0, len(others))], num_others))
    rows = []
    for name, part in parts:
        (folder / name).mkdir(exist_ok=True)
        for number, pixels in enumerate(
            render_patches(rng, name, stain, count=part, patch_px=patch_px)
        ):
            path = f"{name}/{slide_id}-{number:02d}.png"
            Image.fromarray(pixels).save(folder / path)
            rows.append((path, str(name), slide_id))
    return rows
