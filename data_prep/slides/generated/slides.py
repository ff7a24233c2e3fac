"""Writes generated slides as Aperio-like SVS: tiled JPEG pyramids with a stated scale."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile

from histodiff.data_prep.slides.generated.artefacts import blur_area, draw_pen, sprinkle_dust
from histodiff.data_prep.slides.generated.layout import slide_layout
from histodiff.data_prep.slides.generated.painting import painted_tissue
from histodiff.data_prep.slides.generated.stain import drawn_stain, stained_rgb
from histodiff.data_prep.slides.pixels import resized
from histodiff.runtime import generator_for
from histodiff.telemetry import progress

GENERATED_MPP = 0.5
_TILE_PX = 256
_QUALITY = 85
_LEAST_LEVEL_PX = 512


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
                write_pyramid(path, render_slide(seed, number, size_px=size_px))
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


def write_pyramid(path: Path, pixels: npt.NDArray[np.uint8], *, mpp: float = GENERATED_MPP) -> None:
    """Writes pixels as a tiled JPEG pyramid that OpenSlide opens as Aperio, with ``mpp``."""
    height, width = pixels.shape[:2]
    scratch = path.with_suffix(".part")
    with tifffile.TiffWriter(scratch, bigtiff=False) as tiff:
        level = pixels
        while True:
            tiff.write(
                level,
                tile=(_TILE_PX, _TILE_PX),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": _QUALITY},
                description=_description(width, height, level.shape[1], level.shape[0], mpp),
                metadata=None,
                subfiletype=0 if level is pixels else 1,
            )
            if min(level.shape[:2]) < 2 * _LEAST_LEVEL_PX:
                break
            level = resized(level, width=level.shape[1] // 2, height=level.shape[0] // 2)
    scratch.replace(path)


def _description(width: int, height: int, level_width: int, level_height: int, mpp: float) -> str:
    size = f"{width}x{height} [0,0 {width}x{height}] ({_TILE_PX}x{_TILE_PX})"
    if (level_width, level_height) != (width, height):
        size += f" -> {level_width}x{level_height}"
    return (
        f"Aperio Image Library histodiff generated\r\n{size} JPEG/YCC Q={_QUALITY}"
        f"|AppMag = {10 / mpp:g}|MPP = {mpp:g}"
    )
