"""The slides and images that the sources of a config mean: ids, labels, scales and sizes.

Nothing is decoded here. Paths that are kept are relative to the source, so that moving the data
changes nothing that has identity.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote

from histodiff.config.loader import shipped_configs
from histodiff.data_prep.index.geometry import Fit
from histodiff.data_prep.index.patch_index import file_name_of
from histodiff.data_prep.readers.opening import SLIDE_SUFFIXES
from histodiff.data_prep.readers.pixels import IMAGE_SUFFIXES
from histodiff.data_prep.sources.array_sets import ArraySource, array_patches
from histodiff.data_prep.sources.companions import (
    Companion,
    CompanionKind,
    Companions,
    find_companions,
)
from histodiff.data_prep.sources.csv_files import CsvTable, read_csv
from histodiff.data_prep.sources.identifiers import (
    IdentifierRule,
    ParsedIdentifier,
    parse_identifier,
)
from histodiff.data_prep.sources.sources import (
    CsvSource,
    ImageFolderSource,
    PatchSetSource,
    SlidesSource,
)
from histodiff.errors import ConfigError, TransientError
from histodiff.storage import StoragePath, file_size, file_sizes, is_http, storage_path

IMAGES_PER_UNIT = 512
MAX_NAME_BYTES = 200
_EVERY_OTHER = "*"


@dataclass(frozen=True)
class SlideInput:
    """One slide to be tiled."""

    slide_id: str
    patient_id: str
    site: str | None
    label: str | None
    url: str
    size_bytes: int
    given_mpp: tuple[float, float] | None
    """Scale from the config or the scale CSV."""
    mpp_is_default: bool
    """Whether ``given_mpp`` stands back behind the slide's own scale."""
    mpp_from: str
    """Where ``given_mpp`` is from: ``config``, ``scale_csv`` or ``none``."""
    companions: Companions = field(default_factory=dict)
    """Mask, annotations and coordinates that were made for it."""
    min_coverage: float = 0.5
    """Least fraction of a patch that an annotation must cover to be its label."""
    content_hash: str = ""


@dataclass(frozen=True)
class ImageInput:
    """One image of a patch set."""

    path: str
    """Relative to the folder of the set; ``<file>#<index>`` for a patch in an array file."""
    slide_id: str
    patient_id: str
    site: str | None
    label: str | None
    size_bytes: int
    """Of a patch in an array file: its share of the file."""
    content_hash: str = ""
    """Of a patch in an array file: that of the file."""
    given_split: str | None = None
    """Split that the data set states, to be kept; None to be divided."""


@dataclass(frozen=True)
class ImageSet:
    """Images of one patch set that are tiled as one unit."""

    name: str
    """Unique name of the unit."""
    url: str
    """Folder that the images' paths are relative to."""
    mpp: float | None
    fit: Fit
    images: tuple[ImageInput, ...]


@dataclass(frozen=True)
class Inputs:
    """Everything that is to be tiled."""

    slides: tuple[SlideInput, ...]
    image_sets: tuple[ImageSet, ...]

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        images = sum(image.size_bytes for part in self.image_sets for image in part.images)
        return images + sum(slide.size_bytes for slide in self.slides)


def find_inputs(data: str, sources: Sequence[SlidesSource | PatchSetSource]) -> Inputs:
    """The slides and images of ``sources``, whose paths are relative to ``data``.

    Raises:
        ConfigError: A path is missing or empty, a CSV does not fit, or two things share a slide id.
    """
    slides: list[SlideInput] = []
    sets: list[ImageSet] = []
    owners: dict[str, str] = {}
    for number, source in enumerate(sources):
        where = f"sources.{number}"
        if isinstance(source, SlidesSource):
            found = _slides(source, data, where)
            _check_names(found)
            _claim(owners, ((slide.slide_id, slide.url) for slide in found))
            slides += found
        else:
            parts = _image_sets(source, data, where, number)
            ids = sorted({image.slide_id for part in parts for image in part.images})
            _claim(owners, ((slide_id, parts[0].url) for slide_id in ids))
            sets += parts
    slides.sort(key=lambda slide: slide.slide_id)
    return Inputs(tuple(slides), tuple(sets))


