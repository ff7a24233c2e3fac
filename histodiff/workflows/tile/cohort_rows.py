"""The list of slides on the cohort page: its columns, which slides are in it, and its filters."""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from histodiff.workflows.tile.cohort_advice import (
    MOSTLY_REJECTED,
    OK,
    REJECTIONS,
    WARNED,
    Slide,
    is_failure,
    is_mostly_rejected,
    is_warned,
    kind,
    rejected,
    status_words,
)

MAX_SLIDES = 3000
"""Slides in the list; of larger cohorts those with a problem come first."""


@dataclass(frozen=True)
class Column:
    """A value of every slide by which the list can be sorted."""

    key: str
    words: str
    value: Callable[[Slide], Any]


@dataclass(frozen=True)
class Heading:
    """A column of the list, with the values in it."""

    words: str
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Filter:
    """Slides that can be shown alone."""

    key: str
    words: str
    kind: str
    """Class of their colour."""
    holds: Callable[[Slide], bool]


def size_mm(slide: Slide) -> tuple[float, float] | None:
    """Width and height in millimetres where the scale is known."""
    if not slide["width"] or not slide["mpp_x"]:
        return None
    mpp_y = slide["mpp_y"] or slide["mpp_x"]
    return slide["width"] * slide["mpp_x"] / 1000, slide["height"] * mpp_y / 1000


def _longer_side(slide: Slide) -> float | None:
    size = size_mm(slide)
    return max(size) if size else None


def _stored(key: str, words: str) -> Column:
    return Column(key, words, lambda slide: slide[key])


HEADINGS = (
    Heading("Slide", (_stored("slide_id", "slide"), _stored("patient_id", "patient"),
                      _stored("site", "site"))),
    Heading("Outcome", (Column("status", "outcome", lambda slide: status_words(slide["status"])),
                        _stored("reason", "reason"), _stored("warning", "warning"))),
    Heading("Scale", (_stored("mpp_x", "\u00b5m per pixel"), _stored("mpp_source", "source"),
                      _stored("objective_power", "objective"))),
    Heading("Size", (_stored("width", "width, px"), Column("mm", "longer side, mm", _longer_side),
                     _stored("size_bytes", "file size"))),
    Heading("Tissue", (_stored("tissue_fraction", "part"), _stored("tissue_mm2", "area"))),
    Heading("Patches", (_stored("num_patches", "patches"), _stored("sharpness", "sharpness"))),
    Heading("Rejected", (Column("rejected", "all", rejected),
                         *(_stored(f"num_{reason}", reason) for reason in REJECTIONS))),
    Heading("Used for", (_stored("split", "split"), _stored("label", "class"))),
    Heading("Reader", (_stored("reader", "reader"), _stored("vendor", "vendor"))),
)  # fmt: skip
"""The list, left to right."""


def shown_slides(slides: Sequence[Slide]) -> list[Slide]:
    """The slides of the list, in the order of their ids."""
    ranked = sorted(slides, key=lambda slide: (_rank(slide), slide["slide_id"]))
    return sorted(ranked[:MAX_SLIDES], key=lambda slide: _natural(slide["slide_id"]))


def filters(slides: Sequence[Slide]) -> list[tuple[Filter, int]]:
    """Every filter that finds slides, with their number: used first, then by number."""
    counts = Counter(slide["status"] for slide in slides)
    statuses = sorted(counts, key=lambda key: (key != OK, -counts[key], key))
    found = [(_status_filter(key), counts[key]) for key in statuses]
    for item in (
        Filter(WARNED, "with a warning", "look", is_warned),
        Filter(MOSTLY_REJECTED, "mostly rejected", "look", is_mostly_rejected),
    ):
        count = sum(map(item.holds, slides))
        if count:
            found.append((item, count))
    return found


def script_data(slides: Sequence[Slide], items: Sequence[Filter]) -> dict[str, Any]:
    """What the script sorts by, as columns, and the rows that every filter shows."""
    columns = [column for heading in HEADINGS for column in heading.columns]
    return {
        "columns": {
            column.key: [_jsonable(column.value(slide)) for slide in slides] for column in columns
        },
        "filters": {
            item.key: [place for place, slide in enumerate(slides) if item.holds(slide)]
            for item in items
        },
    }


def _status_filter(status: str) -> Filter:
    return Filter(
        status, status_words(status), kind(status), lambda slide: bool(slide["status"] == status)
    )


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sorts numbers in a text as numbers, as the script does."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", text)
    ]


def _rank(slide: Slide) -> int:
    """Failures first, then what is left out, then what is to be looked at."""
    if slide["status"] != OK:
        return 0 if is_failure(slide["status"]) else 1
    return 2 if is_warned(slide) or is_mostly_rejected(slide) else 3


def _jsonable(value: Any) -> Any:
    """Rounded, so that the page stays small; what is not a number is null, as in JSON."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
