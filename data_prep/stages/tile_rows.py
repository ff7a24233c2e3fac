"""Rows of the PatchIndex tables, as plain dictionaries, from what a worker found."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from histodiff.data_prep.slides.containers import reader_of
from histodiff.data_prep.slides.geometry import ReadPlan, Region
from histodiff.data_prep.slides.inputs import ImageInput, ImageSet, SlideInput
from histodiff.data_prep.slides.patch_index import SLIDES_SCHEMA
from histodiff.data_prep.slides.pixels import READER_VERSION
from histodiff.data_prep.slides.readers import SlideInfo
from histodiff.errors import SkipReason, SlideError

Row = dict[str, Any]


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
        "num_patches": 0,
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
        "bounds_x": info.bounds_x,
        "bounds_y": info.bounds_y,
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
            f"the file states no scale; add the line '{slide.slide_id},<microns per pixel>' to a"
            " CSV with the header 'slide,mpp', and name it as `scale_csv` of the source",
        )
    return {"mpp_x": slide.given_mpp[0], "mpp_y": slide.given_mpp[1], "mpp_source": "config"}


def slide_patches(
    slide: SlideInput,
    corners: npt.NDArray[np.int64],
    plan: ReadPlan,
    tissue: npt.NDArray[np.float64],
) -> list[Row]:
    """Rows of the patches of a slide; corners are level-0 ``(n, 2)``, tissue is ``(n,)``."""
    return [
        {
            "slide_id": slide.slide_id,
            "patient_id": slide.patient_id,
            "path": "",
            "x": int(x),
            "y": int(y),
            "level": plan.level,
            "read_px": plan.read_px,
            "effective_mpp": plan.effective_mpp,
            "tissue_fraction": round(float(fraction), 4),
            "label": slide.label,
            "split": None,
        }
        for (x, y), fraction in zip(corners, tissue, strict=True)
    ]


def image_patches(
    image: ImageInput, regions: Sequence[Region], tissue: Sequence[float]
) -> list[Row]:
    """Rows of the patches of one image, with the tissue fraction of each."""
    return [
        {
            "slide_id": image.slide_id,
            "patient_id": image.patient_id,
            "path": image.path,
            "x": region.x,
            "y": region.y,
            "level": 0,
            "read_px": region.read_px,
            "effective_mpp": region.effective_mpp,
            "tissue_fraction": round(float(fraction), 4),
            "label": image.label,
            "split": image.given_split,
        }
        for region, fraction in zip(regions, tissue, strict=True)
    ]


def set_rows(
    unit: ImageSet, num_patches: dict[str, int], failures: dict[str, SlideError]
) -> list[Row]:
    """One row for every slide that the images of a unit come from.

    Args:
        unit: The images.
        num_patches: Patches by path of the image.
        failures: What was wrong, by path of the image.
    """
    members: dict[str, list[ImageInput]] = {}
    for image in unit.images:
        members.setdefault(image.slide_id, []).append(image)
    return [_set_row(unit, images, num_patches, failures) for images in members.values()]


def merged(rows: Sequence[Row]) -> Row:
    """One row of a slide whose images are spread over units; the rows are of one slide."""
    if len(rows) == 1:
        return dict(rows[0])
    usable = [row for row in rows if row["status"] == "ok"]
    return {
        **(usable or list(rows))[0],
        "size_bytes": sum(row["size_bytes"] for row in rows),
        "num_patches": sum(row["num_patches"] for row in rows),
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
            content_hash=_digest([image.content_hash for image in images]),
        )
    )
    reader, version = reader_of(first.path) or ("pillow", READER_VERSION)
    row |= {
        "vendor": "images",
        "mpp_x": unit.mpp,
        "mpp_y": unit.mpp,
        "mpp_source": "unknown" if unit.mpp is None else "config",
        "reader": reader,
        "reader_version": version,
        "num_patches": total,
    }
    if not total and failed:
        row |= {"status": str(failed[0].reason), "reason": failed[0].detail}
    return row


def _digest(hashes: Sequence[str]) -> str:
    return f"set-sha256:{hashlib.sha256(' '.join(hashes).encode()).hexdigest()}"
