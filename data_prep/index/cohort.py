"""What happened to the slides of a PatchIndex, as facts for people, and small pictures of them.

The table of slides is taken whole, one row each. Patches are read as a stream of tables and
only counted, so an index of any size takes the memory of one partition.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from histodiff.data_prep.index.histograms import Histogram, HistogramStream, histogram_of
from histodiff.data_prep.index.splits import SPLITS

THUMBNAIL_PX = 160
THUMBNAIL_BYTES = 5_500
"""A page of 1,000 slides shall stay small enough to be sent by mail."""
_QUALITIES = (80, 70, 60, 50, 40, 30, 20)
SLIDE_SCALES = ("tissue_fraction", "num_patches", "mpp_x")
"""Columns of slides of which there is a histogram; of ``mpp_x``, of its binary logarithm."""
PATCH_SCALES = ("sharpness", "pen_fraction", "white_fraction")
"""Columns of patches of which there is a histogram."""
_KEYS = ["slide_id", "split", "label"]
_NO_PATCHES = pa.schema(
    [*((key, pa.string()) for key in _KEYS), ("sharpness", pa.float64())]
).empty_table()


@dataclass(frozen=True)
class DuplicateGroup:
    """Slides that show the same tissue."""

    slides: tuple[str, ...]
    reason: str
    """How that is known, such as ``same file``; one line for people."""


@dataclass(frozen=True)
class CohortFacts:
    """All that the cohort page says, but for the pictures."""

    name: str
    """Name of the index, such as ``breast@v1``."""
    mpp: float | None
    """Wanted microns per pixel, None for mixed or unknown."""
    patch_px: int
    slides: Any
    """Table of slides, with columns from their patches: ``split``, ``label`` (the most frequent
    first), ``sharpness`` (mean)."""
    patches_by_split: Mapping[str, int]
    patches_by_class: Mapping[str, int]
    slide_histograms: Mapping[str, Histogram]
    """By column, see `SLIDE_SCALES`; slides that are used, and of ``mpp_x`` all that state one."""
    patch_histograms: Mapping[str, Histogram]
    """By column, see `PATCH_SCALES`."""
    duplicates: tuple[DuplicateGroup, ...] = ()


def cohort_facts(
    slides: Any,
    patches: Iterable[Any],
    *,
    name: str,
    mpp: float | None,
    patch_px: int,
    duplicates: Sequence[DuplicateGroup] = (),
) -> CohortFacts:
    """The facts of one index.

    Args:
        slides: The table of slides.
        patches: Tables of patches, taken one at a time; how they are cut does not matter.
        name: Name of the index.
        mpp: Wanted microns per pixel.
        patch_px: Side of a patch.
        duplicates: Groups of slides that show the same tissue.
    """
    streams = {column: HistogramStream() for column in PATCH_SCALES}
    totals = _totals(_NO_PATCHES)
    for part in patches:
        for column, stream in streams.items():
            for chunk in part[column].chunks:
                stream.add(_numbers(chunk))
        totals = _added(totals, part)
    by_split = _counts(totals, "split")
    return CohortFacts(
        name=name,
        mpp=mpp,
        patch_px=patch_px,
        slides=_with_patch_columns(slides, totals),
        patches_by_split=dict(sorted(by_split.items(), key=lambda item: _split_place(item[0]))),
        patches_by_class=_counts(totals, "label"),
        slide_histograms=_slide_histograms(slides),
        patch_histograms={column: stream.histogram() for column, stream in streams.items()},
        duplicates=tuple(duplicates),
    )


def overlay_thumbnail(png: bytes) -> bytes:
    """A WebP of at most 160 px and about 5 KB from an overlay picture, whatever it shows."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX, reducing_gap=None)
    for quality in _QUALITIES:
        sink = io.BytesIO()
        image.save(sink, "WEBP", quality=quality, method=4)
        if sink.tell() <= THUMBNAIL_BYTES:
            break
    return sink.getvalue()


def _totals(patches: Any) -> Any:
    """Number of patches, and sum and number of sharpnesses, by slide, split and label."""
    return (
        patches.select([*_KEYS, "sharpness"])
        .group_by(_KEYS, use_threads=False)
        .aggregate([([], "count_all"), ("sharpness", "sum"), ("sharpness", "count")])
        .rename_columns([*_KEYS, "num", "sharpness", "num_sharp"])
    )


def _added(totals: Any, part: Any) -> Any:
    both = pa.concat_tables([totals, _totals(part)])
    columns = ["num", "sharpness", "num_sharp"]
    return (
        both.group_by(_KEYS, use_threads=False)
        .aggregate([(column, "sum") for column in columns])
        .rename_columns([*_KEYS, *columns])
    )


def _counts(totals: Any, key: str) -> dict[str, int]:
    """Patches by split or label, null left out, sorted by name."""
    summed = totals.group_by(key).aggregate([("num", "sum")])
    pairs = zip(summed[key].to_pylist(), summed["num_sum"].to_pylist(), strict=True)
    return dict(sorted((value, count) for value, count in pairs if value is not None))


def _split_place(name: str) -> tuple[int, str]:
    """Train, validation and test in this order, then others by name."""
    return (SPLITS.index(name) if name in SPLITS else len(SPLITS), name)


def _with_patch_columns(slides: Any, totals: Any) -> Any:
    found: dict[str, list[dict[str, Any]]] = {}
    ordered = totals.sort_by([("num", "descending"), ("label", "ascending")])
    for row in ordered.to_pylist():
        found.setdefault(row["slide_id"], []).append(row)
    rows = [found.get(slide_id, []) for slide_id in slides["slide_id"].to_pylist()]
    for key in ("split", "label"):
        slides = slides.append_column(key, pa.array([_joined(own, key) for own in rows]))
    return slides.append_column("sharpness", pa.array([_mean(own) for own in rows], pa.float64()))


def _joined(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    """Distinct values of the groups of one slide; usually one."""
    return ", ".join(dict.fromkeys(row[key] for row in rows if row[key] is not None))


def _mean(rows: Sequence[Mapping[str, Any]]) -> float | None:
    count = sum(row["num_sharp"] for row in rows)
    return sum(row["sharpness"] or 0.0 for row in rows) / count if count else None


def _slide_histograms(slides: Any) -> dict[str, Histogram]:
    used = slides.filter(pc.equal(slides["status"], "ok"))
    scale = _numbers(slides["mpp_x"])
    result = {
        column: histogram_of(_numbers(used[column])) for column in SLIDE_SCALES if column != "mpp_x"
    }
    return result | {"mpp_x": histogram_of(np.log2(scale[scale > 0]))}


def _numbers(column: Any) -> npt.NDArray[np.float64]:
    """Values of a column or a chunk that are not null."""
    values = pc.cast(column.drop_null(), pa.float64()).to_numpy(zero_copy_only=False)
    return np.asarray(values, dtype=np.float64)
