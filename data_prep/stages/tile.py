"""The tile worker: one slide, or one part of a patch set -> rows of the PatchIndex.

A unit that cannot be used is a record with a reason, never an exception. The worker writes the
overlay picture and commits the unit to the ledger: its patches as Parquet first, then the JSON that
says it is done. Running a unit again gives the same files.
"""

import io
import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from histodiff.artifacts import UnitIssue
from histodiff.data_prep.slides.geometry import (
    Region,
    image_regions,
    mean_mpp,
    read_plan,
    same_scale,
    slide_grid,
)
from histodiff.data_prep.slides.image_decoder import ImageDecoder
from histodiff.data_prep.slides.inputs import ImageInput, ImageSet, SlideInput
from histodiff.data_prep.slides.opening import open_slide_at
from histodiff.data_prep.slides.overlay import (
    SHEET_COLUMNS,
    SHEET_ROWS,
    contact_sheet,
    overlay_png,
)
from histodiff.data_prep.slides.patch_index import PATCHES_SCHEMA, table_bytes, table_from_rows
from histodiff.data_prep.slides.pixels import resized
from histodiff.data_prep.slides.readers import SlideReader
from histodiff.data_prep.slides.thumbnails import Thumbnail, thumbnail
from histodiff.data_prep.slides.tissue import (
    TissueConfig,
    slide_mask,
    square_fractions,
    tissue_colour,
)
from histodiff.data_prep.stages.tile_rows import (
    Row,
    image_patches,
    info_columns,
    scale_columns,
    set_rows,
    slide_patches,
    slide_row,
)
from histodiff.errors import SkipReason, SlideError
from histodiff.storage import StoragePath, storage_path, write_bytes

TileUnit = SlideInput | ImageSet
_SMALL_PX = 32


@dataclass(frozen=True)
class TileRules:
    """What decides the patches of every unit."""

    mpp: float | None
    """Wanted microns per pixel, None for any."""
    patch_px: int
    stride_px: int
    tissue: TissueConfig
    allow_unknown_mpp: bool
    """Whether patches of unknown or other scale may stay."""


@dataclass(frozen=True)
class TileRecord:
    """Outcome of one unit."""

    slides: tuple[Row, ...]
    """Rows of the table of slides; of a patch set, they cover the images of this unit only."""
    num_patches: int
    issues: tuple[UnitIssue, ...]
    """Slides or images that gave nothing."""


def unit_name(unit: TileUnit) -> str:
    """Name of the unit's files in the ledger."""
    if isinstance(unit, ImageSet):
        return unit.name
    return "slide-" + unit.slide_id.replace("/", "_")


def read_record(ledger: StoragePath, name: str) -> tuple[TileRecord, Any]:
    """A committed unit: its record and the table of its patches."""
    found = json.loads((ledger / f"{name}.json").read_bytes())
    record = TileRecord(
        slides=tuple(found["slides"]),
        num_patches=found["num_patches"],
        issues=tuple(UnitIssue(**issue) for issue in found["issues"]),
    )
    return record, pq.read_table(io.BytesIO((ledger / f"{name}.parquet").read_bytes()))


