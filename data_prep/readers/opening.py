"""Opens a slide with the first reader that takes it.

Tiled JPEG TIFF and SVS are read tile by tile (``TiffReader``), also over the network. What it does
not take goes to OpenSlide, and what OpenSlide does not know (plain PNG and JPEG, untiled TIFF, some
OME-TIFF) to ``ImageReader``, which decodes whole levels. For these two a remote slide is copied to
a temporary file while it is open. The reader that tiled a slide is recorded and reads it later too.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from histodiff.data_prep.readers import tiled_tiff
from histodiff.data_prep.readers.dicom import DICOM_SUFFIX, dicom_header
from histodiff.data_prep.readers.openslide import OpenSlideReader
from histodiff.data_prep.readers.plain_image import ImageReader
from histodiff.data_prep.readers.reader import SlideInfo, SlideReader
from histodiff.data_prep.readers.tiff_index import TiffIndex
from histodiff.data_prep.readers.tiff_layout import MAX_TILE_PX
from histodiff.data_prep.readers.tiled_tiff import TiffReader, tiff_index_of
from histodiff.errors import SkipReason, SlideError
from histodiff.storage import (
    FileFacts,
    StoragePath,
    file_facts,
    is_local,
    local_copy,
    storage_path,
)

SLIDE_SUFFIXES = (
    ".svs", ".tif", ".tiff", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".bif", ".svslide", ".dcm",
    ".czi", ".png", ".jpg", ".jpeg",
)  # fmt: skip
"""Files that are taken as slides."""
MAX_SIDE_PX = 2**20
MAX_SLIDE_PX = 2**37
"""Largest slide that is believed: 26 cm of glass at 0.25 um/px, and 370,000 px squared."""


@dataclass
class OpenedSlide:
    """A reader with the temporary copy that it may need."""

    reader: SlideReader
    resources: contextlib.ExitStack
    index: TiffIndex | None = None
    """Where the tiles lie, if the slide is read tile by tile."""

    def close(self) -> None:
        """Closes the reader and removes the temporary copy."""
        self.resources.close()


def open_slide_at(
    path: StoragePath,
    *,
    tile_by_tile: bool = True,
    index: TiffIndex | None = None,
    facts: FileFacts | None = None,
    levels: Sequence[StoragePath] = (),
) -> OpenedSlide:
    """The slide at a path or URL.

    Args:
        path: The file.
        tile_by_tile: Whether ``TiffReader`` may read it.
        index: Its index, if it is known; then nothing of the header is read again.
        facts: Size and version that a remote one is held to; by default those of this moment.
        levels: Further files of the slide in the same folder, which OpenSlide finds there.

    Raises:
        SlideError: UNREADABLE: missing, empty, changed, or no reader takes it.
    """
    facts = facts or _facts(path)
    with contextlib.ExitStack() as stack:
        if tile_by_tile and index is None:
            index = tiff_index_of(path, facts=facts)
        if tile_by_tile and index is not None:
            version = facts.version if facts else ""
            reader: SlideReader = TiffReader(path, index, version=version)
        else:
            index = None
            reader = open_slide(_local([path, *levels], stack, facts))
        stack.callback(reader.close)
        _check_size(reader.info, path.name)
        return OpenedSlide(reader, stack.pop_all(), index)
    raise AssertionError("unreachable: the stack suppresses nothing")


def open_slide(path: Path) -> SlideReader:
    """The slide in a local file, with OpenSlide or, where it knows no such format, whole.

    Raises:
        SlideError: UNREADABLE: missing, empty, or no reader takes it.
    """
    if not path.is_file():
        raise SlideError(SkipReason.UNREADABLE, f"{path.name}: no such file")
    if path.stat().st_size == 0:
        raise SlideError(SkipReason.UNREADABLE, f"{path.name}: the file is empty")
    if path.suffix.lower() == DICOM_SUFFIX:
        _check_frames(path)
    if OpenSlideReader.takes(path):
        return OpenSlideReader(path)
    return ImageReader(path)


def was_tile_by_tile(reader: str) -> bool:
    """Whether the recorded reader of a slide is ``TiffReader``."""
    return reader == tiled_tiff.NAME


def _facts(path: StoragePath) -> FileFacts | None:
    if is_local(path):
        return None
    try:
        return file_facts(path)
    except (FileNotFoundError, PermissionError) as error:
        raise SlideError(SkipReason.UNREADABLE, f"{path.name}: {error}") from error


def _check_size(info: SlideInfo, name: str) -> None:
    """Whether a slide can be as large as it says: who believes it would read for weeks."""
    if max(info.width, info.height) > MAX_SIDE_PX or info.width * info.height > MAX_SLIDE_PX:
        raise SlideError(
            SkipReason.UNREADABLE,
            f"{name}: says that it has {info.width}x{info.height} px, and no slide has more than"
            f" {MAX_SLIDE_PX:,}; its header is damaged, copy it again",
        )


def _check_frames(path: Path) -> None:
    """Whether the frames of a DICOM slide can be decoded: OpenSlide believes any size."""
    header = dicom_header(storage_path(path))
    if header is not None and not 0 < header.tile_width * header.tile_height <= MAX_TILE_PX:
        raise SlideError(
            SkipReason.UNREADABLE,
            f"{path.name}: frames of {header.tile_width}x{header.tile_height} px cannot be decoded;"
            " its header is damaged, copy it again",
        )


def _local(
    paths: Sequence[StoragePath], stack: contextlib.ExitStack, facts: FileFacts | None
) -> Path:
    """Where the first of some files of one folder lies locally, the others beside it."""
    try:
        first = stack.enter_context(local_copy(paths[0], facts=facts))
        for path in paths[1:]:
            copy = stack.enter_context(local_copy(path))
            if not is_local(path):
                copy.rename(first.with_name(path.name))
    except OSError as error:
        raise SlideError(SkipReason.UNREADABLE, f"{paths[0].name}: {error}") from error
    return first
