"""Pages of an image file beyond the one that is shown: planes of a stack, frames of an animation.

Levels of a pyramid, labels, macros and masks are no such pages.
"""

import math
from pathlib import Path, PurePosixPath

import tifffile
from PIL import Image

from histodiff.data_prep.readers.tiff_layout import open_tiff
from histodiff.storage import StoragePath, file_facts, is_local, open_blockwise

_TIFF_SUFFIXES = (".tif", ".tiff", ".svs", ".ndpi", ".scn")
_FRAME_SUFFIXES = (".webp", ".png")
_BLOCK_BYTES = 2**16


def further_pages(path: StoragePath) -> int:
    """Number of pictures in the file besides the first; 0 where none can be counted."""
    suffix = PurePosixPath(path.name).suffix.lower()
    try:
        if suffix in _TIFF_SUFFIXES:
            return _further_planes(path)
        if suffix in _FRAME_SUFFIXES and is_local(path):
            with Image.open(path.path) as image:
                return int(getattr(image, "n_frames", 1)) - 1
    except Exception:  # tifffile and PIL raise what they like; what was decoded stays
        return 0
    return 0


def _further_planes(path: StoragePath) -> int:
    if is_local(path):
        with open_tiff(Path(path.path)) as tiff:
            return _planes(tiff) - 1
    facts = file_facts(path)
    with (
        open_blockwise(path, block_bytes=_BLOCK_BYTES, facts=facts) as stream,
        open_tiff(stream) as tiff,
    ):
        return _planes(tiff) - 1


def _planes(tiff: tifffile.TiffFile) -> int:
    """Pictures of the first series at full size."""
    first = tiff.series[0]
    colours = "S" if "S" in first.axes else "C"
    own = f"YX{colours}"  # axes of one picture; the others count pictures
    sizes = zip(first.axes, first.shape, strict=True)
    return math.prod(size for axis, size in sizes if axis not in own)
