"""What tables say about slides: scales, and patients, sites and labels, by slide."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from histodiff.config.loader import shipped_configs
from histodiff.data_prep.sources.csv_files import CsvTable, Row, read_csv
from histodiff.data_prep.sources.listing import joined
from histodiff.data_prep.sources.slide_matches import Matches, SlideName
from histodiff.data_prep.sources.sources import SlidesSource
from histodiff.data_prep.sources.spelling import (
    Spelled,
    composed,
    id_key,
    label_key,
    require_one_spelling,
    shown,
)
from histodiff.errors import ConfigError
from histodiff.storage import StoragePath, storage_path

MppXY = tuple[float, float]
_EVERY_OTHER = "*"
_MAX_MPP = 100.0
_ABOUT = ("patient_id", "site", "label")


@dataclass(frozen=True)
class GivenScale:
    """The scale that config or table gives one slide."""

    mpp: MppXY | None
    is_default: bool
    """Whether it stands back behind the slide's own scale."""
    source: str
    """``config`` or ``scale_csv``."""


@dataclass(frozen=True)
class AboutSlide:
    """What ``slide_csv`` says of one slide; empty where it says nothing."""

    patient_id: str = ""
    site: str = ""
    label: str = ""


@dataclass(frozen=True)
class GivenScales:
    """Scales by slide id."""

    scales: Mapping[str, GivenScale]
    default: GivenScale
    matches: Sequence[Matches]

    def of(self, slide_id: str) -> GivenScale:
        """The slide's scale, or the one that is for all that have none."""
        return self.scales.get(slide_id, self.default)


@dataclass(frozen=True)
class AboutSlides:
    """Rows by slide id."""

    rows: Mapping[str, AboutSlide] = field(default_factory=dict)
    matches: Sequence[Matches] = ()

    def of(self, slide_id: str) -> AboutSlide:
        """What is said of the slide."""
        return self.rows.get(slide_id, AboutSlide())


def given_scales(
    source: SlidesSource, data: str, slides: Sequence[SlideName], where: str
) -> GivenScales:
    """The scales of ``scale`` and ``scale_csv``.

    Raises:
        ConfigError: The table cannot be read, or a slide has two scales.
    """
    listed, lines, path = _listed_scales(source, data, where)
    stated = {name: (mpp, mpp) for name, mpp in source.scale.items()}
    tables = [
        (f"{where}.scale", stated, dict.fromkeys(stated, ""), "config"),
        (str(path), listed, lines, "scale_csv"),
    ]
    found: dict[str, GivenScale] = {}
    default = GivenScale(None, True, "config")
    matches = []
    for table, scales, places, given_by in tables:
        if _EVERY_OTHER in scales:
            default = GivenScale(scales[_EVERY_OTHER], True, given_by)
        entries = {name: places[name] for name in scales if name != _EVERY_OTHER}
        if not entries:
            continue
        match = _matches(table, source, slides, entries, where, without="fine")
        matches.append(match)
        for slide_id, name in match.name_of.items():
            other = found.get(slide_id)
            if other is not None and other.mpp != scales[name]:
                raise ConfigError(
                    f"{where}: slide '{shown(slide_id)}' has one scale in `scale` and another in"
                    f" {table}: {places[name]}; remove one"
                )
            found[slide_id] = GivenScale(scales[name], False, given_by)
    return GivenScales(found, default, matches)


