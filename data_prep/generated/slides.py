"""Writes generated slides as Aperio-like SVS: tiled JPEG pyramids with a stated scale."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from histodiff.data_prep.generated.artefacts import blur_area, draw_pen, sprinkle_dust
from histodiff.data_prep.generated.layout import slide_layout
from histodiff.data_prep.generated.painting import painted_tissue
from histodiff.data_prep.generated.stain import drawn_stain, stained_rgb
from histodiff.data_prep.readers.pyramid_writer import write_pyramid
from histodiff.runtime import generator_for
from histodiff.telemetry import progress

GENERATED_MPP = 0.5


def write_generated_slides(
    folder: Path, *, count: int, seed: int, size_px: int = 4096
) -> list[Path]:
    """Writes ``count`` slides ``generated-<number>.svs`` of ``size_px`` pixels squared.

    Slide ``n`` is a pure function of (seed, n, size_px). Every third slide has a pen mark and every
    second one an area out of focus. Files that are there already stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with progress("write slides", total=count, unit="slides") as bar:
        for number in range(count):
            path = folder / f"generated-{number:03d}.svs"
            if not path.exists():
                pixels = render_slide(seed, number, size_px=size_px)
                write_pyramid(path, pixels, mpp=GENERATED_MPP)
            paths.append(path)
            bar.advance()
    return paths


def render_slide(seed: int, number: int, *, size_px: int) -> npt.NDArray[np.uint8]:
    """Pixels of slide ``number`` at 0.5 um/px, uint8 ``(size_px, size_px, 3)``."""
    rng = generator_for(seed, "slide", number)
    layout = slide_layout(rng, height=size_px, width=size_px)
    canvas = painted_tissue(rng, layout)
    pixels = stained_rgb(rng, canvas.eosin, canvas.haematoxylin, drawn_stain(rng))
    sprinkle_dust(rng, pixels)
    if number % 2 == 1:
        blur_area(rng, pixels)
    if number % 3 == 0:
        draw_pen(rng, pixels)
    return pixels
