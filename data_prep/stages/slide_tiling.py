"""One slide -> its patches: scale, grid, tissue, quality, and the pictures that show them.

The slide is opened once. Where patches must come from a level at which only OpenSlide gives
OpenSlide's pixels, OpenSlide reads them, and is the recorded reader. Tissue that breaks a rule of
quality is kept in a table of its own with its scores, so that thresholds can be judged.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from histodiff.data_prep.index.coordinates import read_coordinates
from histodiff.data_prep.index.damage import damage_filled, found_damage
from histodiff.data_prep.index.geometry import (
    Grid,
    Phase,
    ReadPlan,
    imported_grid,
    read_plan,
    slide_grid,
)
from histodiff.data_prep.index.patch_index import REJECTED_SCHEMA
from histodiff.data_prep.readers.level_digest import level_digest
from histodiff.data_prep.readers.opening import OpenedSlide, open_slide_at
from histodiff.data_prep.readers.reader import Box, Pixels, SlideReader
from histodiff.data_prep.readers.resampling import shrunk
from histodiff.data_prep.readers.stacks import further_pages
from histodiff.data_prep.readers.thumbnails import Thumbnail, best_level, thumbnail
from histodiff.data_prep.readers.tiff_index import TiffIndex
from histodiff.data_prep.sources.companions import Companion, CompanionKind
from histodiff.data_prep.sources.inputs import SlideInput
from histodiff.data_prep.stages.tile_rows import (
    REJECTED_COUNTS,
    SCALE_COLUMNS,
    Row,
    info_columns,
    joined_warnings,
    pages_warning,
    scale_columns,
    scale_warning,
    slide_patches,
)
from histodiff.data_prep.tissue.annotations import patch_labels, rasterize
from histodiff.data_prep.tissue.geojson import mask_geojson, patches_geojson, read_annotations
from histodiff.data_prep.tissue.masks import Mask
from histodiff.data_prep.tissue.overlay import OVERLAY_SIDE_PX, overlay_png, png_bytes
from histodiff.data_prep.tissue.quality import (
    QualityConfig,
    broken_rules,
    patch_scores,
    sharpness,
)
from histodiff.data_prep.tissue.tissue_mask import (
    SlideMask,
    TissueConfig,
    slide_mask,
)
from histodiff.errors import ConfigError, SkipReason, SlideError
from histodiff.storage import FileFacts, is_local, storage_path

GeoJsonKind = Literal["masks", "patches"]
Corners = npt.NDArray[np.int64]
_TOGETHER = 64
_TISSUE = "Tissue"


@dataclass(frozen=True)
class TileRules:
    """What decides the patches of every unit."""

    mpp: float | None
    """Wanted microns per pixel, None for any."""
    patch_px: int
    stride_px: int
    phase: Phase
    tissue: TissueConfig
    quality: QualityConfig
    geojson: tuple[GeoJsonKind, ...]
    """What is written for QuPath."""
    describe_images: bool
    describe_slides: bool
    """Whether images and slides are described, so that duplicates can be found."""
    allow_unknown_mpp: bool
    """Whether patches of unknown or other scale may stay."""


@dataclass
class SlideFindings:
    """What is known of a slide so far; filled on the way, so that a skipped slide shows it too."""

    row: Row
    overlay: bytes | None = None
    patches: Any = None
    """Table of patches, `REJECTED_SCHEMA`; ``rejected`` is null for those that stay."""
    index: TiffIndex | None = None
    picture: Pixels | None = None
    """The slide at low resolution."""
    geojson: Mapping[str, bytes] = field(default_factory=dict)
    """Files for QuPath by the folder that they belong to."""
    level_digest: str = ""
    """What level 0 shows; see `level_digest`."""


@dataclass(frozen=True)
class _View:
    """A slide's picture with its masks."""

    picture: Thumbnail
    filled: Thumbnail
    """The picture without holes where the slide is damaged."""
    mask: SlideMask


