"""Decodes image files.

JPEG is decoded by simplejpeg, to Pillow's pixels and strictly (see `jpeg`); OME-TIFF, ImageJ's and
JPEG 2000 in TIFF by tifffile; all else by Pillow. What is said of an image before its
pixels (size, bits per sample) is judged first, so that no header takes more memory than
``MAX_PIXELS`` do: 7 bytes a pixel at most.
"""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
import simplejpeg
import tifffile
from PIL import Image, UnidentifiedImageError

from histodiff.data_prep.readers.jpeg import jpeg_header
from histodiff.data_prep.readers.tiff_layout import (
    TIFF_STARTS,
    check_page,
    decoded_rgb,
    deep_samples,
    layout_of,
    open_tiff,
)
from histodiff.data_prep.readers.tile_codecs import BEYOND_OPENSLIDE
from histodiff.errors import SkipReason, SlideError
from histodiff.storage import StoragePath, read_bytes

MAX_PIXELS = 400_000_000
"""Largest image that is decoded whole (1.2 GB as RGB); larger ones must be pyramids."""
PLAIN_SUFFIXES = (".png", ".jpg", ".jpeg")
"""Slides with these endings are plain images, whatever OpenSlide may say."""
IMAGE_SUFFIXES = (*PLAIN_SUFFIXES, ".tif", ".tiff", ".bmp", ".webp")
"""Files that are taken as images of a patch set."""

READER_VERSION = PIL.__version__
"""Version of what decodes images."""

Image.MAX_IMAGE_PIXELS = None  # our own limit, which ends in a reason instead of a warning
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF")
"""What Pillow may take a file for, whatever it is called: formats that start no other program."""
_COLOUR_MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr")
_PNG_START, _PNG_DEPTH_AT = b"\x89PNG", 24
_JPEG_START = b"\xff\xd8\xff"
_JPEG_COLOURS = ("RGB", "YCbCr", "Gray")
_BAND_ROWS = 1024
_PLANES = 2


def decode_image(path: StoragePath) -> npt.NDArray[np.uint8]:
    """All pixels of an image file, uint8 ``(H, W, 3)``.

    Raises:
        SlideError: UNREADABLE: missing, truncated, not an image, or not of 8 bits.
    """
    try:
        return decode_bytes(read_bytes(path), name=path.name)
    except OSError as error:
        raise SlideError(SkipReason.UNREADABLE, f"{path.name}: {error}") from error


def decode_bytes(data: bytes, *, name: str) -> npt.NDArray[np.uint8]:
    """All pixels of an encoded image, uint8 ``(H, W, 3)``; transparency shows white.

    Raises:
        SlideError: UNREADABLE: truncated, not an image, too large, or not of 8 bits.
    """
    try:
        if data.startswith(TIFF_STARTS):
            return _decode_tiff(data, name)
        if data.startswith(_JPEG_START):
            return _decode_jpeg(data, name)
        if data.startswith(_PNG_START) and data[_PNG_DEPTH_AT : _PNG_DEPTH_AT + 1] == b"\x10":
            raise deep_samples(name, "16 bits")
        return _decode_by_pillow(data, name)
    except MemoryError as error:
        raise _too_large(name, "it does not fit into the memory here") from error
    except UnidentifiedImageError as error:
        raise SlideError(SkipReason.UNREADABLE, f"{name}: is not an image") from error
    except (OSError, SyntaxError, ValueError, IndexError, OverflowError) as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise SlideError(SkipReason.UNREADABLE, f"{name}: {detail}") from error


def stated_dpi(data: bytes) -> tuple[Any, Any] | None:
    """Dots per inch (x, y) that an encoded image states, or None."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            dpi: tuple[Any, Any] | None = image.info.get("dpi")
    except Exception:  # what cannot be opened states nothing; decoding says what is wrong
        return None
    return dpi


def check_pixels(width: int, height: int, *, name: str) -> None:
    """Whether an image of this size can be decoded whole.

    Raises:
        SlideError: UNREADABLE: it is too large.
    """
    if width * height > MAX_PIXELS:
        raise _too_large(name, f"{width}x{height} px is too large to decode whole")


def _too_large(name: str, what: str) -> SlideError:
    return SlideError(
        SkipReason.UNREADABLE, f"{name}: {what}; convert it to a tiled pyramidal TIFF"
    )


def _decode_jpeg(data: bytes, name: str) -> npt.NDArray[np.uint8]:
    height, width, colours = jpeg_header(data)
    check_pixels(width, height, name=name)
    if colours not in _JPEG_COLOURS:  # CMYK, which Pillow knows
        return _decode_by_pillow(data, name)
    return np.asarray(simplejpeg.decode_jpeg(data, "RGB"))


def _decode_by_pillow(data: bytes, name: str) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        check_pixels(image.width, image.height, name=name)
        if image.mode not in _COLOUR_MODES:
            raise deep_samples(name, f"mode {image.mode}")
        image.load()
        return _rgb(image)


def _rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Pixels over white, band by band: whole copies of a large image would not fit into memory."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _BAND_ROWS):
        bottom = min(top + _BAND_ROWS, image.height)
        band = image.crop((0, top, image.width, bottom))
        if image.mode in ("RGBA", "LA") or "transparency" in image.info:
            rgba = band.convert("RGBA")
            white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
            band = Image.alpha_composite(white, rgba)
        pixels[top:bottom] = np.asarray(band.convert("RGB"))
    return pixels


def _decode_tiff(data: bytes, name: str) -> npt.NDArray[np.uint8]:
    """By tifffile where colours may lie in pages, or where Pillow does not know what is inside."""
    try:
        with open_tiff(io.BytesIO(data)) as tiff:
            page = tiff.pages.first
            check_pixels(page.imagewidth, page.imagelength, name=name)
            check_page(page, name=name)
            if tiff.is_ome or tiff.is_imagej or _is_beyond_pillow(page):
                return _first_image(tiff, name)
    except (SlideError, MemoryError):
        raise
    except Exception as error:  # tifffile and its codecs raise what they like on broken files
        detail = " ".join(str(error).split()) or type(error).__name__
        raise SlideError(SkipReason.UNREADABLE, f"{name}: {detail}") from error
    return _decode_by_pillow(data, name)


def _is_beyond_pillow(page: tifffile.TiffPage) -> bool:
    """Whether Pillow knows no such compression, or colours only interleaved."""
    apart = page.planarconfig == _PLANES and page.samplesperpixel == 3
    return apart or page.compression in BEYOND_OPENSLIDE


def _first_image(tiff: tifffile.TiffFile, name: str) -> npt.NDArray[np.uint8]:
    level = tiff.series[0]
    layout = layout_of(tiff, level, name=name)
    if layout is None:
        raise SlideError(
            SkipReason.UNREADABLE, f"{name}: {level.dtype} {level.shape} is not an RGB image"
        )
    return decoded_rgb(level, layout)
