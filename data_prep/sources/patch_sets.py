"""The images of a patch set, in units: files in folders, patches in array files, rows of a CSV."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from histodiff.data_prep.readers.image_files import IMAGE_SUFFIXES
from histodiff.data_prep.sources.array_sets import ArraySource, array_patches
from histodiff.data_prep.sources.breakhis import breakhis_images
from histodiff.data_prep.sources.csv_lists import listed_images
from histodiff.data_prep.sources.inputs import FoundTrap, ImageInput, ImageSet
from histodiff.data_prep.sources.listing import (
    files_below,
    joined,
    mapped_label,
    parsed_name,
    stem_id,
)
from histodiff.data_prep.sources.published_sets import BreakhisSource
from histodiff.data_prep.sources.sources import (
    CsvSource,
    ImageFolderSource,
    PatchSetSource,
)
from histodiff.errors import ConfigError
from histodiff.storage import StoragePath

IMAGES_PER_UNIT = 512


@dataclass(frozen=True)
class FoundImages:
    """The images of one source."""

    number: int
    """Number of the source."""
    source: PatchSetSource
    folder: StoragePath
    """What the paths of the images are relative to."""
    images: Sequence[ImageInput]
    traps: tuple[FoundTrap, ...] = ()
    """What of the folder is left out."""

    @property
    def where(self) -> str:
        """Config key of the source."""
        return f"sources.{self.number}"


def found_images(source: PatchSetSource, data: str, number: int) -> FoundImages:
    """The images of the source with this number.

    Raises:
        ConfigError: There are none, or one is listed twice.
    """
    where = f"sources.{number}"
    traps: tuple[FoundTrap, ...] = ()
    if isinstance(source, CsvSource):
        folder, images = listed_images(source, data, where)
    elif isinstance(source, ImageFolderSource):
        folder, images, traps = _folder_images(source, data, where)
    elif isinstance(source, BreakhisSource):
        folder, images, traps = breakhis_images(source, data, where)
    else:
        folder, images = _array_images(source, data, where)
    if not images:
        raise ConfigError(f"{where}: {folder} has no images; check `path` and `label_map`")
    repeated = [path for path, count in Counter(item.path for item in images).items() if count > 1]
    if repeated:
        raise ConfigError(f"{where}: {repeated[0]} is listed more than once; remove the other rows")
    if source.published_split is not None:
        images = [replace(image, given_split=source.published_split) for image in images]
    return FoundImages(number, source, folder, images, traps)


def image_sets_of(found: FoundImages) -> list[ImageSet]:
    """The images of one source, cut into units."""
    source = found.source
    images = sorted(found.images, key=lambda image: (image.slide_id, image.path))
    return [
        ImageSet(
            name=f"source{found.number:02d}-{part:06d}",
            url=str(found.folder),
            mpp=None if source.mpp == "unknown" else source.mpp,
            fit=source.fit,
            images=tuple(images[start : start + IMAGES_PER_UNIT]),
        )
        for part, start in enumerate(range(0, len(images), IMAGES_PER_UNIT))
    ]


def _folder_images(
    source: ImageFolderSource, data: str, where: str
) -> tuple[StoragePath, list[ImageInput], tuple[FoundTrap, ...]]:
    folder = joined(data, source.path)
    below = files_below(folder, IMAGE_SUFFIXES, where, "images")
    images = []
    for name, size in below.sizes.items():
        parents = PurePosixPath(name).parent.as_posix()
        parsed = parsed_name(source.identifiers, name, where)
        label = name.split("/")[0] if source.labels == "folder" else None
        if parsed and source.labels == "identifiers":
            label = parsed.label
        if source.labels == "folder" and "/" not in name:
            raise ConfigError(
                f"{where}.labels: {folder / name} lies in no sub-folder; use labels: none"
            )
        if label is not None and source.label_map:
            label = mapped_label(label, source, where)
            if label is None:
                continue
        own_id = stem_id(name) if source.slides == "image" else parents
        slide_id = source.prefix + (parsed.slide_id if parsed else own_id)
        images.append(
            ImageInput(
                path=name,
                slide_id=slide_id,
                patient_id=parsed.patient_id if parsed else slide_id,
                site=parsed.site if parsed else None,
                label=label,
                size_bytes=size,
            )
        )
    return folder, images, below.traps(source.path)


def _array_images(
    source: ArraySource, data: str, where: str
) -> tuple[StoragePath, list[ImageInput]]:
    folder, patches = array_patches(source, joined(data, source.path), where=where)
    images = []
    for patch in patches:
        label = patch.label
        if label is not None and source.label_map:
            label = mapped_label(label, source, where)
            if label is None:
                continue
        slide_id = source.prefix + patch.slide_id
        images.append(
            ImageInput(
                path=patch.path,
                slide_id=slide_id,
                patient_id=slide_id,
                site=patch.site,
                label=label,
                size_bytes=patch.size_bytes,
                given_split=patch.given_split,
            )
        )
    return folder, images
