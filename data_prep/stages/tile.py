"""The tile worker: one slide, or one part of a patch set -> rows of the PatchIndex.

A unit that cannot be used is a record with a reason, never an exception. The worker writes the
pictures of the unit and commits it to the ledger: its patches as Parquet first, then the JSON that
says it is done. Running a unit again gives the same files.
"""

import io
import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from histodiff.artifacts import UnitIssue
from histodiff.data_prep.duplicates.descriptors import DESCRIPTOR_BYTES, describe
from histodiff.data_prep.index.cohort import overlay_thumbnail
from histodiff.data_prep.index.geometry import Region, image_regions, same_scale
from histodiff.data_prep.index.patch_index import (
    PATCHES_SCHEMA,
    REJECTED_SCHEMA,
    file_name_of,
    slide_id_of,
    table_bytes,
    table_from_rows,
)
from histodiff.data_prep.index.series import write_series
from histodiff.data_prep.readers.containers import member_of
from histodiff.data_prep.readers.image_decoder import ImageDecoder
from histodiff.data_prep.readers.resampling import resized
from histodiff.data_prep.readers.stacks import further_pages
from histodiff.data_prep.sources.inputs import ImageInput, ImageSet, SlideInput
from histodiff.data_prep.stages.slide_tiling import SlideFindings, TileRules, tile_slide
from histodiff.data_prep.stages.tile_rows import (
    Row,
    enlargement,
    image_patches,
    set_rows,
    slide_row,
)
from histodiff.data_prep.tissue.overlay import (
    SHEET_COLUMNS,
    SHEET_ROWS,
    contact_sheet,
    png_bytes,
)
from histodiff.data_prep.tissue.tissue_mask import tissue_colour
from histodiff.errors import SkipReason, SlideError
from histodiff.storage import StoragePath, storage_path, write_bytes

TileUnit = SlideInput | ImageSet
_SMALL_PX = 32
_SLIDE = "slide-"
DESCRIPTORS_SCHEMA = pa.schema([("path", pa.string()), ("descriptor", pa.binary(DESCRIPTOR_BYTES))])
"""What images, or a slide (with an empty path), are recognised by."""


@dataclass(frozen=True)
class TileRecord:
    """Outcome of one unit."""

    slides: tuple[Row, ...]
    """Rows of the table of slides; of a patch set, they cover the images of this unit only."""
    num_patches: int
    labels: dict[str, dict[str, int]]
    """Patches by label, by slide."""
    splits: dict[str, str]
    """Splits that the data set itself states, by slide."""
    at_scale: bool
    """Whether every patch has the wanted scale."""
    issues: tuple[UnitIssue, ...]
    """Slides or images that gave nothing, or not all."""
    level_digest: str = ""
    """What level 0 of a slide shows, whatever contains it; empty where that is not known."""


def unit_name(unit: TileUnit) -> str:
    """Name of the unit's files in the ledger."""
    if isinstance(unit, ImageSet):
        return unit.name
    return _SLIDE + file_name_of(unit.slide_id)


def slide_of_unit(name: str) -> str:
    """Slide id of a unit that is a slide; of a part of a patch set, the unit's name."""
    return slide_id_of(name.removeprefix(_SLIDE)) if name.startswith(_SLIDE) else name


def read_record(ledger: StoragePath, name: str) -> TileRecord:
    """The record of a committed unit."""
    found = json.loads((ledger / f"{name}.json").read_bytes())
    return TileRecord(
        slides=tuple(found["slides"]),
        num_patches=found["num_patches"],
        labels=found["labels"],
        splits=found["splits"],
        at_scale=found["at_scale"],
        issues=tuple(UnitIssue(**issue) for issue in found["issues"]),
        level_digest=found.get("level_digest", ""),
    )