def joined(data: str, path: str) -> StoragePath:
    """``path`` relative to ``data``, unless it is absolute or a URL."""
    if "://" in path or Path(path).is_absolute():
        return storage_path(path)
    base = storage_path(data)
    return base if path in ("", ".") else base / path


def _claim(owners: dict[str, str], claims: Iterable[tuple[str, str]]) -> None:
    for slide_id, owner in claims:
        if slide_id in owners:
            raise ConfigError(
                f"slide id '{slide_id}' means both {owners[slide_id]} and {owner}; rename one,"
                " or give one source a `prefix`"
            )
        owners[slide_id] = owner


def _check_names(slides: Iterable[SlideInput]) -> None:
    """Files are named after slides; file systems take 255 bytes, endings included."""
    for slide in slides:
        length = len(file_name_of(slide.slide_id).encode())
        if length > MAX_NAME_BYTES:
            raise ConfigError(
                f"{slide.url}: slide id '{slide.slide_id}' is too long for file names"
                f" ({length} bytes, at most {MAX_NAME_BYTES}); rename the file, or shorten `prefix`"
            )


def _slides(source: SlidesSource, data: str, where: str) -> list[SlideInput]:
    root = joined(data, source.path)
    files = _files(root, SLIDE_SUFFIXES, where, "slides", recursive=source.recursive)
    files = {
        name: size
        for name, size in files.items()
        if fnmatch(PurePosixPath(name).name, source.pattern)
        and (source.recursive or "/" not in name)
    }
    if not files:
        raise ConfigError(
            f"{where}.path: {root} has no slides named '{source.pattern}'"
            f" ({', '.join(SLIDE_SUFFIXES)}); set `pattern`, or `recursive: true`"
        )
    listed = _scales(source, data, where)
    scales = dict(source.scale) | listed
    about = _about_slides(source, data, where)
    companions = _companions(source, data, [slide_stem(name) for name in files], where)
    single = _is_file(root, SLIDE_SUFFIXES)
    found = []
    for name, size in files.items():
        stem = slide_stem(name)
        keys = (source.prefix + stem, stem, PurePosixPath(name).name)
        row = next((about[key] for key in keys if key in about), {})
        given = next((scales[key] for key in keys if key in scales), None)
        mpp_from = "scale_csv" if any(key in listed for key in keys) else "config"
        slide_id = source.prefix + stem
        default = scales.get(_EVERY_OTHER) if given is None else None
        parsed = _parsed(source.identifiers, name, where)
        found.append(
            SlideInput(
                slide_id=slide_id,
                patient_id=row.get("patient_id") or (parsed.patient_id if parsed else slide_id),
                site=row.get("site") or (parsed.site if parsed else None),
                label=row.get("label") or None,
                url=str(root) if single else _below(root, name),
                size_bytes=size,
                given_mpp=_pair(given if given is not None else default),
                mpp_is_default=given is None,
                mpp_from=mpp_from,
                companions={
                    kind: files[stem] for kind, files in companions.items() if stem in files
                },
                min_coverage=source.min_coverage,
            )
        )
    return found


def _companions(
    source: SlidesSource, data: str, stems: Sequence[str], where: str
) -> dict[CompanionKind, dict[str, Companion]]:
    folders = {
        CompanionKind.MASK: source.masks,
        CompanionKind.ANNOTATIONS: source.annotations,
        CompanionKind.COORDINATES: source.coordinates,
    }
    return {
        kind: find_companions(joined(data, folder), kind, stems, where=f"{where}.{kind}")
        for kind, folder in folders.items()
        if folder is not None
    }


def slide_stem(name: str) -> str:
    """The file name without its ending (``.ome.tif`` is one ending)."""
    stem = PurePosixPath(name).name
    stem = stem[: -len(PurePosixPath(stem).suffix)]
    return stem.removesuffix(".ome")


