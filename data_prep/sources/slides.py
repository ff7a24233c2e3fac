"""The slides of a source: files, with scales, patients, labels and companions from tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from histodiff.config.loader import shipped_configs
from histodiff.data_prep.readers.opening import SLIDE_SUFFIXES
from histodiff.data_prep.sources.companions import (
    Companion,
    CompanionKind,
    find_companions,
)
from histodiff.data_prep.sources.csv_files import read_csv
from histodiff.data_prep.sources.inputs import FoundTrap, SlideInput
from histodiff.data_prep.sources.listing import files_below, is_file, joined, parsed_name, url_below
from histodiff.data_prep.sources.sources import (
    SlidesSource,
)
from histodiff.storage import StoragePath, storage_path

_EVERY_OTHER = "*"


@dataclass(frozen=True)
class FoundSlides:
    """The slides of one source."""

    slides: tuple[SlideInput, ...]
    traps: tuple[FoundTrap, ...]
    """What of its folder is left out."""


def slides_of(source: SlidesSource, data: str, where: str) -> FoundSlides:
    """The slides of one source.

    Args:
        source: Of slides.
        data: What its paths are relative to.
        where: Its place in the config, for errors.

    Raises:
        ConfigError: There are none, or a table does not fit.
    """
    root = joined(data, source.path)
    listed_files = files_below(
        root, SLIDE_SUFFIXES, where, "slides", recursive=source.recursive, pattern=source.pattern
    )
    files = listed_files.sizes
    listed = _scales(source, data, where)
    scales = dict(source.scale) | listed
    about = _about_slides(source, data, where)
    companions = _companions(source, data, [slide_stem(name) for name in files], where)
    single = is_file(root, SLIDE_SUFFIXES)
    found = []
    for name, size in files.items():
        stem = slide_stem(name)
        keys = (source.prefix + stem, stem, PurePosixPath(name).name)
        row = next((about[key] for key in keys if key in about), {})
        given = next((scales[key] for key in keys if key in scales), None)
        mpp_from = "scale_csv" if any(key in listed for key in keys) else "config"
        slide_id = source.prefix + stem
        default = scales.get(_EVERY_OTHER) if given is None else None
        parsed = parsed_name(source.identifiers, name, where)
        found.append(
            SlideInput(
                slide_id=slide_id,
                patient_id=row.get("patient_id") or (parsed.patient_id if parsed else slide_id),
                site=row.get("site") or (parsed.site if parsed else None),
                label=row.get("label") or None,
                url=str(root) if single else url_below(root, name),
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
    return FoundSlides(tuple(found), listed_files.traps(source.path))


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
