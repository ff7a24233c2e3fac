"""Pictures for people: which patches of a slide were taken, and what is in a patch set."""

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from histodiff.data_prep.readers.thumbnails import Thumbnail
from histodiff.data_prep.tissue.tissue_mask import SlideMask

OVERLAY_SIDE_PX = 1024
_LARGEST_ZOOM = 4
SHEET_COLUMNS, SHEET_ROWS, SHEET_CELL_PX = 8, 4, 128
_PATCH_RGB, _REJECTED_RGB = (20, 90, 200), (200, 40, 30)
_TISSUE_RGB, _ARTEFACT_RGB, _UNREADABLE_RGB = (30, 150, 60), (240, 190, 0), (200, 40, 30)


def overlay_png(
    picture: Thumbnail,
    mask: SlideMask,
    *,
    corners: npt.NDArray[np.int64],
    rejected: npt.NDArray[np.int64],
    width: int,
    height: int,
) -> bytes:
    """The slide with its tissue outlined in green, artefacts yellow, damage red; PNG.

    Patches are blue rectangles; tissue that a rule of quality left out is red.

    Args:
        picture: The slide at low resolution.
        mask: Masks of the same picture.
        corners: Level-0 corners ``(n, 2)`` of the patches that were taken.
        rejected: Corners of those that were left out.
        width: Width of a patch in level-0 pixels.
        height: Height of a patch in level-0 pixels.
    """
    painted = picture.pixels.copy()
    painted[mask.artefact] = (painted[mask.artefact] + np.array(_ARTEFACT_RGB)) // 2
    painted[_outline(mask.tissue)] = _TISSUE_RGB
    painted[picture.unreadable] = _UNREADABLE_RGB
    image = Image.fromarray(painted)
    factor = min(_LARGEST_ZOOM, OVERLAY_SIDE_PX / max(image.size))
    image = image.resize([max(1, round(length * factor)) for length in image.size])
    draw = ImageDraw.Draw(image)
    scale = factor / picture.downsample
    for places, colour in ((corners, _PATCH_RGB), (rejected, _REJECTED_RGB)):
        for x, y in (places - [picture.x, picture.y]) * scale:
            draw.rectangle((x, y, x + width * scale, y + height * scale), outline=colour)
    return _png(image)


def png_bytes(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A picture as it is; PNG."""
    return _png(Image.fromarray(pixels))


def contact_sheet(images: Sequence[npt.NDArray[np.uint8]]) -> bytes:
    """The first images side by side, each shrunk to fit; PNG."""
    sheet = Image.new(
        "RGB", (SHEET_COLUMNS * SHEET_CELL_PX, SHEET_ROWS * SHEET_CELL_PX), (255, 255, 255)
    )
    for number, pixels in enumerate(images[: SHEET_COLUMNS * SHEET_ROWS]):
        cell = Image.fromarray(pixels)
        cell.thumbnail((SHEET_CELL_PX, SHEET_CELL_PX))
        row, column = divmod(number, SHEET_COLUMNS)
        sheet.paste(cell, (column * SHEET_CELL_PX, row * SHEET_CELL_PX))
    return _png(sheet)


def _outline(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    edge = np.zeros_like(mask)
    edge[1:] |= mask[1:] != mask[:-1]
    edge[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    return edge


def _png(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format="PNG")
    return sink.getvalue()
