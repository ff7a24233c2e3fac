"""What a DICOM file says before its pixels: which series it is of, and what it shows.

Only the few elements that are wanted are read, up to the last of them: a remote file costs one
request. The pixels are OpenSlide's business.
"""

from dataclasses import dataclass
from typing import Any, BinaryIO

import lazy_loader

from histodiff.errors import FileChanged, HistodiffError
from histodiff.storage import StoragePath, file_facts, is_local, open_blockwise

pydicom = lazy_loader.load("pydicom")  # takes a third of a second, for those with such files alone

DICOM_SUFFIX = ".dcm"
SLIDE_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""VL Whole Slide Microscopy Image Storage."""
_IMAGE_TYPE = 0x00080008
_SOP_CLASS = 0x00080016
_SERIES = 0x0020000E
_FRAMES, _ROWS, _COLUMNS = 0x00280008, 0x00280010, 0x00280011
_TOTAL_COLUMNS, _TOTAL_ROWS = 0x00480006, 0x00480007
_WANTED = (
    _IMAGE_TYPE, _SOP_CLASS, _SERIES, _FRAMES, _ROWS, _COLUMNS, _TOTAL_COLUMNS, _TOTAL_ROWS,
)  # fmt: skip
_NUMBER_BYTES = 4
_BLOCK_BYTES = 2**16


@dataclass(frozen=True)
class DicomHeader:
    """One instance of a slide."""

    series: str
    kind: str
    """``VOLUME`` for a level of the pyramid, else ``LABEL``, ``OVERVIEW`` or ``THUMBNAIL``."""
    width: int
    height: int
    """The whole image."""
    tile_width: int
    tile_height: int
    """One frame."""


def dicom_header(path: StoragePath) -> DicomHeader | None:
    """The header of an instance of a slide; None for what is none, or is broken.

    Raises:
        TransientError: The connection broke.
        FileChanged: The file is replaced at this moment.
    """
    try:
        with _opened(path) as stream:
            return _header(stream)
    except FileChanged:
        raise
    except OSError:  # who reads it says what is wrong
        return None


def _opened(path: StoragePath) -> BinaryIO:
    if is_local(path):
        return open(path.path, "rb")
    return open_blockwise(path, block_bytes=_BLOCK_BYTES, facts=file_facts(path))


def _header(stream: BinaryIO) -> DicomHeader | None:
    try:
        found = pydicom.filereader.read_partial(
            stream, stop_when=lambda tag, vr, length: tag > _TOTAL_ROWS, specific_tags=list(_WANTED)
        )
        series = _text(found, _SERIES)
    except (HistodiffError, ImportError):
        raise
    except Exception:  # pydicom raises what it likes on broken files
        return None
    if _text(found, _SOP_CLASS) != SLIDE_CLASS or not series:
        return None
    kinds = [*_text(found, _IMAGE_TYPE).split("\\"), "", "", ""]
    return DicomHeader(
        series=series,
        kind=kinds[2].strip().upper() or "VOLUME",
        width=_number(found, _TOTAL_COLUMNS),
        height=_number(found, _TOTAL_ROWS),
        tile_width=_number(found, _COLUMNS),
        tile_height=_number(found, _ROWS),
    )


def _bytes(dataset: Any, tag: int) -> bytes:
    """The value as stored: converted ones come with warnings about whatever is odd in them."""
    return bytes(dataset.get_item(tag).value or b"") if tag in dataset else b""


def _text(dataset: Any, tag: int) -> str:
    return _bytes(dataset, tag).decode("ascii", "replace").strip(" \0")


def _number(dataset: Any, tag: int) -> int:
    return int.from_bytes(_bytes(dataset, tag)[:_NUMBER_BYTES], "little")