def _scales(source: SlidesSource, data: str, where: str) -> dict[str, float | tuple[float, float]]:
    if source.scale_csv is None:
        return {}
    table = read_csv(_csv_path(data, source.scale_csv), place=f"{where}.scale_csv")
    scales: dict[str, float | tuple[float, float]] = {}
    for row in table.rows(required=("slide",)):
        columns = ("mpp", "mpp") if "mpp" in table.columns else ("mpp_x", "mpp_y")
        values = tuple(table.number(row, column, low=0, high=100) for column in columns)
        scales[row["slide"]] = (values[0], values[1])
    return scales


def _about_slides(source: SlidesSource, data: str, where: str) -> dict[str, dict[str, str]]:
    if source.slide_csv is None:
        return {}
    table = read_csv(_csv_path(data, source.slide_csv), place=f"{where}.slide_csv")
    return {row["slide"]: row for row in table.rows(required=("slide",))}


def _csv_path(data: str, path: str) -> StoragePath:
    """Relative to ``data``; or one that ships with histodiff."""
    beside = joined(data, path)
    shipped = shipped_configs() / path.removeprefix("configs/")
    return beside if beside.exists() or not shipped.is_file() else storage_path(shipped)


def _pair(scale: float | tuple[float, float] | None) -> tuple[float, float] | None:
    return (scale, scale) if isinstance(scale, float) else scale


def _image_sets(source: PatchSetSource, data: str, where: str, number: int) -> list[ImageSet]:
    if isinstance(source, CsvSource):
        folder, images = _listed_images(source, data, where)
    elif isinstance(source, ImageFolderSource):
        folder, images = _folder_images(source, data, where)
    else:
        folder, images = _array_images(source, data, where)
    if not images:
        raise ConfigError(f"{where}: {folder} has no images; check `path` and `label_map`")
    repeated = [path for path, count in Counter(item.path for item in images).items() if count > 1]
    if repeated:
        raise ConfigError(f"{where}: {repeated[0]} is listed more than once; remove the other rows")
    images.sort(key=lambda image: (image.slide_id, image.path))
    return [
        ImageSet(
            name=f"source{number:02d}-{part:06d}",
            url=str(folder),
            mpp=None if source.mpp == "unknown" else source.mpp,
            fit=source.fit,
            images=tuple(images[start : start + IMAGES_PER_UNIT]),
        )
        for part, start in enumerate(range(0, len(images), IMAGES_PER_UNIT))
    ]


def _listed_images(
    source: CsvSource, data: str, where: str
) -> tuple[StoragePath, list[ImageInput]]:
    path = joined(data, source.path)
    if not path.name.lower().endswith((".csv", ".tsv")):
        path = path / "patches.csv"
    table = read_csv(path, place=f"{where}.path")
    columns = source.columns
    named = (columns.path, columns.label, columns.slide_id, columns.patient_id, columns.site)
    folder = path.parent
    sizes = file_sizes(folder)
    images = []
    for row in table.rows(required=[column for column in named if column is not None]):
        image = row[columns.path]
        parsed = _parsed(source.identifiers, image, where)
        label = row[columns.label] if columns.label else None
        if parsed and source.labels == "identifiers":
            label = parsed.label
        if label is not None and source.label_map:
            label = _mapped(label, source, where)
            if label is None:
                continue
        own_id = parsed.slide_id if parsed else _own_id(image)
        slide_id = source.prefix + (row[columns.slide_id] if columns.slide_id else own_id)
        own_patient = parsed.patient_id if parsed else slide_id
        images.append(
            ImageInput(
                path=image,
                slide_id=slide_id,
                patient_id=row[columns.patient_id] if columns.patient_id else own_patient,
                site=row[columns.site] if columns.site else parsed.site if parsed else None,
                label=label or None,
                size_bytes=_listed_size(sizes, image, table),
            )
        )
    return folder, images


