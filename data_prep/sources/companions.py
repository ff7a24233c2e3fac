"""Files that somebody made for a slide: an edited mask, annotations, imported coordinates.

They lie in a folder of their kind and are named after the slide. What they say is part of the
identity of a PatchIndex, so their contents are hashed like the slides'.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

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


def find_companions(
    folder: StoragePath, kind: CompanionKind, stems: Sequence[str], *, where: str
) -> dict[str, Companion]:
    """The companions of slides, by the stem of the slide's file name; some may have none.

    Args:
        folder: Where they lie.
        kind: What they say.
        stems: File names of the slides without their endings.
        where: Config key that named the folder, for errors.

    Raises:
        ConfigError: There is no such folder, it has none for any slide, or coordinates are missing
            for a slide.
    """
    sizes = file_sizes(folder)
    endings = _ENDINGS[kind]
    found: dict[str, Companion] = {}
    for stem in stems:
        name = next((stem + ending for ending in endings if stem + ending in sizes), None)
        if name is not None:
            found[stem] = Companion(str(folder / name), sizes[name])
    missing = [stem for stem in stems if stem not in found]
    if missing and (not found or kind is CompanionKind.COORDINATES):
        raise ConfigError(
            f"{where}: {folder} has no {missing[0]}{endings[0]} for slide '{missing[0]}'; name the"
            " files after the slides"
        )
    return found


Companions = Mapping[CompanionKind, Companion]