def about_slides(
    source: SlidesSource, data: str, slides: Sequence[SlideName], where: str
) -> AboutSlides:
    """Patients, sites and labels of ``slide_csv``.

    Raises:
        ConfigError: The table cannot be read, has none of these columns, lists a slide twice, has
            no patient for one, or spells something in two ways.
    """
    if source.slide_csv is None:
        return AboutSlides()
    table = read_csv(_csv_path(data, source.slide_csv), place=f"{where}.slide_csv")
    rows = _by_name(table)
    known = _known_columns(table)
    needs_patient = source.unlisted_slides == "refuse" and source.identifiers is None
    about: dict[str, AboutSlide] = {}
    for name, (_, row) in rows.items():
        about[name] = AboutSlide(**{column: table.value(row, column) for column in known})
        if "patient_id" in known and needs_patient and not about[name].patient_id:
            raise ConfigError(
                f"{table.at(row)}: patient_id is empty; give it, or set {where}.unlisted_slides:"
                " take, and such a slide is its own patient"
            )
    for column in known:
        require_one_spelling(
            [Spelled(row[column], row) for _, row in rows.values() if row[column]],
            key=id_key if column == "patient_id" else label_key,
            what=column,
            at=table.at,
        )
    lines = {name: f"line {line}" for name, (line, _) in rows.items()}
    without = source.unlisted_slides
    match = _matches(str(table.path), source, slides, lines, where, without=without)
    return AboutSlides({slide: about[name] for slide, name in match.name_of.items()}, [match])


def _listed_scales(
    source: SlidesSource, data: str, where: str
) -> tuple[dict[str, MppXY], dict[str, str], str]:
    """Scales of ``scale_csv`` by the name of the slide, their lines, and its path."""
    if source.scale_csv is None:
        return {}, {}, ""
    table = read_csv(_csv_path(data, source.scale_csv), place=f"{where}.scale_csv")
    columns = ("mpp", "mpp") if "mpp" in table.columns else ("mpp_x", "mpp_y")
    for column in columns:
        table.require_column(column if len(table.columns) > 1 else "mpp")
    if "mpp" in table.columns and "mpp_x" in table.columns:
        raise ConfigError(f"{table.path}: has both mpp and mpp_x; remove one of the columns")
    scales, lines = {}, {}
    for name, (line, row) in _by_name(table).items():
        x, y = (table.number(row, column, low=0, high=_MAX_MPP) for column in columns)
        scales[name] = (x, y)
        lines[name] = f"line {line}"
    return scales, lines, str(table.path)


def _by_name(table: CsvTable) -> dict[str, tuple[int, Row]]:
    """Line and row by the name of the slide."""
    found: dict[str, tuple[int, Row]] = {}
    first: dict[str, int] = {}
    for (line, _), row in zip(table.lines, table.rows(required=("slide",)), strict=True):
        name = row["slide"]
        other = first.setdefault(composed(name), line)
        if other != line:
            raise ConfigError(
                f"{table.path}: line {line}: slide '{shown(name)}' is listed twice, first in line"
                f" {other}; remove one of the rows"
            )
        found[name] = (line, row)
    return found


def _known_columns(table: CsvTable) -> list[str]:
    """The columns that are used; another that is almost called so is refused."""
    known = [column for column in _ABOUT if column in table.columns]
    meant = {_loose(column): column for column in _ABOUT}
    for name in table.columns:
        column = meant.get(_loose(name))
        if column is not None and column not in known:
            raise ConfigError(
                f"{table.path}: has a column '{shown(name)}', but no '{column}'; did you mean"
                f" {column}? Rename the column, or remove it"
            )
    if not known:
        listed = ", ".join(map(shown, table.columns[:20]))
        raise ConfigError(
            f"{table.path}: has none of the columns {', '.join(_ABOUT)}; its columns are {listed};"
            " rename them"
        )
    return known


def _loose(column: str) -> str:
    """Equal for names of a column that people take for one."""
    plain = re.sub(r"[^a-z]", "", column.casefold())
    return plain.removesuffix("s").removesuffix("id")


def _matches(
    table: str,
    source: SlidesSource,
    slides: Sequence[SlideName],
    entries: Mapping[str, str],
    where: str,
    *,
    without: Literal["fine", "take", "refuse"],
) -> Matches:
    return Matches(
        table=table,
        source=where,
        noun="row",
        entries=entries,
        slides={slide.slide_id: slide.names for slide in slides},
        leaves_out_rows=source.unmatched_rows == "leave_out",
        without=without,
    )


def _csv_path(data: str, path: str) -> StoragePath:
    """Relative to ``data``; or one that ships with histodiff."""
    beside = joined(data, path)
    shipped = shipped_configs() / path.removeprefix("configs/")
    return beside if beside.exists() or not shipped.is_file() else storage_path(shipped)
