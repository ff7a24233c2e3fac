"""Opens a slide with the first reader that takes it.

OpenSlide is asked first; what it does not know (plain PNG and JPEG, untiled TIFF, most OME-TIFF)
goes to ``ImageReader``, which decodes whole levels. A remote slide is copied to a temporary file
while it is open.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from histodiff.data_prep.slides.image_reader import ImageReader
from histodiff.data_prep.slides.openslide_reader import OpenSlideReader
from histodiff.data_prep.slides.readers import SlideReader
from histodiff.errors import SkipReason, SlideError
from histodiff.storage import StoragePath, local_copy

SLIDE_SUFFIXES = (
    ".svs", ".tif", ".tiff", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".bif", ".svslide", ".dcm",
    ".czi", ".png", ".jpg", ".jpeg",
)  # fmt: skip
"""Files that are taken as slides."""


@dataclass
class OpenedSlide:
    """A reader with the temporary copy that it may need."""

    reader: SlideReader
    resources: contextlib.ExitStack

    def close(self) -> None:
        """Closes the reader and removes the temporary copy."""
        self.resources.close()


def open_slide_at(path: StoragePath) -> OpenedSlide:
    """The slide at a path or URL.

    Raises:
        SlideError: UNREADABLE: missing, or no reader takes it.
    """
    with contextlib.ExitStack() as stack:
        try:
            local = stack.enter_context(local_copy(path))
        except OSError as error:
            raise SlideError(SkipReason.UNREADABLE, f"{path.name}: {error}") from error
        reader = open_slide(local)
        stack.callback(reader.close)
        return OpenedSlide(reader, stack.pop_all())
    raise AssertionError("unreachable: the stack suppresses nothing")


def open_slide(path: Path) -> SlideReader:
    """The slide in a local file, with the first reader that takes it.

    Raises:
        SlideError: UNREADABLE: missing, or no reader takes it.
    """
    if not path.is_file():
        raise SlideError(SkipReason.UNREADABLE, f"{path.name}: no such file")
    if OpenSlideReader.takes(path):
        return OpenSlideReader(path)
    return ImageReader(path)
