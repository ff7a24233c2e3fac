"""Stored tiles of TIFF files -> pixels, for all that is not interleaved RGB in JPEG (see `jpeg`).

Strict like there: a tile that gives fewer bytes than its size, more, or another size is damaged.
Nothing is allocated beyond the size that the page states.
"""

import struct
from collections.abc import Sequence

import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile

from histodiff.data_prep.readers.jpeg import decode_tile

_RAW, _JPEG, _JPEG_2000, _WEBP = 1, 7, 34712, 50001
_PACKED = (5, 8, 32946, 32773, 50000, 34926)
"""LZW, deflate (two numbers), PackBits, Zstandard (two numbers)."""
BEYOND_OPENSLIDE = (_JPEG_2000, _WEBP)
"""Compressions that OpenSlide does not know in a plain TIFF."""
_GREY, _RGB, _YCBCR = 1, 2, 6
_SIZE_OF_JPEG_2000 = b"\xff\x4f\xff\x51"
_HORIZONTAL = 2

VERSION = f"imagecodecs {imagecodecs.__version__}"


def can_decode(compression: int, *, photometric: int, predictor: int, samples: int) -> bool:
    """Whether tiles that are stored so can be decoded to 8-bit grey (1 sample) or RGB (3)."""
    colour = photometric == _RGB or (photometric == _YCBCR and compression == _JPEG)
    if not colour and not (photometric == _GREY and samples == 1):
        return False
    if compression in (_RAW, *_PACKED):
        return predictor in (1, _HORIZONTAL)
    return predictor == 1 and compression in (_JPEG, _JPEG_2000, _WEBP)


def decode_stored(
    data: bytes, *, compression: int, predictor: int, prefix: bytes, out: npt.NDArray[np.uint8]
) -> None:
    """Decodes one stored tile into ``out``, uint8 ``(height, width, samples)``, contiguous.

    Args:
        data: The bytes of the tile.
        compression: TIFF's number of it.
        predictor: 1 for none, 2 for differences to the left neighbour.
        prefix: What stands before a JPEG; see `jpeg.tile_prefix`.
        out: Where the pixels go.

    Raises:
        ValueError: The tile is damaged, or has another size.
    """
    if compression == _JPEG:
        decode_tile(data, prefix, out=out)
        return
    if compression in (_JPEG_2000, _WEBP):
        _decode_image(data, compression, out)
        return
    raw = data if compression == _RAW else _unpacked(data, compression, out.nbytes)
    if len(raw) != out.nbytes:
        raise ValueError(f"{len(raw)} bytes of pixels, not {out.nbytes}")
    out[:] = np.frombuffer(raw, np.uint8).reshape(out.shape)
    if predictor == _HORIZONTAL:
        np.cumsum(out, axis=1, dtype=np.uint8, out=out)


def _unpacked(data: bytes, compression: int, size: int) -> bytes:
    try:
        return bytes(tifffile.TIFF.DECOMPRESSORS[compression](data, out=size))
    except Exception as error:  # every codec has exceptions of its own
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def _decode_image(data: bytes, compression: int, out: npt.NDArray[np.uint8]) -> None:
    if compression == _JPEG_2000:
        _check_size(data, out.shape)
    try:
        pixels = tifffile.TIFF.DECOMPRESSORS[compression](data)
    except Exception as error:  # as above
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    if pixels.dtype != np.uint8 or pixels.size != out.size or pixels.shape[:2] != out.shape[:2]:
        raise ValueError(f"{pixels.dtype} {pixels.shape}, not 8-bit {out.shape}")
    out[:] = pixels.reshape(out.shape)


def _check_size(data: bytes, shape: Sequence[int]) -> None:
    """What a JPEG 2000 stream says of its size, before anything is allocated for it."""
    start = data.find(_SIZE_OF_JPEG_2000)
    if start < 0 or len(data) < start + 24:
        raise ValueError("not a JPEG 2000")
    right, bottom, left, top = struct.unpack(">4I", data[start + 8 : start + 24])
    if (bottom - top, right - left) != tuple(shape[:2]):
        raise ValueError(f"tile of {right - left}x{bottom - top} px, not {shape[1]}x{shape[0]}")
