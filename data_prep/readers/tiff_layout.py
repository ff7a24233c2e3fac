"""How the pixels of a TIFF are arranged, and which arrangements are the RGB of a slide.

Red, green and blue lie interleaved, as planes of one page, or (OME-TIFF, ImageJ) as three grey
pages. What has more than 8 bits a sample is refused here, before any reader keeps some of them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import tifffile

from histodiff.data_prep.readers.ome import ome_image, rgb_order
from histodiff.errors import SkipReason, SlideError

_GREY, _RGB, _YCBCR = 1, 2, 6
_JPEG_KINDS = (6, 7)
MAX_TILE_PX = 2**26
"""Most pixels of one tile: it is decoded whole."""
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
OTHER_VENDORS = ("is_ndpi", "is_scn", "is_philips", "is_bif", "is_qpi", "is_lsm", "is_stk")
"""What tifffile calls formats with rules of their own, which OpenSlide knows."""


@dataclass(frozen=True)
class Layout:
    """Where the colours of an image are."""

    planes: int
    """1, or 3: red, green and blue apart."""
    samples: int
    """Samples per pixel of a plane: 3 interleaved, or 1."""
    order: tuple[int, ...] = (0,)
    """Which stored plane is red, green and blue."""
    own_pages: bool = False
    """Whether every plane is a page."""


def open_tiff(file: Path | BinaryIO) -> tifffile.TiffFile:
    """The TIFF itself, never another file that its OME-XML names: that could be any of the disk."""
    return tifffile.TiffFile(file, _multifile=False)


def check_page(page: Any, *, name: str) -> None:
    """Whether samples have 8 bits, and tiles or strips a size that can be decoded.

    Raises:
        SlideError: UNREADABLE: they have more.
    """
    bits = page.bitspersample
    if page.dtype is None or bits > 8 or page.dtype.kind not in "ub":
        raise deep_samples(name, f"{page.dtype or bits}")
    if not page.imagewidth * page.imagelength:
        raise SlideError(SkipReason.UNREADABLE, f"{name}: its header states no size")
    width, height = page.tilewidth, page.tilelength
    if page.is_tiled and not 0 < width * height <= MAX_TILE_PX:
        raise SlideError(
            SkipReason.UNREADABLE,
            f"{name}: tiles of {width}x{height} px cannot be decoded; convert it to tiles of 256 or"
            " 512 px",
        )


def deep_samples(name: str, depth: str) -> SlideError:
    """The refusal of samples that are not of 8 bits."""
    return SlideError(
        SkipReason.UNREADABLE,
        f"{name}: has samples of {depth}, of which nobody says what is black and what is white;"
        " convert it to 8 bits",
    )


def layout_of(
    tiff: tifffile.TiffFile, level: tifffile.TiffPageSeries, *, name: str
) -> Layout | None:
    """Where the colours of a level are; None for arrangements that are not read here.

    Raises:
        SlideError: UNREADABLE: samples of more than 8 bits, or pages of which nobody can know
            whether they are colours.
    """
    page, axes, shape = level.keyframe, level.axes, level.shape
    check_page(page, name=name)
    if page.dtype != np.uint8:  # single bits
        return None
    if axes == "YXS" and shape[2] == 3:
        return Layout(1, 3) if _is_colour(page) else None
    if axes == "SYX" and shape[0] == 3:
        return Layout(3, 1, (0, 1, 2)) if page.photometric == _RGB else None
    if page.photometric != _GREY or page.samplesperpixel != 1:
        return None
    if axes == "YX":
        return Layout(1, 1)
    if axes == "CYX" and shape[0] == 3 and len(level.pages) == 3:
        return Layout(3, 1, _order_of_pages(tiff, name), own_pages=True)
    raise SlideError(
        SkipReason.UNREADABLE,
        f"{name}: has {len(level.pages)} grey pages of one size ({axes} {shape}), which nothing"
        " says are red, green and blue; save it as RGB",
    )


def decoded_rgb(level: tifffile.TiffPageSeries, layout: Layout) -> npt.NDArray[np.uint8]:
    """All pixels of a level, uint8 ``(H, W, 3)``.

    Raises:
        ValueError: A strip or tile gives less than its size: tifffile alone would fill up in black.
    """
    if not layout.own_pages:
        return _rgb_of(_decoded(level.keyframe), layout)
    return _rgb_of(np.stack([_decoded(page.aspage()) for page in level.pages]), layout)


def _decoded(page: Any) -> npt.NDArray[Any]:
    """The pixels of one page, in its own shape."""
    pixels = np.empty(page.shaped, page.dtype)
    found = 0
    for data, (plane, _, top, left, _), shape in page.segments(maxworkers=1):
        if data is None or data.shape[1] < shape[1] or data.shape[2] < shape[2]:
            raise ValueError(f"the strip or tile at {left},{top} is damaged")
        part = pixels[plane, 0, top : top + shape[1], left : left + shape[2]]
        part[:] = data[0, : part.shape[0], : part.shape[1]]
        found += part.size
    if found != pixels.size:
        raise ValueError(f"strips or tiles hold {found} of {pixels.size} samples")
    return pixels.reshape(page.shape)


def _rgb_of(pixels: npt.NDArray[Any], layout: Layout) -> npt.NDArray[np.uint8]:
    """Pixels in the shape of their page or pages, as uint8 ``(H, W, 3)``."""
    if layout.planes == 3:
        return np.ascontiguousarray(np.stack([pixels[k] for k in layout.order], axis=-1))
    if layout.samples == 1:
        return np.repeat(pixels[..., np.newaxis], 3, axis=2)
    return np.asarray(pixels)


def _is_colour(page: Any) -> bool:
    """Whether interleaved samples are RGB once they are decoded."""
    return page.photometric == _RGB or (
        page.photometric == _YCBCR and page.compression in _JPEG_KINDS
    )


def _order_of_pages(tiff: tifffile.TiffFile, name: str) -> tuple[int, ...]:
    image = ome_image(tiff.ome_metadata)
    order = (0, 1, 2) if image is None else rgb_order(image)
    if order is None:
        assert image is not None, "channels have names"
        names = ", ".join(map(str, zip(image.channels, image.colours, strict=True)))
        raise SlideError(
            SkipReason.UNREADABLE,
            f"{name}: its three channels are called {names}, not red, green and blue; save it as"
            " RGB",
        )
    return order
