"""Rows of the PatchIndex tables, as plain dictionaries, from what a worker found."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from histodiff.data_prep.index.geometry import ReadPlan, Region
from histodiff.data_prep.index.patch_index import PATCHES_SCHEMA, SLIDES_SCHEMA
from histodiff.data_prep.readers.containers import reader_of
from histodiff.data_prep.readers.image_files import READER_VERSION
from histodiff.data_prep.readers.reader import SlideInfo
from histodiff.data_prep.sources.inputs import ImageInput, ImageSet, SlideInput
from histodiff.data_prep.tissue.quality import PatchScores
from histodiff.errors import SkipReason, SlideError

Row = dict[str, Any]

OBJECTIVE_UM = 10.0
"""Microns per pixel times magnification, nominally."""
OBJECTIVE_TOLERANCE = 0.1
REJECTED_COUNTS = {
    "pen": "num_pen", "blurred": "num_blurred", "black": "num_black", "white": "num_white",
    "unreadable": "num_unreadable",
}  # fmt: skip
"""Column of the table of slides that counts the patches rejected for a reason."""

SCALE_COLUMNS = ("mpp_x", "mpp_y", "mpp_source")


def slide_row(slide: SlideInput) -> Row:
    """The row of a slide of which nothing is known yet but its file."""
    return dict.fromkeys(SLIDES_SCHEMA.names) | {
        "slide_id": slide.slide_id,
        "patient_id": slide.patient_id,
        "site": slide.site,
        "url": slide.url,
        "size_bytes": slide.size_bytes,
        "content_hash": slide.content_hash,
        "mpp_source": "none",
        "status": "ok",
        "reason": "",
        "warning": "",
        "phase": "",
        "num_patches": 0,
        **dict.fromkeys(REJECTED_COUNTS.values(), 0),
    }


def info_columns(info: SlideInfo) -> Row:
    """Columns that a reader knows."""
    return {
        "vendor": info.vendor,
        "width": info.width,
        "height": info.height,
        "mpp_x": info.mpp_x,
        "mpp_y": info.mpp_y,
        "mpp_source": info.mpp_source,
        "objective_power": info.objective_power,
        "bounds_x": info.bounds_x,
        "bounds_y": info.bounds_y,
        "bounds_width": info.bounds_width,
        "bounds_height": info.bounds_height,
        "level_downsamples": list(info.level_downsamples),
        "reader": info.reader,
        "reader_version": info.reader_version,
    }


def scale_columns(slide: SlideInput, info: SlideInfo) -> Row:
    """The scale that counts: given for this slide, else its own, else given for every other.

    Raises:
        SlideError: MISSING_MPP, with the line to add to the scale CSV.
    """
    own_counts = info.mpp_x is not None and (slide.given_mpp is None or slide.mpp_is_default)
    if own_counts:
        return {"mpp_x": info.mpp_x, "mpp_y": info.mpp_y, "mpp_source": info.mpp_source}
    if slide.given_mpp is None:
        raise SlideError(
            SkipReason.MISSING_MPP,
            f"{info.scale_doubt or 'the file states no scale'}; add the line"
            f" '{slide.slide_id},<microns per pixel>' to a CSV with the header 'slide,mpp', and"
            " name it as `scale_csv` of the source",
        )
    return {
        "mpp_x": slide.given_mpp[0],
        "mpp_y": slide.given_mpp[1],
        "mpp_source": slide.mpp_from,
    }


def scale_warning(row: Row) -> str:
    """What contradicts the scale of a slide that is used, or nothing."""
    power, mpp = row["objective_power"], (row["mpp_x"] * row["mpp_y"]) ** 0.5
    if power is None or abs(mpp * power / OBJECTIVE_UM - 1) <= OBJECTIVE_TOLERANCE:
        return ""
    return (
        f"objective {power:g}x stands for about {OBJECTIVE_UM / power:.3g} um/px, but the scale is"
        f" {mpp:.4g} ({row['mpp_source']}), which is used; give another in `scale_csv` if it is"
        " wrong"
    )


def joined_warnings(*warnings: str) -> str:
    """Several warnings of one slide in a line, each once; none is empty."""
    return "; ".join(dict.fromkeys(filter(None, warnings)))


def pages_warning(further: Mapping[str, int]) -> str:
    """What files with more pages than the one that is taken leave out, or nothing.

    Args:
        further: Pages that are not taken, by name of the file.
    """
    stacks = {name: count for name, count in further.items() if count}
    if not stacks:
        return ""
    name, count = next(iter(stacks.items()))
    others = f", as have {len(stacks) - 1} other files" if len(stacks) > 1 else ""
    return (
        f"further pages are left out ({sum(stacks.values())}): {name} has {count} after the"
        f" first{others}; write each page to a file of its own if they belong here"
    )


def slide_patches(
    slide: SlideInput,
    corners: npt.NDArray[np.int64],
    plan: ReadPlan,
    scores: PatchScores,
    *,
    sharpness: npt.NDArray[np.float64],
    labels: Sequence[str | None],
) -> Any:
    """Table of the patches of a slide; corners are level-0 ``(n, 2)``, NaN sharpness is null."""
    count = len(corners)
    columns = {
        "slide_id": pa.repeat(slide.slide_id, count),
        "patient_id": pa.repeat(slide.patient_id, count),
        "path": pa.repeat("", count),
        "x": corners[:, 0],
        "y": corners[:, 1],
        "level": np.full(count, plan.level, np.int32),
        "read_width": np.full(count, plan.read_width, np.int32),
        "read_height": np.full(count, plan.read_height, np.int32),
        "effective_mpp_x": np.full(count, plan.effective_mpp_x),
        "effective_mpp_y": np.full(count, plan.effective_mpp_y),
        "tissue_fraction": np.round(scores.tissue, 4).astype(np.float32),
        "pen_fraction": np.round(scores.pen, 4).astype(np.float32),
        "black_fraction": np.round(scores.black, 4).astype(np.float32),
        "white_fraction": np.round(scores.white, 4).astype(np.float32),
        "label": pa.array(labels, pa.string()),
        "sharpness": pa.array(sharpness.astype(np.float32), from_pandas=True),
    }
    table = {
        field.name: pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.nulls(count, field.type)
        for field in PATCHES_SCHEMA
    }
    return pa.table(table, schema=PATCHES_SCHEMA)


def image_patches(
    image: ImageInput, regions: Sequence[Region], tissue: Sequence[float]
) -> list[Row]:
    """Rows of the patches of one image, with the tissue fraction of each."""
    return [
        dict.fromkeys(PATCHES_SCHEMA.names)
        | {
            "slide_id": image.slide_id,
            "patient_id": image.patient_id,
            "path": image.path,
            "x": region.x,
            "y": region.y,
            "level": 0,
            "read_width": region.width,
            "read_height": region.height,
            "effective_mpp_x": region.effective_mpp,
            "effective_mpp_y": region.effective_mpp,
            "tissue_fraction": round(float(fraction), 4),
            "label": image.label,
            "split": image.given_split,
        }
        for region, fraction in zip(regions, tissue, strict=True)
    ]


def enlargement(unit: ImageSet, rows: Sequence[Row], patch_px: int) -> float:
    """The factor by which the patches of one image are enlarged, 1 where they are not."""
    if unit.fit != "enlarge":
        return 1.0
    smallest: int = min(row["read_width"] for row in rows)
    return max(1.0, patch_px / smallest)


def set_rows(
    unit: ImageSet,
    num_patches: dict[str, int],
    failures: dict[str, SlideError],
    enlarged: dict[str, float],
    further: dict[str, int],
) -> list[Row]:
    """One row for every slide that the images of a unit come from.

    Args:
        unit: The images.
        num_patches: Patches by path of the image.
        failures: What was wrong, by path of the image.
        enlarged: Factor by which its patches are enlarged, by path of the image.
        further: Pages of its file that are not taken, by path of the image.
    """
    members: dict[str, list[ImageInput]] = {}
    for image in unit.images:
        members.setdefault(image.slide_id, []).append(image)
    return [
        _set_row(unit, images, num_patches, failures)
        | {"enlargement": max(enlarged.get(image.path, 1.0) for image in images)}
        | {"warning": pages_warning({image.path: further.get(image.path, 0) for image in images})}
        for images in members.values()
    ]


def merged(rows: Sequence[Row]) -> Row:
    """One row of a slide whose images are spread over units; the rows are of one slide."""
    if len(rows) == 1:
        return dict(rows[0])
    usable = [row for row in rows if row["status"] == "ok"]
    return {
        **(usable or list(rows))[0],
        "size_bytes": sum(row["size_bytes"] for row in rows),
        "num_patches": sum(row["num_patches"] for row in rows),
        "enlargement": max(row["enlargement"] for row in rows),
        "warning": joined_warnings(*(row["warning"] for row in rows)),
        "content_hash": _digest([row["content_hash"] for row in rows]),
    }


def _set_row(
    unit: ImageSet,
    images: Sequence[ImageInput],
    num_patches: dict[str, int],
    failures: dict[str, SlideError],
) -> Row:
    first = images[0]
    total = sum(num_patches.get(image.path, 0) for image in images)
    failed = [failures[image.path] for image in images if image.path in failures]
    row = slide_row(
        SlideInput(
            slide_id=first.slide_id,
            patient_id=first.patient_id,
            site=first.site,
            label=first.label,
            url=unit.url,
            size_bytes=sum(image.size_bytes for image in images),
            given_mpp=None,
            mpp_is_default=True,
            mpp_from="none",
            content_hash=_digest([image.content_hash for image in images]),
        )
    )
    reader, version = reader_of(first.path) or ("pillow", READER_VERSION)
    row |= {
        "vendor": "images",
        "mpp_x": unit.mpp,
        "mpp_y": unit.mpp,
        "mpp_source": "unknown" if unit.mpp is None else "config",
        "fit": unit.fit,
        "reader": reader,
        "reader_version": version,
        "num_patches": total,
    }
    if not total and failed:
        row |= {"status": str(failed[0].reason), "reason": failed[0].detail}
    return row


def _digest(hashes: Sequence[str]) -> str:
    return f"set-sha256:{hashlib.sha256(' '.join(hashes).encode()).hexdigest()}"
