"""The slides of a source: files, with scales, patients, labels and companions from tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from histodiff.data_prep.readers.opening import SLIDE_SUFFIXES
from histodiff.data_prep.sources.companions import (
    Companion,
    CompanionKind,
    companion_files,
    companion_names,
)
from histodiff.data_prep.sources.dicom_series import joined_series
from histodiff.data_prep.sources.inputs import FoundTrap, SlideInput
from histodiff.data_prep.sources.listing import files_below, is_file, joined, parsed_name, url_below
from histodiff.data_prep.sources.slide_matches import Matches, SlideName, WithoutEntry
from histodiff.data_prep.sources.slide_tables import (
    AboutSlides,
    GivenScales,
    about_slides,
    given_scales,
)
from histodiff.data_prep.sources.sources import (
    SlidesSource,
)
from histodiff.errors import ConfigError
from histodiff.storage import storage_path


@dataclass(frozen=True)
class FoundSlides:
    """The slides of one source, and how its tables and folders fit them."""

    slides: Sequence[SlideInput]
    matches: Sequence[Matches]
    traps: Sequence[FoundTrap]
    """What of its folder is left out."""


@dataclass(frozen=True)
class _Companions:
    """The files of one kind."""

    kind: CompanionKind
    files: Mapping[str, Companion]
    matches: Matches


def slides_of(source: SlidesSource, data: str, where: str) -> FoundSlides:
    """The slides of one source.

    Args:
        source: Of slides.
        data: What its paths are relative to.
        where: Its place in the config, for errors.

    Raises:
        ConfigError: There are none, or a table cannot be read.
    """
    root = joined(data, source.path)
    listed = files_below(
        root, SLIDE_SUFFIXES, where, "slides", recursive=source.recursive, pattern=source.pattern
    )
    single = is_file(root, SLIDE_SUFFIXES)
    paths = {file: root if single else storage_path(url_below(root, file)) for file in listed.sizes}
    series = joined_series(paths, where=f"{where}.path")
    files = {file: listed.sizes[file] for file in series.levels}
    if not files:
        raise ConfigError(f"{where}.path: {root} has no slides; {'; '.join(series.left_out)}")
    names = {file: _name_of(source, file) for file in files}
    slides = list(names.values())
    scales = given_scales(source, data, slides, where)
    about = about_slides(source, data, slides, where)
    companions = _companions(source, data, slides, where)
    found = [
        _slide(
            source, names[file], str(paths[file]), size,
            scales=scales, about=about, companions=companions, where=where,
            levels=tuple(
                Companion(str(paths[each]), listed.sizes[each]) for each in series.levels[file]
            ),
        )
        for file, size in files.items()
    ]  # fmt: skip
    matches = [*scales.matches, *about.matches, *(item.matches for item in companions)]
    left_out = replace(listed, left_out=(*listed.left_out, *series.left_out))
    return FoundSlides(found, matches, left_out.traps(source.path))


def slide_stem(name: str) -> str:
    """The file name without its ending (``.ome.tif`` is one ending)."""
    stem = PurePosixPath(name).name
    stem = stem[: -len(PurePosixPath(stem).suffix)]
    return stem.removesuffix(".ome")


def _name_of(source: SlidesSource, file: str) -> SlideName:
    stem = slide_stem(file)
    return SlideName(source.prefix + stem, stem, PurePosixPath(file).name)


def _slide(
    source: SlidesSource,
    name: SlideName,
    url: str,
    size_bytes: int,
    *,
    scales: GivenScales,
    about: AboutSlides,
    companions: Sequence[_Companions],
    levels: tuple[Companion, ...],
    where: str,
) -> SlideInput:
    slide_id = name.slide_id
    scale = scales.of(slide_id)
    row = about.of(slide_id)
    parsed = parsed_name(source.identifiers, name.file, where)
    return SlideInput(
        slide_id=slide_id,
        patient_id=row.patient_id or (parsed.patient_id if parsed else slide_id),
        site=row.site or (parsed.site if parsed else None),
        label=row.label or None,
        url=url,
        size_bytes=size_bytes,
        given_mpp=scale.mpp,
        mpp_is_default=scale.is_default,
        mpp_from=scale.source,
        companions={
            item.kind: item.files[item.matches.name_of[slide_id]]
            for item in companions
            if slide_id in item.matches.name_of
        },
        min_coverage=source.min_coverage,
        levels=levels,
    )


def _companions(
    source: SlidesSource, data: str, slides: Sequence[SlideName], where: str
) -> list[_Companions]:
    folders = {
        CompanionKind.MASK: source.masks,
        CompanionKind.ANNOTATIONS: source.annotations,
        CompanionKind.COORDINATES: source.coordinates,
    }
    without: dict[CompanionKind, WithoutEntry] = {
        CompanionKind.MASK: "fine",
        CompanionKind.ANNOTATIONS: source.unlisted_slides,
        CompanionKind.COORDINATES: "never",
    }
    found = []
    for kind, path in folders.items():
        if path is None:
            continue
        folder = joined(data, path)
        files = companion_files(folder, kind, where=f"{where}.{kind}")
        matches = Matches(
            table=f"{where}.{kind}: {folder}",
            source=where,
            noun="file",
            entries=dict.fromkeys(files, ""),
            slides={
                slide.slide_id: companion_names(kind, slide_id=slide.slide_id, stem=slide.stem)
                for slide in slides
            },
            leaves_out_rows=source.unmatched_rows == "leave_out",
            without=without[kind],
        )
        found.append(_Companions(kind, files, matches))
    return found