def tile_slide(unit: SlideInput, rules: TileRules, findings: SlideFindings) -> None:
    """Finds the patches of a slide, and writes what it finds into ``findings``.

    Raises:
        SlideError: Why the slide gives no patches.
    """
    with ExitStack() as stack:
        opened = _opened(unit, stack)
        findings.row |= info_columns(opened.reader.info)
        findings.level_digest = level_digest(opened.reader)
        try:
            findings.row |= scale_columns(unit, opened.reader.info)
            findings.row["warning"] = joined_warnings(
                scale_warning(findings.row), pages_warning(_further_pages(unit))
            )
            slide_mpp = (findings.row["mpp_x"], findings.row["mpp_y"])
            plan, grid = _planned(unit, opened.reader, slide_mpp, rules)
        except SlideError:
            findings.overlay = png_bytes(_plain_picture(opened.reader).pixels)
            raise
        except ConfigError as error:
            raise ConfigError(f"slide {unit.slide_id}: {error}") from error
        findings.row["phase"] = grid.phase
        picture = thumbnail(opened.reader, downsample=rules.tissue.mask_mpp / min(slide_mpp))
        if not opened.reader.exact_at(plan.level):
            opened = _opened(unit, stack, tile_by_tile=False)
            scale = {key: findings.row[key] for key in SCALE_COLUMNS}  # as used, whoever reads
            findings.row |= info_columns(opened.reader.info) | scale
        findings.index = opened.index
        damage = found_damage(opened.reader, plan, grid.corners, picture)
        view = _view(unit, damage.picture, slide_mpp, rules)
        findings.row |= _tissue_columns(view, slide_mpp)
        found = _patches(unit, opened.reader, plan, grid.corners, damage.patches, view, rules)
    findings.patches = found
    findings.picture = view.picture.pixels
    findings.row |= _rejected_columns(found)
    findings.overlay = _overlay(view, found, plan)
    findings.geojson = _geojson(view, found, plan, rules)
    if picture.unreadable.all() and damage.patches.all():
        raise SlideError(
            SkipReason.UNREADABLE, f"none of {len(damage.patches)} patches can be decoded"
        )
    if not findings.row["num_patches"]:
        raise SlideError(SkipReason.NO_TISSUE, _nothing_left(findings.row, rules))


def _opened(unit: SlideInput, stack: ExitStack, *, tile_by_tile: bool = True) -> OpenedSlide:
    held = FileFacts(unit.size_bytes, unit.version) if unit.version else None
    levels = [storage_path(item.url) for item in unit.levels]
    opened = open_slide_at(
        storage_path(unit.url), tile_by_tile=tile_by_tile, facts=held, levels=levels
    )
    stack.callback(opened.close)
    return opened


def _further_pages(unit: SlideInput) -> dict[str, int]:
    """Pages of a local slide that are not taken; of a remote one no header is read again."""
    path = storage_path(unit.url)
    return {unit.slide_id: further_pages(path) if is_local(path) else 0}


def _planned(
    unit: SlideInput, reader: SlideReader, slide_mpp: tuple[float, float], rules: TileRules
) -> tuple[ReadPlan, Grid]:
    assert rules.mpp is not None, "slides always have a wanted scale"
    listed = unit.companions.get(CompanionKind.COORDINATES)
    if listed is not None:
        return imported_grid(
            read_coordinates(storage_path(listed.url)), reader.info,
            slide_mpp=slide_mpp, mpp=rules.mpp, patch_px=rules.patch_px,
        )  # fmt: skip
    plan = read_plan(reader.info, slide_mpp=slide_mpp, mpp=rules.mpp, patch_px=rules.patch_px)
    grid = slide_grid(
        reader.info, plan,
        patch_px=rules.patch_px, stride_px=rules.stride_px, phase=rules.phase,
    )  # fmt: skip
    return plan, grid


def _plain_picture(reader: SlideReader) -> Thumbnail:
    """A slide that is left out is shown too: who looks at it may know its scale."""
    longest = max(reader.info.bounds_width, reader.info.bounds_height)
    return thumbnail(reader, downsample=longest / OVERLAY_SIDE_PX)


def _view(
    unit: SlideInput, picture: Thumbnail, slide_mpp: tuple[float, float], rules: TileRules
) -> _View:
    filled = damage_filled(picture)
    mpp = min(slide_mpp) * picture.downsample
    mask = slide_mask(filled.pixels, mpp=mpp, config=rules.tissue)
    drawn = unit.companions.get(CompanionKind.MASK)
    if drawn is not None:
        mask = replace(mask, tissue=_drawn_mask(drawn, picture))
    return _View(picture, filled, mask)


def _drawn_mask(drawn: Companion, picture: Thumbnail) -> Mask:
    """The areas of a mask that somebody gave, whatever they are called."""
    height, width = picture.pixels.shape[:2]
    areas = rasterize(
        read_annotations(storage_path(drawn.url), unlabelled=_TISSUE),
        x=picture.x, y=picture.y, width=width, height=height, downsample=picture.downsample,
    )  # fmt: skip
    together = [np.zeros((height, width), dtype=np.bool_), *areas.values()]
    return np.asarray(np.logical_or.reduce(together), dtype=np.bool_)


def _patches(
    unit: SlideInput,
    reader: SlideReader,
    plan: ReadPlan,
    corners: Corners,
    damaged: npt.NDArray[np.bool_],
    view: _View,
    rules: TileRules,
) -> Any:
    """Patches with enough tissue, and for those that break a rule which one."""
    scores = patch_scores(view.filled, view.mask, corners, side_w=plan.width, side_h=plan.height)
    chosen = (scores.tissue >= rules.tissue.min_fraction) | damaged
    corners, scores, damaged = corners[chosen], scores.take(chosen), damaged[chosen]
    sharp = _sharpness(reader, corners, plan, rules, damaged)
    labels = _labels(unit, corners, plan)
    table = slide_patches(unit, corners, plan, scores, sharpness=sharp, labels=labels)
    reasons = broken_rules(scores, sharp, damaged, config=rules.quality)
    return table.append_column(REJECTED_SCHEMA.field("rejected"), pa.array(reasons, pa.string()))


