"""What of a folder is not taken: counted, named, and said.

Programs leave files behind: notebooks their checkpoints, network disks thumbnails and snapshots,
systems their trash. A folder of them is no class and no batch. Images of kinds that are not read
are counted by their endings, and links and special files that lead to no file are named.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath

from histodiff.data_prep.readers.image_files import IMAGE_SUFFIXES
from histodiff.data_prep.readers.opening import SLIDE_SUFFIXES
from histodiff.storage import NoFile

_FOREIGN = frozenset(
    {
        "__macosx", "__pycache__", "network trash folder", "temporary items",
        "$recycle.bin", "recycler", "system volume information", "thumbs.db",
        "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "~snapshot",
        "lost+found",
    }
)  # fmt: skip
"""Names in lower case that macOS, Windows, network disks and Linux give to what is no data."""
_OTHER_KINDS = frozenset(
    {
        *IMAGE_SUFFIXES, *SLIDE_SUFFIXES,
        ".gif", ".jfif", ".jpe", ".jp2", ".j2k", ".jpf", ".jpx", ".jpm", ".jxl", ".avif", ".heic",
        ".heif", ".tga", ".ppm", ".pgm", ".pbm", ".pnm", ".psd", ".tf2", ".tf8", ".btf",
        ".qptiff", ".vsi", ".ets", ".isyntax", ".i2syntax", ".lif", ".zvi", ".oib", ".oif", ".sdpc",
        ".kfb", ".tmap", ".dicom",
    }
)  # fmt: skip
"""Endings of images and slides; those that a source does not take are counted."""
_MOST_NAMES = 8


def is_foreign(name: str) -> bool:
    """Whether a path names what programs left behind: hidden, in a trash can, a snapshot."""
    return _foreign_part(name) is not None


def foreign_files(names: Iterable[str], what: str) -> list[str]:
    """One line that counts files in hidden and foreign places; none where there are none."""
    places = Counter(part for name in names if (part := _foreign_part(name)) is not None)
    if not places:
        return []
    counts = _counted(places)
    return [f"{what} in hidden or foreign places are left out ({places.total()}): {counts}"]


def other_kinds(names: Iterable[str], what: str) -> list[str]:
    """One line that counts images of kinds that are not taken; none where there are none."""
    endings = (PurePosixPath(name).suffix.lower() for name in names if not is_foreign(name))
    kinds = Counter(ending for ending in endings if ending in _OTHER_KINDS)
    if not kinds:
        return []
    return [
        f"files of kinds that are not taken as {what} are left out ({kinds.total()}):"
        f" {_counted(kinds)}; convert them to PNG or TIFF if they belong here"
    ]


def no_files(left_out: Mapping[str, NoFile]) -> list[str]:
    """One line that names what is no file, and why; none where all are."""
    named = [f"{name} is {why}" for name, why in left_out.items() if not is_foreign(name)]
    return [f"what is no file is left out ({len(named)}): {_first(named)}"] if named else []


def _foreign_part(name: str) -> str | None:
    """The first hidden or foreign folder of a path, or its own name."""
    return next(_foreign_parts(name), None)


def _foreign_parts(name: str) -> Iterator[str]:
    for part in PurePosixPath(name).parts:
        if part.startswith(".") or part.lower() in _FOREIGN:
            yield part


def _counted(counts: Counter[str]) -> str:
    return _first([f"{name} ({count})" for name, count in sorted(counts.items())])


def _first(texts: list[str]) -> str:
    more = len(texts) - _MOST_NAMES
    return ", ".join(texts[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
