"""tile: slides and patch sets -> a PatchIndex. No pixels are copied.

A unit is a slide, or up to 512 images of a patch set. Every finished unit has a record in the
ledger, so that the same command goes on where it was stopped. Splits are assigned when all units
are known, over all sources together.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from histodiff.artifacts import Artifact, CommandConfig, Draft, Kind, Reference, UnitIssue, begin
from histodiff.cluster.site import Site
from histodiff.config import Location
from histodiff.data_prep.slides.geometry import same_scale
from histodiff.data_prep.slides.hashing import inventory, with_hashes
from histodiff.data_prep.slides.inputs import Inputs, find_inputs
from histodiff.data_prep.slides.patch_index import (
    PATCH_ORDER,
    PATCHES_SCHEMA,
    SLIDES_SCHEMA,
    PatchIndex,
    Resample,
    labels_of,
    table_from_rows,
    write_patch_index,
)
from histodiff.data_prep.slides.sources import DeclaredMpp, SlidesSource, Source, unknown_scales
from histodiff.data_prep.slides.splits import (
    SPLITS,
    SplitConfig,
    assert_disjoint,
    assign_splits,
    majority_label,
)
from histodiff.data_prep.slides.tissue import TissueConfig
from histodiff.data_prep.stages.tile import (
    TileRecord,
    TileRules,
    TileUnit,
    TileWorker,
    read_record,
    unit_name,
)
from histodiff.data_prep.stages.tile_rows import Row, merged
from histodiff.errors import SkipReason
from histodiff.runtime import Worker, run_in_process
from histodiff.runtime.units import Finished
from histodiff.storage import list_names
from histodiff.telemetry import progress
from histodiff.telemetry.metrics import TILE_PATCHES, TILE_SLIDES

RunUnits = Callable[
    [Callable[[], Worker[TileUnit, TileRecord]], Sequence[TileUnit]],
    Iterable[Finished[TileUnit, TileRecord]],
]
"""Runs a worker over units: in process, or as a pool of actors."""


class TileConfig(CommandConfig):
    """Config of `tile`."""

    kind: ClassVar[Kind] = Kind.PATCHES

    data: Annotated[str, Location()] = "."
    """Folder or URL that the paths of the sources are relative to."""
    sources: tuple[Source, ...] = Field(min_length=1)
    """What is tiled, all into one index."""
    mpp: DeclaredMpp
    """Microns per pixel of every patch. `unknown` is for patch sets alone."""
    patch_px: int = Field(ge=16, le=4096)
    """Side of a patch in pixels at `mpp`."""
    stride_px: int | None = Field(default=None, ge=1)
    """Distance of neighbouring patches of a slide in pixels at `mpp`; `patch_px` by default."""
    resample: Resample = "box"
    """Filter that shrinks what was read to `patch_px`."""
    allow_unknown_mpp: bool = False
    """Take patches of unknown or other scale than `mpp` into the mixture."""
    tissue: TissueConfig = TissueConfig()
    """Rules of the tissue mask of slides; patches of patch sets are all kept."""
    split: SplitConfig
    """Train, validation and test."""

    def inputs(self) -> dict[str, Reference]:
        return {}

    @model_validator(mode="after")
    def _scales_are_known_or_allowed(self) -> "TileConfig":
        unknown = unknown_scales(self.sources)
        if unknown and not self.allow_unknown_mpp:
            raise ValueError(
                f"sources.{unknown[0]}.mpp is unknown; give it, or set allow_unknown_mpp: true"
            )
        if self.mpp == "unknown":
            if not self.allow_unknown_mpp:
                raise ValueError("mpp is unknown; give it, or set allow_unknown_mpp: true")
            if any(isinstance(source, SlidesSource) for source in self.sources):
                raise ValueError(
                    "mpp is unknown, but slides are cut at a scale; give mpp, e.g. 0.5"
                )
        return self

    @property
    def wanted_mpp(self) -> float | None:
        """The wanted scale, None for any."""
        return None if self.mpp == "unknown" else self.mpp

    @property
    def rules(self) -> TileRules:
        """What decides the patches of every unit."""
        return TileRules(
            mpp=self.wanted_mpp,
            patch_px=self.patch_px,
            stride_px=self.stride_px or self.patch_px,
            tissue=self.tissue,
            allow_unknown_mpp=self.allow_unknown_mpp,
        )


def estimate(config: TileConfig, site: Site) -> dict[str, float | int | str]:
    """Units, files and bytes of the inputs; nothing is opened."""
    del site
    found = find_inputs(config.data, config.sources)
    return {
        "units": len(found.slides) + len(found.image_sets),
        "slides": len(found.slides),
        "images": sum(len(part.images) for part in found.image_sets),
        "input_bytes": found.num_bytes,
    }


def tile(config: TileConfig, site: Site, *, run_units: RunUnits = run_in_process) -> Artifact:
    """The PatchIndex that ``config`` describes.

    Raises:
        ConfigError: A path is missing or empty, two things share a slide id, or the root cannot be
            written.
    """
    found = with_hashes(find_inputs(config.data, config.sources))
    draft = begin(site.storage_root, config, inventory=inventory(found))
    if draft.finished:
        return draft.finished
    units = _units(found)
    _run(units, draft, TileWorker(draft.path, config.rules), run_units)
    return _finish(draft, config, [unit_name(unit) for unit in units])


def _units(found: Inputs) -> list[TileUnit]:
    return [*found.slides, *found.image_sets]


def _run(units: Sequence[TileUnit], draft: Draft, worker: TileWorker, run_units: RunUnits) -> None:
    done = set(list_names(draft.path / "ledger"))
    todo = [unit for unit in units if f"{unit_name(unit)}.json" not in done]
    already = len(units) - len(todo)
    patches = 0
    with progress("tile", total=len(units), unit="units", already=already) as bar:
        for finished in run_units(lambda: worker, todo):
            patches += finished.record.num_patches
            TILE_PATCHES.inc(finished.record.num_patches)
            for row in finished.record.slides:
                TILE_SLIDES.labels(status=row["status"]).inc()
            bar.advance(patches=patches)


def _finish(draft: Draft, config: TileConfig, names: Sequence[str]) -> Artifact:
    rows: defaultdict[str, list[Row]] = defaultdict(list)
    tables = [PATCHES_SCHEMA.empty_table()]
    issues: list[UnitIssue] = []
    for name in names:
        record, table = read_record(draft.path / "ledger", name)
        tables.append(table)
        issues += record.issues
        for row in record.slides:
            rows[row["slide_id"]].append(row)
    slides = table_from_rows([merged(rows[key]) for key in sorted(rows)], SLIDES_SCHEMA)
    patches = _with_splits(pa.concat_tables(tables).sort_by(PATCH_ORDER), slides, config.split)
    index = PatchIndex(
        slides=slides,
        patches=patches,
        patch_px=config.patch_px,
        mpp=_common_mpp(patches, config.wanted_mpp),
        resample=config.resample,
        classes=labels_of(patches),
    )
    content = write_patch_index(draft.path, index)
    failed = [issue for issue in issues if SkipReason(issue.reason).is_failure]
    skipped = [issue for issue in issues if not SkipReason(issue.reason).is_failure]
    return draft.finish(
        _contents(index, failed, skipped), content=content, failed=failed, skipped=skipped
    )


def _with_splits(patches: Any, slides: Any, config: SplitConfig) -> Any:
    """``patches`` with the split of every slide that has patches."""
    ids = patches["slide_id"].to_pylist()
    labels: defaultdict[str, list[str | None]] = defaultdict(list)
    for slide_id, label in zip(ids, patches["label"].to_pylist(), strict=True):
        labels[slide_id].append(label)
    majority = {slide_id: majority_label(found) for slide_id, found in labels.items()}
    used = slides.filter(np.asarray(slides["num_patches"]) > 0)
    split_of = assign_splits(
        used, config, labels={key: label for key, label in majority.items() if label is not None}
    )
    column = pa.array([split_of[slide_id] for slide_id in ids], pa.string())
    position = PATCHES_SCHEMA.get_field_index("split")
    result = patches.set_column(position, PATCHES_SCHEMA.field("split"), column)
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        assert_disjoint(result, first, second)
    return result


def _common_mpp(patches: Any, wanted: float | None) -> float | None:
    """The wanted scale if every patch has it."""
    return (
        wanted
        if all(same_scale(own, wanted) for own in _distinct(patches, "effective_mpp"))
        else None
    )


def _distinct(table: Any, column: str) -> list[Any]:
    found: list[Any] = table[column].unique().to_pylist()
    return found


def _contents(
    index: PatchIndex, failed: Sequence[UnitIssue], skipped: Sequence[UnitIssue]
) -> dict[str, Any]:
    splits = index.patches["split"].to_pylist()
    labels = index.patches["label"].to_pylist()
    return {
        "slides": index.slides.num_rows,
        "slides_with_patches": int((np.asarray(index.slides["num_patches"]) > 0).sum()),
        "patches": index.patches.num_rows,
        "patch_px": index.patch_px,
        "mpp": index.mpp,
        "patches_by_split": {name: splits.count(name) for name in SPLITS},
        "patches_by_class": {name: labels.count(name) for name in index.classes},
        "skipped": len(skipped),
        "failed": len(failed),
    }
