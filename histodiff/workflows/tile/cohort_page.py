"""The cohort page: one HTML file that shows what happened to every slide of a PatchIndex.

Everything is in the file: pictures, values, a short script that sorts and filters rows which are
already there. Without the script the page still says it all, and prints. Nothing is loaded; a
policy in the page forbids it.
"""

import base64
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from histodiff.data_prep.index.cohort import CohortFacts, DuplicateGroup
from histodiff.data_prep.index.patch_index import file_name_of
from histodiff.data_prep.sources.inputs import FoundTrap
from histodiff.workflows.tile.cohort_advice import (
    MPP_PLACEHOLDER,
    OK,
    REJECTIONS,
    Slide,
    advice,
    is_failure,
    kind,
    rejected,
    status_words,
)
from histodiff.workflows.tile.cohort_charts import Chart, histogram_svg
from histodiff.workflows.tile.cohort_rows import (
    HEADINGS,
    filters,
    script_data,
    shown_slides,
    size_mm,
)

MAX_GROUPS = 100
"""Groups of duplicates that are shown."""
MAX_SHEETS = 60
"""Contact sheets of patch sets that are shown."""
MAX_EXAMPLES = 200
"""Slides named for one piece of advice."""


@dataclass(frozen=True)
class ShownGroup:
    """A group of duplicates with what is wrong about it."""

    members: tuple[tuple[str, str, str], ...]
    """Slide, patient and split of each."""
    reason: str
    problem: str
    """Empty where the group does no harm."""


@dataclass(frozen=True)
class ShownChart:
    """A histogram as a picture."""

    chart: Chart
    svg: str
    total: int
    zeros: int
    """Values that are told in words and not drawn."""


def cohort_page(
    facts: CohortFacts, thumbnails: Mapping[str, bytes], traps: Sequence[FoundTrap] = ()
) -> str:
    """The page as HTML, to be written beside the folder ``overlays``.

    Args:
        facts: What is known of the slides.
        thumbnails: WebP pictures by slide id, see ``overlay_thumbnail``. Other keys are contact
            sheets of patch sets. Each is linked to ``overlays/<key>.png``.
        traps: What is known to mislead about the data.
    """
    slides = facts.slides.to_pylist()
    by_id = {slide["slide_id"]: slide for slide in slides}
    shown = shown_slides(slides)
    found = filters(slides)
    sheets = sorted(key for key in thumbnails if key not in by_id)[:MAX_SHEETS]
    pictured = [*(slide["slide_id"] for slide in shown), *sheets]
    page = {
        "facts": facts,
        "summary": _summary(slides),
        "traps": traps,
        "filters": found,
        "advice": advice(slides, mpp=facts.mpp, patch_px=facts.patch_px),
        "charts": _charts(facts),
        "groups": [_group(group, by_id) for group in facts.duplicates[:MAX_GROUPS]],
        "num_groups": len(facts.duplicates),
        "slides": shown,
        "slides_left_out": len(slides) - len(shown),
        "sheets": sheets,
        "uris": {key: _uri(thumbnails[key]) for key in pictured if key in thumbnails},
    }
    return _environment().get_template("cohort.html.j2").render(
        page=page, headings=HEADINGS, data=script_data(shown, [item for item, _ in found]),
        placeholder=MPP_PLACEHOLDER, max_examples=MAX_EXAMPLES, rejections=REJECTIONS,
    )  # fmt: skip


def overlay_href(key: str) -> str:
    """Address of an overlay picture relative to the page."""
    return f"overlays/{quote(file_name_of(key))}.png"


def file_size(num_bytes: int | None) -> str:
    """A size as people read it."""
    if not num_bytes:
        return ""
    power = min(4, int(math.log(num_bytes, 1000)))
    return f"{num_bytes / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _summary(slides: Sequence[Slide]) -> dict[str, Any]:
    used = [slide for slide in slides if slide["status"] == OK]
    return {
        "slides": len(slides),
        "used": len(used),
        "failed": sum(is_failure(slide["status"]) for slide in slides),
        "patients": len({slide["patient_id"] for slide in used if slide["patient_id"]}),
        "sites": len({slide["site"] for slide in used if slide["site"]}),
        "patches": sum(slide["num_patches"] or 0 for slide in used),
        "rejected": sum(rejected(slide) for slide in slides),
        "tissue_mm2": sum(slide["tissue_mm2"] or 0.0 for slide in used),
        "slides_by_split": Counter(slide["split"] for slide in used if slide["split"]),
    }


def _charts(facts: CohortFacts) -> list[ShownChart]:
    """Every histogram that has something to show."""
    found = []
    for column, chart in _chart_table(facts.mpp).items():
        histograms = facts.slide_histograms if chart.of == "slides" else facts.patch_histograms
        histogram = histograms[column]
        if histogram.total:
            zeros = histogram.zeros if chart.zeros_apart else 0
            svg = histogram_svg(histogram, chart)
            found.append(ShownChart(chart, svg, histogram.total, zeros))
    return found


def _chart_table(mpp: float | None) -> dict[str, Chart]:
    return {
        "tissue_fraction": Chart("Tissue on the slide", "part of the picture", "slides", True),
        "num_patches": Chart("Patches of a slide", "patches", "slides"),
        "mpp_x": Chart(
            "Scale of the slides", "\u00b5m/px as stated", "slides", octaves=True, mark=mpp
        ),
        "sharpness": Chart("Sharpness", "the higher, the sharper", "patches"),
        "pen_fraction": Chart("Pen", "part of the patch", "patches", True, zeros_apart=True),
        "white_fraction": Chart("White", "part of the patch", "patches", True, zeros_apart=True),
    }


def _group(group: DuplicateGroup, by_id: Mapping[str, Slide]) -> ShownGroup:
    members = tuple(_member(key, by_id.get(key)) for key in group.slides)
    return ShownGroup(members, group.reason, _problem(members))


def _member(key: str, slide: Slide | None) -> tuple[str, str, str]:
    return (key, slide["patient_id"] or "", slide["split"] or "") if slide else (key, "", "")


def _problem(members: Sequence[tuple[str, str, str]]) -> str:
    splits = sorted({split for _, _, split in members if split})
    if len(splits) > 1:
        return f"The same tissue is in {' and '.join(splits)}: results would look too good."
    if len({patient for _, patient, _ in members if patient}) > 1:
        return "Different patients are named for the same tissue."
    return ""


def _uri(data: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("histodiff.workflows.tile", "."), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        href=overlay_href, size_mm=size_mm, file_size=file_size, status_words=status_words,
        kind=kind, rejected=rejected, thousands=lambda value: f"{value:,}",
    )  # fmt: skip
    return environment
