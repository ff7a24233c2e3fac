"""JPEG tiles of TIFF files -> pixels.

simplejpeg (libjpeg-turbo) decodes here: to the same pixels as OpenSlide, faster than imagecodecs
(1.5 times as many tiles per second of CPU), and strict: what libjpeg only warns of, such as a bit
stream that ends early or has bytes left over, is an error and not half a tile of grey. OpenSlide
is less strict: of tiles with zeros in their middle it gives most as if nothing were wrong.
"""

import numpy as np
import numpy.typing as npt
import simplejpeg

VERSION = f"simplejpeg {simplejpeg.__version__}"

_START = b"\xff\xd8"
_END = b"\xff\xd9"
_JFIF = b"\xff\xe0"


def tile_prefix(tables: bytes, *, ycbcr: bool) -> bytes:
    """What stands before the data of every tile: start, colour space, shared tables.

    Args:
        tables: The ``JPEGTables`` of the TIFF page, or nothing.
        ycbcr: Whether the data are YCbCr (else RGB), as the page says; tiles often do not say it,
            and where one does (see `is_jfif`), that counts.
    """
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([1 if ycbcr else 0])
    return _START + adobe + tables.removeprefix(_START).removesuffix(_END)


def decode_tile(data: bytes, prefix: bytes, *, out: npt.NDArray[np.uint8]) -> None:
    """Decodes one tile into ``out``, uint8 ``(height, width, 3)`` or grey ``(.., 1)``, contiguous.

    Raises:
        ValueError: The tile is damaged, has another size, or colours where grey is wanted.
    """
    if not data.startswith(_START):
        raise ValueError(f"not a JPEG: starts with {data[:2].hex(' ')}")
    stream = prefix + data[2:]
    height, width, colours = jpeg_header(stream)
    if (height, width) != out.shape[:2]:
        raise ValueError(f"tile of {width}x{height} px, not {out.shape[1]}x{out.shape[0]}")
    if out.shape[2] == 1 and colours != "Gray":
        raise ValueError(f"{colours}, not grey")
    simplejpeg.decode_jpeg(stream, "RGB" if out.shape[2] == 3 else "GRAY", buffer=out)


def jpeg_header(data: bytes) -> tuple[int, int, str]:
    """Height, width and colour space (``RGB``, ``YCbCr``, ``Gray``, ``CMYK``) of a JPEG.

    Raises:
        ValueError: There is no such header.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except KeyError as error:  # simplejpeg: libjpeg knows no such colours
        raise ValueError("not a JPEG: its header is damaged") from error
    return height, width, colours


def is_jfif(data: bytes) -> bool:
    """Whether a tile begins with a JFIF header: then its data are YCbCr, whatever the page says.

    libjpeg goes by that header before all else, and so does tifffile. OpenSlide believes the page,
    and gives false colours where some other software (Bio-Formats among it) wrote RGB there.
    """
    return data[2:4] == _JFIF and data[6:10] == b"JFIF"