def read_unit_patches(ledger: StoragePath, name: str) -> Any:
    """Table of the patches of a committed unit, `REJECTED_SCHEMA`."""
    return pq.read_table(io.BytesIO((ledger / f"{name}.parquet").read_bytes()))


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
        write_bytes(target.with_name(f"{target.name}.parquet"), table_bytes(patches))
        committed = {
            "slides": record.slides,
            "num_patches": record.num_patches,
            "labels": record.labels,
            "splits": record.splits,
            "at_scale": record.at_scale,
            "issues": [issue.model_dump() for issue in record.issues],
            "level_digest": record.level_digest,
        }
        write_bytes(target.with_name(f"{target.name}.json"), json.dumps(committed).encode())
        return record

    def _slide(self, unit: SlideInput) -> tuple[TileRecord, Any]:
        findings = SlideFindings(slide_row(unit))
        issues: list[UnitIssue] = []
        try:
            tile_slide(unit, self.rules, findings)
        except SlideError as error:
            findings.row |= {"status": str(error.reason), "reason": error.detail}
            issues.append(_issue(unit.slide_id, error))
        self._write_files(unit, findings)
        issues += _damage(findings.row)
        patches = findings.patches
        if patches is None:
            patches = REJECTED_SCHEMA.empty_table()
        count = findings.row["num_patches"]
        found = _labels_of(patches)
        labels = {unit.slide_id: found} if found else {}
        record = TileRecord(
            (findings.row,), count, labels, {}, True, tuple(issues), findings.level_digest
        )
        return record, patches

    def _write_files(self, unit: SlideInput, findings: SlideFindings) -> None:
        name = file_name_of(unit.slide_id)
        if findings.overlay is not None:
            self._write_picture(unit_name(unit), name, findings.overlay)
        if self.rules.describe_slides:
            self._describe_slide(unit_name(unit), findings.picture)
        if unit.levels:
            sizes = {item.url.rsplit("/", 1)[1]: item.size_bytes for item in unit.levels}
            write_series(self.path, unit.slide_id, sizes)
        for folder, data in findings.geojson.items():
            write_bytes(self.path / "geojson" / folder / f"{name}.geojson", data)
        if findings.index is not None and findings.row["num_patches"]:
            write_bytes(self.path / "tiles" / f"{name}.parquet", findings.index.to_bytes())

    def _describe_slide(self, unit: str, picture: npt.NDArray[np.uint8] | None) -> None:
        """What the slide is recognised by, and the picture that is compared; if it has one."""
        described = {} if picture is None else {"": describe(picture)}
        self._write_descriptors(unit, described)
        if picture is not None:
            write_bytes(self.path / "ledger" / f"{unit}.png", png_bytes(picture))

    def _write_descriptors(self, unit: str, described: dict[str, npt.NDArray[np.uint8]]) -> None:
        rows = [{"path": path, "descriptor": found.tobytes()} for path, found in described.items()]
        table = table_from_rows(rows, DESCRIPTORS_SCHEMA)
        write_bytes(self.path / "ledger" / f"{unit}.descriptors.parquet", table_bytes(table))

    def _write_picture(self, unit: str, name: str, png: bytes) -> None:
        """The picture, and a small one for the cohort page."""
        write_bytes(self.path / "overlays" / f"{name}.png", png)
        write_bytes(self.path / "ledger" / f"{unit}.webp", overlay_thumbnail(png))

    def _images(self, unit: ImageSet) -> tuple[TileRecord, Any]:
        patches: list[Row] = []
        failures: dict[str, SlideError] = {}
        num_patches: defaultdict[str, int] = defaultdict(int)
        enlarged: dict[str, float] = {}
        further: dict[str, int] = {}
        shown: list[npt.NDArray[np.uint8]] = []
        described: dict[str, npt.NDArray[np.uint8]] = {}
        for image in unit.images:
            try:
                pixels = self.images.decode(storage_path(unit.url), image.path)
                found = self._image_patches(unit, image, pixels)
            except SlideError as error:
                failures[image.path] = error
                continue
            patches += found
            num_patches[image.path] = len(found)
            enlarged[image.path] = enlargement(unit, found, self.rules.patch_px)
            further[image.path] = _further_pages(unit, image)
            if self.rules.describe_images:
                described[image.path] = describe(pixels)
            if len(shown) < SHEET_COLUMNS * SHEET_ROWS:
                shown.append(pixels)
        self._write_picture(unit.name, unit.name, contact_sheet(shown))
        if self.rules.describe_images:
            self._write_descriptors(unit.name, described)
        record = TileRecord(
            slides=tuple(set_rows(unit, num_patches, failures, enlarged, further)),
            num_patches=len(patches),
            labels=_label_counts(patches),
            splits={row["slide_id"]: row["split"] for row in patches if row["split"]},
            at_scale=all(same_scale(row["effective_mpp_x"], self.rules.mpp) for row in patches),
            issues=tuple(_issue(path, error) for path, error in failures.items()),
        )
        table = table_from_rows(patches, PATCHES_SCHEMA)
        nothing = pa.nulls(len(patches), pa.string())
        return record, table.append_column(REJECTED_SCHEMA.field("rejected"), nothing)

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


def _further_pages(unit: ImageSet, image: ImageInput) -> int:
    """Pages of an image file that are not taken; patches in array files have none."""
    if member_of(image.path) is not None:
        return 0
    return further_pages(storage_path(unit.url) / image.path)


def _tissue_fraction(pixels: npt.NDArray[np.uint8], region: Region) -> float:
    """Fraction of tissue by colour, on a small copy of the region."""
    inside = pixels[region.y :, region.x :][: region.height, : region.width]
    small = resized(inside, width=_SMALL_PX, height=_SMALL_PX)
    return float(tissue_colour(small).mean())


def _labels_of(patches: Any) -> dict[str, int]:
    """Number of the patches of a slide that stay, by label."""
    kept = patches.filter(pc.is_null(patches["rejected"]))
    counts = kept["label"].value_counts().to_pylist()
    return {item["values"]: item["counts"] for item in counts if item["values"] is not None}


def _label_counts(patches: list[Row]) -> dict[str, dict[str, int]]:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in patches:
        if row["label"] is not None:
            counts[row["slide_id"]][row["label"]] += 1
    return {slide_id: dict(found) for slide_id, found in counts.items()}


def _damage(row: Row) -> list[UnitIssue]:
    """Patches of a slide that cannot be decoded, as one issue; the others are used."""
    if not row["num_unreadable"] or row["status"] == SkipReason.UNREADABLE:
        return []
    detail = f"{row['num_unreadable']} patches cannot be decoded; the others are used"
    reason = str(SkipReason.UNREADABLE)
    return [UnitIssue(unit=row["slide_id"], reason=reason, detail=detail)]


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