def _listed_size(sizes: dict[str, int], image: str, table: CsvTable) -> int:
    if image not in sizes:
        raise ConfigError(
            f"{table.path}: lists '{image}', which is not there; paths are relative to the CSV"
        )
    return sizes[image]


def _folder_images(
    source: ImageFolderSource, data: str, where: str
) -> tuple[StoragePath, list[ImageInput]]:
    folder = joined(data, source.path)
    images = []
    for name, size in _files(folder, IMAGE_SUFFIXES, where, "images").items():
        parents = PurePosixPath(name).parent.as_posix()
        parsed = _parsed(source.identifiers, name, where)
        label = name.split("/")[0] if source.labels == "folder" else None
        if parsed and source.labels == "identifiers":
            label = parsed.label
        if source.labels == "folder" and "/" not in name:
            raise ConfigError(
                f"{where}.labels: {folder / name} lies in no sub-folder; use labels: none"
            )
        if label is not None and source.label_map:
            label = _mapped(label, source, where)
            if label is None:
                continue
        own_id = _own_id(name) if source.slides == "image" else parents
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
    return folder, images


def _array_images(
    source: ArraySource, data: str, where: str
) -> tuple[StoragePath, list[ImageInput]]:
    folder, patches = array_patches(source, joined(data, source.path), where=where)
    images = []
    given: dict[str, str | None] = {}
    for patch in patches:
        label = patch.label
        if label is not None and source.label_map:
            label = _mapped(label, source, where)
            if label is None:
                continue
        slide_id = source.prefix + patch.slide_id
        if given.setdefault(slide_id, patch.given_split) != patch.given_split:
            raise ConfigError(
                f"{where}.splits: slide '{slide_id}' is in the given splits {given[slide_id]} and"
                f" {patch.given_split}; set splits: own"
            )
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


def _parsed(rule: IdentifierRule | None, name: str, where: str) -> ParsedIdentifier | None:
    if rule is None:
        return None
    try:
        return parse_identifier(rule, name)
    except ConfigError as error:
        raise ConfigError(f"{where}.identifiers: {error}") from error


def _mapped(label: str, source: PatchSetSource, where: str) -> str | None:
    if label not in source.label_map:
        raise ConfigError(
            f"{where}.label_map: has no '{label}'; add it, with null to leave those patches out"
        )
    return source.label_map[label]


def _own_id(path: str) -> str:
    return path.removesuffix(PurePosixPath(path).suffix)


def _is_file(path: StoragePath, suffixes: tuple[str, ...]) -> bool:
    """Whether the path is one file; of a web address its ending decides."""
    if is_http(path):
        return path.name.lower().endswith(suffixes)
    return bool(path.fs.isfile(path.path))


def _below(root: StoragePath, name: str) -> str:
    """URL of a file below ``root``."""
    return str(root / (quote(name) if is_http(root) else name))


def _files(
    root: StoragePath, suffixes: tuple[str, ...], where: str, what: str, *, recursive: bool = True
) -> dict[str, int]:
    """Sizes of the files with these endings below ``root``, by relative path, sorted."""
    try:
        if _is_file(root, suffixes):
            return {unquote(root.name) if is_http(root) else root.name: file_size(root)}
        if not is_http(root) and not root.fs.exists(root.path):
            raise FileNotFoundError(root)
        sizes = file_sizes(root, suffixes=suffixes, recursive=recursive)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{where}.path: {root} does not exist; set `data` or `path` to the {what}"
        ) from error
    except (PermissionError, TransientError) as error:
        raise ConfigError(
            f"{where}.path: {root} cannot be listed ({error}); check its address and permissions"
        ) from error
    found = {
        name: size for name, size in sizes.items() if not PurePosixPath(name).name.startswith(".")
    }
    if not found:
        raise ConfigError(
            f"{where}.path: {root} has no {what} ({', '.join(suffixes)}); set `data` or `path`"
            f" to a folder with {what}"
        )
    return found