@dataclass(frozen=True)
class TileWorker:
    """Tiles units into the folder ``path`` of an unfinished PatchIndex."""

    path: StoragePath
    rules: TileRules
    images: ImageDecoder = field(default_factory=ImageDecoder, compare=False)
    """Keeps array files open from unit to unit."""

    def run(self, unit: TileUnit) -> TileRecord:
        """Tiles one unit, commits it, and returns its record."""
        if isinstance(unit, ImageSet):
            record, patches = self._images(unit)
        else:
            record, patches = self._slide(unit)
        target = self.path / "ledger" / unit_name(unit)
        table = table_from_rows(patches, PATCHES_SCHEMA)
        write_bytes(target.with_name(f"{target.name}.parquet"), table_bytes(table))
        committed = {
            "slides": record.slides,
            "num_patches": record.num_patches,
            "issues": [issue.model_dump() for issue in record.issues],
        }
        write_bytes(target.with_name(f"{target.name}.json"), json.dumps(committed).encode())
        return record

    def _slide(self, unit: SlideInput) -> tuple[TileRecord, list[Row]]:
        row = slide_row(unit)
        patches: list[Row] = []
        issues: tuple[UnitIssue, ...] = ()
        try:
            opened = open_slide_at(storage_path(unit.url))
            try:
                row |= info_columns(opened.reader.info)
                row |= scale_columns(unit, opened.reader.info)
                patches = self._slide_patches(
                    unit, opened.reader, mean_mpp(row["mpp_x"], row["mpp_y"])
                )
            finally:
                opened.close()
        except SlideError as error:
            row |= {"status": str(error.reason), "reason": error.detail}
            issues = (_issue(unit.slide_id, error),)
        row["num_patches"] = len(patches)
        return TileRecord((row,), len(patches), issues), patches

    def _slide_patches(self, unit: SlideInput, reader: SlideReader, slide_mpp: float) -> list[Row]:
        rules, info = self.rules, reader.info
        assert rules.mpp is not None, "slides always have a wanted scale"
        plan = read_plan(info, slide_mpp=slide_mpp, mpp=rules.mpp, patch_px=rules.patch_px)
        corners = slide_grid(info, plan, patch_px=rules.patch_px, stride_px=rules.stride_px)
        picture = thumbnail(reader, downsample=rules.tissue.mask_mpp / slide_mpp)
        mask = slide_mask(picture.pixels, mpp=slide_mpp * picture.downsample, config=rules.tissue)
        squares, side_px = _on_picture(corners, plan.side, picture)
        tissue = square_fractions(mask.tissue, squares, side_px=side_px)
        artefact = square_fractions(mask.artefact, squares, side_px=side_px)
        keep = tissue >= rules.tissue.min_fraction
        keep &= artefact <= rules.tissue.max_artefact_fraction
        png = overlay_png(picture, mask, corners[keep], side=plan.side)
        write_bytes(self.path / "overlays" / f"{unit.slide_id.replace('/', '_')}.png", png)
        if not keep.any():
            raise SlideError(
                SkipReason.NO_TISSUE,
                f"no patch has {rules.tissue.min_fraction:.0%} brightfield tissue free of pen",
            )
        return slide_patches(unit, corners[keep], plan, tissue[keep])

    def _images(self, unit: ImageSet) -> tuple[TileRecord, list[Row]]:
        patches: list[Row] = []
        failures: dict[str, SlideError] = {}
        num_patches: defaultdict[str, int] = defaultdict(int)
        shown: list[npt.NDArray[np.uint8]] = []
        for image in unit.images:
            try:
                pixels = self.images.decode(storage_path(unit.url), image.path)
                found = self._image_patches(unit, image, pixels)
            except SlideError as error:
                failures[image.path] = error
                continue
            patches += found
            num_patches[image.path] = len(found)
            if len(shown) < SHEET_COLUMNS * SHEET_ROWS:
                shown.append(pixels)
        write_bytes(self.path / "overlays" / f"{unit.name}.png", contact_sheet(shown))
        record = TileRecord(
            slides=tuple(set_rows(unit, num_patches, failures)),
            num_patches=len(patches),
            issues=tuple(_issue(path, error) for path, error in failures.items()),
        )
        return record, patches

    def _image_patches(
        self, unit: ImageSet, image: ImageInput, pixels: npt.NDArray[np.uint8]
    ) -> list[Row]:
        height, width = pixels.shape[:2]
        rules = self.rules
        regions = image_regions(
            width, height, image_mpp=unit.mpp, mpp=rules.mpp, patch_px=rules.patch_px, fit=unit.fit
        )
        effective = regions[0].effective_mpp
        if not rules.allow_unknown_mpp and not same_scale(effective, rules.mpp):
            raise _other_scale(width, height, effective, rules.mpp)
        return image_patches(
            image, regions, [_tissue_fraction(pixels, region) for region in regions]
        )


def _tissue_fraction(pixels: npt.NDArray[np.uint8], region: Region) -> float:
    """Fraction of tissue by colour, on a small copy of the region."""
    inside = pixels[region.y :, region.x :][: region.read_px, : region.read_px]
    small = resized(inside, width=_SMALL_PX, height=_SMALL_PX)
    return float(tissue_colour(small).mean())


def _on_picture(
    corners: npt.NDArray[np.int64], side: int, picture: Thumbnail
) -> tuple[npt.NDArray[np.int64], int]:
    """Corners ``(n, 2)`` and side of patches in pixels of the picture."""
    squares = np.round((corners - [picture.x, picture.y]) / picture.downsample).astype(np.int64)
    return squares, max(1, round(side / picture.downsample))


def _other_scale(
    width: int, height: int, effective: float | None, wanted: float | None
) -> SlideError:
    finer = effective is not None and wanted is not None and effective < wanted
    return SlideError(
        SkipReason.TOO_SMALL if finer else SkipReason.TOO_COARSE,
        f"{width}x{height} px give patches of {effective or 'unknown'} um/px, not {wanted};"
        " set mpp to that, use fit: crop, or set allow_unknown_mpp: true",
    )


def _issue(unit: str, error: SlideError) -> UnitIssue:
    return UnitIssue(unit=unit, reason=str(error.reason), detail=error.detail)
