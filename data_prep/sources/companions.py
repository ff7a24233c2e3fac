"""Files that somebody made for a slide: an edited mask, annotations, imported coordinates.

They lie in a folder of their kind and are named after the slide. What they say is part of the
identity of a PatchIndex, so their contents are hashed like the slides'.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from histodiff.data_prep.index.patch_index import file_name_of
from histodiff.errors import ConfigError
from histodiff.storage import StoragePath, file_sizes


class CompanionKind(StrEnum):
    """What a companion says."""

    MASK = "masks"
    ANNOTATIONS = "annotations"
    COORDINATES = "coordinates"


_ENDINGS = {
    CompanionKind.MASK: (".geojson", ".json"),
    CompanionKind.ANNOTATIONS: (".geojson", ".json"),
    CompanionKind.COORDINATES: (".h5", "_patches.h5"),
}


@dataclass(frozen=True)
class Companion:
    """One such file."""

    url: str
    size_bytes: int
    content_hash: str = ""


Companions = Mapping[CompanionKind, Companion]


def companion_files(
    folder: StoragePath, kind: CompanionKind, *, where: str
) -> dict[str, Companion]:
    """All files of a kind below a folder, by relative path.

    Args:
        folder: Where they lie.
        kind: What they say.
        where: Config key that named the folder, for errors.

    Raises:
        ConfigError: There is no such folder, or it has none.
    """
    sizes = file_sizes(folder, suffixes=_ENDINGS[kind])
    found = {
        name: Companion(str(folder / name), size)
        for name, size in sizes.items()
        if not any(part.startswith(".") for part in name.split("/"))
    }
    if not found:
        raise ConfigError(
            f"{where}: {folder} has no {' or '.join(_ENDINGS[kind])}; give the folder with files"
            " that are named after the slides"
        )
    return found


def companion_names(kind: CompanionKind, *, slide_id: str, stem: str) -> Sequence[str]:
    """Names that a companion of a slide may have, those that ``tile`` itself writes first."""
    bases = dict.fromkeys((file_name_of(slide_id), slide_id, stem))
    return [base + ending for base in bases for ending in _ENDINGS[kind]]