def _labels(unit: SlideInput, corners: Corners, plan: ReadPlan) -> list[str | None]:
    """Labels of the patches: of annotations where there are some, else the slide's."""
    drawn = unit.companions.get(CompanionKind.ANNOTATIONS)
    if drawn is None:
        return [unit.label] * len(corners)
    return patch_labels(
        read_annotations(storage_path(drawn.url)), corners,
        side_w=plan.width, side_h=plan.height, min_coverage=unit.min_coverage,
    )  # fmt: skip


def _tissue_columns(view: _View, slide_mpp: tuple[float, float]) -> Row:
    pixel_mm2 = slide_mpp[0] * slide_mpp[1] * view.picture.downsample**2 / 1e6
    return {
        "tissue_fraction": round(float(view.mask.tissue.mean()), 6),
        "tissue_mm2": round(float(view.mask.tissue.sum()) * pixel_mm2, 4),
    }


def _rejected_columns(patches: Any) -> Row:
    counts: Mapping[str | None, int] = {
        item["values"]: item["counts"] for item in patches["rejected"].value_counts().to_pylist()
    }
    rejected = {column: counts.get(reason, 0) for reason, column in REJECTED_COUNTS.items()}
    return {"num_patches": counts.get(None, 0), **rejected}


def _sharpness(
    reader: SlideReader,
    corners: Corners,
    plan: ReadPlan,
    rules: TileRules,
    damaged: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float64]:
    """Focus of every patch, NaN where it is not measured."""
    found = np.full(len(corners), np.nan)
    if rules.quality.focus_mpp is None or rules.mpp is None:
        return found
    side = max(8, round(rules.patch_px * rules.mpp / rules.quality.focus_mpp))
    level = best_level(reader.info.level_downsamples, plan.width / side)
    own = reader.info.level_downsamples[level]
    width, height = max(side, round(plan.width / own)), max(side, round(plan.height / own))
    measured = np.flatnonzero(~damaged)
    for start in range(0, len(measured), _TOGETHER):
        numbers = measured[start : start + _TOGETHER]
        boxes = [Box(int(x), int(y), level, width, height) for x, y in corners[numbers]]
        reader.prepare(boxes)
        for number, box in zip(numbers, boxes, strict=True):
            found[number] = _focus_of(reader, box, side)
    return found


def _focus_of(reader: SlideReader, box: Box, side: int) -> float:
    """Focus of one patch; NaN where it cannot be decoded, which reading it later finds."""
    try:
        region = reader.read(box.x, box.y, level=box.level, width=box.width, height=box.height)
    except SlideError:
        return float("nan")
    return float(sharpness(shrunk(region, side, "box")[np.newaxis])[0])


def _overlay(view: _View, patches: Any, plan: ReadPlan) -> bytes:
    kept = patches.filter(pc.is_null(patches["rejected"]))
    left_out = patches.filter(pc.is_valid(patches["rejected"]))
    return overlay_png(
        view.picture, view.mask,
        corners=_corners_of(kept), rejected=_corners_of(left_out),
        width=plan.width, height=plan.height,
    )  # fmt: skip


def _geojson(view: _View, patches: Any, plan: ReadPlan, rules: TileRules) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    if "masks" in rules.geojson:
        files["masks"] = mask_geojson(
            view.mask.tissue,
            x=view.picture.x, y=view.picture.y, downsample=view.picture.downsample, name=_TISSUE,
        )  # fmt: skip
    if "patches" in rules.geojson:
        measured = ("tissue_fraction", "pen_fraction", "black_fraction", "white_fraction")
        files["patches"] = patches_geojson(
            _corners_of(patches),
            side_w=plan.width,
            side_h=plan.height,
            classes=pc.coalesce(patches["rejected"], patches["label"]).to_pylist(),
            measurements={key: patches[key].to_numpy().astype(np.float64) for key in measured},
        )
    return files


def _corners_of(patches: Any) -> Corners:
    return np.stack([patches["x"].to_numpy(), patches["y"].to_numpy()], axis=1)


def _nothing_left(row: Row, rules: TileRules) -> str:
    rejected = {name: row[column] for name, column in REJECTED_COUNTS.items() if row[column]}
    if not rejected:
        return f"no patch has {rules.tissue.min_fraction:.0%} brightfield tissue"
    counts = ", ".join(f"{count} {name}" for name, count in rejected.items())
    return f"every patch with tissue was left out ({counts}); see the picture, and `quality`"
