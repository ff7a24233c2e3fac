"""Which further files a slide has: levels of a DICOM series, beside the file that stands for it.

``series/<slide>.json`` of a PatchIndex holds name and size of each. They are looked at before the
slide is opened again: without one of them its levels would be numbered otherwise.
"""

import json
from collections.abc import Mapping

from histodiff.data_prep.index.patch_index import file_name_of
from histodiff.data_prep.readers.dicom import DICOM_SUFFIX
from histodiff.errors import ArtifactCorrupt, SkipReason, SlideError
from histodiff.storage import StoragePath, file_size, read_bytes, write_bytes


def write_series(index: StoragePath, slide_id: str, sizes: Mapping[str, int]) -> None:
    """Records the further files of a slide, bytes by name (the last part of their address)."""
    text = json.dumps({"files": dict(sizes)}, indent=2, sort_keys=True) + "\n"
    write_bytes(_place(index, slide_id), text.encode())


def series_levels(index: StoragePath | None, slide_id: str, path: StoragePath) -> list[StoragePath]:
    """The further files of the slide at ``path``; none for most, and for older indexes.

    Raises:
        SlideError: UNREADABLE: one has vanished, or has another size than when it was tiled.
        ArtifactCorrupt: The record is broken.
    """
    if index is None or not path.name.lower().endswith(DICOM_SUFFIX):
        return []
    place = _place(index, slide_id)
    try:
        sizes = json.loads(read_bytes(place))["files"]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactCorrupt(f"{place}: no list of files: {error}; tile again") from error
    levels = [path.parent / name for name in sizes]
    for level, size in zip(levels, sizes.values(), strict=True):
        _check_unchanged(level, size)
    return levels


def _check_unchanged(level: StoragePath, size: int) -> None:
    try:
        found = file_size(level)
    except (FileNotFoundError, PermissionError) as error:
        raise SlideError(SkipReason.UNREADABLE, f"{level.name}: {error}") from error
    if found != size:
        raise SlideError(
            SkipReason.UNREADABLE,
            f"{level.name}: has {found} bytes, and had {size} when it was tiled; tile again",
        )


def _place(index: StoragePath, slide_id: str) -> StoragePath:
    return index / "series" / f"{file_name_of(slide_id)}.json"
