"""Decodes image files."""

import io
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
import PIL
import tifffile
from PIL import Image, UnidentifiedImageError

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
_COLOUR_MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr")


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
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise SlideError(
                    SkipReason.UNREADABLE,
                    f"{name}: {image.width}x{image.height} px is too large to decode whole;"
                    " convert it to a tiled pyramidal TIFF",
                )
            if image.mode not in _COLOUR_MODES:
                raise SlideError(SkipReason.UNREADABLE, f"{name}: mode {image.mode} is not 8-bit")
            image.load()
            return _rgb(image)
    except UnidentifiedImageError as error:
        if PurePosixPath(name).suffix.lower() in (".tif", ".tiff"):
            return _decode_tiff(data, name)
        raise SlideError(SkipReason.UNREADABLE, f"{name}: is not an image") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise SlideError(SkipReason.UNREADABLE, f"{name}: {error}") from error


def _rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode in ("RGBA", "LA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    return np.asarray(image.convert("RGB"))


def _decode_tiff(data: bytes, name: str) -> npt.NDArray[np.uint8]:
    """TIFF flavours that PIL does not know, such as JPEG 2000 inside."""
    try:
        pixels = tifffile.imread(io.BytesIO(data))
    except Exception as error:  # tifffile and its codecs raise what they like on broken files
        raise SlideError(SkipReason.UNREADABLE, f"{name}: {error}") from error
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8:
        raise SlideError(
            SkipReason.UNREADABLE, f"{name}: {pixels.dtype} {pixels.shape} is not an RGB image"
        )
    return np.asarray(pixels)
