"""tile: slides and patch sets -> a PatchIndex. No pixels are copied.

A unit is a slide, or up to 512 images of a patch set; units run in this process or as a pool of Ray
actors. Every finished unit has a record in the ledger, so that the same command goes on where it
was stopped. Splits are assigned when all units are known, over all sources together; the tables are
then written piece by piece, so that memory does not grow with the number of patches.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from typing import Annotated, Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from histodiff.artifacts import Artifact, CommandConfig, Draft, Kind, Reference, begin
from histodiff.cluster.capacity import ActorResources, Actors, require_capacity
from histodiff.cluster.pool import run_pool
from histodiff.cluster.session import ray_session
from histodiff.cluster.site import ClusterRay, NoRay, Site
from histodiff.config import Location
from histodiff.data_prep.slides.cohort import DuplicateGroup, cohort_facts
from histodiff.data_prep.slides.geometry import Phase
from histodiff.data_prep.slides.hashing import inventory, with_hashes
from histodiff.data_prep.slides.inputs import Inputs, find_inputs
from histodiff.data_prep.slides.patch_index import (
    FORMAT,
    PATCH_ORDER,
    PATCHES_SCHEMA,
    SLIDES_SCHEMA,
    IndexFacts,
    WrittenIndex,
    patch_tables,
    stream_patch_index,
    table_bytes,
    table_from_rows,
)
from histodiff.data_prep.slides.quality import QualityConfig
from histodiff.data_prep.slides.readers import Resample
from histodiff.data_prep.slides.sources import DeclaredMpp, SlidesSource, Source, unknown_scales
from histodiff.data_prep.slides.splits import (
    SPLITS,
    SplitConfig,
    assert_disjoint,
    assign_splits,
    majority_label,
)
from histodiff.data_prep.slides.tissue import TissueConfig
from histodiff.data_prep.stages.duplicate_search import (
    DuplicateFindings,
    DuplicateSearch,
    find_duplicates,
)
from histodiff.data_prep.stages.slide_tiling import GeoJsonKind, TileRules
from histodiff.data_prep.stages.tile import (
    TileRecord,
    TileUnit,
    TileWorker,
    read_record,
    read_unit_patches,
    slide_of_unit,
    unit_name,
)
from histodiff.data_prep.stages.tile_rows import REJECTED_COUNTS, Row, merged
from histodiff.errors import SkipReason
from histodiff.runtime import Worker, run_in_process
from histodiff.runtime.units import Finished
from histodiff.storage import StoragePath, list_names, write_bytes
from histodiff.telemetry import announced, metrics_hub, progress
from histodiff.telemetry.metrics import TILE_PATCHES, TILE_SLIDES
from histodiff.workflows.cohort_page import cohort_page

RunUnits = Callable[
    [Callable[[], Worker[TileUnit, TileRecord]], Sequence[TileUnit]],
    Iterable[Finished[TileUnit, TileRecord]],
]
"""Runs a worker over units: in process, or as a pool of actors."""


_LEDGER_READS = 16


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
    phase: Phase = "aligned"
    """Where the grid of a slide starts: `aligned` on the lattice of its own tiles where they allow
    it (faster to read), `origin` at the corner of what was scanned."""
    tissue: TissueConfig = TissueConfig()
    """Rules of the tissue mask of slides; patches of patch sets are all kept."""
    quality: QualityConfig = QualityConfig()
    """Which tissue of slides is left out."""
    geojson: tuple[GeoJsonKind, ...] = ("masks",)
    """What is written for QuPath into `geojson/`: `masks` of the tissue, and `patches` with their
    scores (large: 400 bytes for each)."""
    duplicates: DuplicateSearch = DuplicateSearch()
    """Which duplicates are looked for."""
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
            phase=self.phase,
            tissue=self.tissue,
            quality=self.quality,
            geojson=self.geojson,
            describe_images=self.duplicates.patches is not None,
            describe_slides=self.duplicates.slides is not None,
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


def tile(config: TileConfig, site: Site, *, run_units: RunUnits | None = None) -> Artifact:
    """The PatchIndex that ``config`` describes.

    Args:
        config: What is tiled, and how.
        site: Where.
        run_units: Runs the worker over units; as the site says by default.

    Raises:
        ConfigError: A path is missing or empty, two things share a slide id, or the root cannot be
            written.
    """
    found = with_hashes(find_inputs(config.data, config.sources))
    draft = begin(site.storage_root, config, inventory=inventory(found), format=FORMAT)
    if draft.finished:
        return draft.finished
    with draft:
        units = _units(found)
        _run(
            units, draft, TileWorker(draft.path, config.rules), run_units or partial(_run_on, site)
        )
        return _finish(draft, config, found)


def _units(found: Inputs) -> list[TileUnit]:
    return [*found.slides, *found.image_sets]


def _run(units: Sequence[TileUnit], draft: Draft, worker: TileWorker, run_units: RunUnits) -> None:
    done = set(list_names(draft.path / "ledger"))
    todo = [unit for unit in units if f"{unit_name(unit)}.json" not in done]
    already = len(units) - len(todo)
    patches = skipped = 0
    with progress("tile", total=len(units), unit="units", already=already) as bar:
        for finished in run_units(lambda: worker, todo):
            patches += finished.record.num_patches
            TILE_PATCHES.inc(finished.record.num_patches)
            for row in finished.record.slides:
                TILE_SLIDES.labels(status=row["status"]).inc()
                skipped += row["status"] != "ok"
            bar.advance(patches=patches, skipped=skipped)


def _run_on(
    site: Site, make_worker: Callable[[], Worker[TileUnit, TileRecord]], units: Sequence[TileUnit]
) -> Iterator[Finished[TileUnit, TileRecord]]:
    """On Ray where that brings more than one worker, else here."""
    alone = isinstance(site.ray, NoRay) or site.reader_workers == 1 or len(units) < 2
    if alone and not isinstance(site.ray, ClusterRay):
        with metrics_hub(site.metrics_port):
            yield from run_in_process(make_worker, units)
        return
    each = ActorResources(num_cpus=1 if isinstance(site.ray, ClusterRay) else 0)
    with metrics_hub(site.metrics_port) as hub, ray_session(site.ray):
        require_capacity(site.ray, {"reader_workers": Actors(site.reader_workers, each)})
        make = partial(announced, make_worker, hub=hub, labels={"stage": "tile", "role": "reader"})
        yield from run_pool(make, units, num_workers=site.reader_workers, resources=each)


def _finish(draft: Draft, config: TileConfig, found: Inputs) -> Artifact:
    ledger = draft.path / "ledger"
    names = [unit_name(unit) for unit in _units(found)]
    with ThreadPoolExecutor(_LEDGER_READS) as threads:
        records = dict(zip(names, threads.map(partial(read_record, ledger), names), strict=True))
    duplicates = find_duplicates(found, ledger, config.duplicates)
    slides = _slides_table(records.values(), duplicates.same)
    same = duplicates.same if config.duplicates.keep_together else {}
    split_of = _splits(records.values(), slides, config.split, same)
    labels = sum((_label_counts(record) for record in records.values()), Counter[str]())
    scales_agree = all(record.at_scale for record in records.values())
    facts = IndexFacts(
        patch_px=config.patch_px,
        mpp=config.wanted_mpp if scales_agree else None,
        resample=config.resample,
        classes=tuple(sorted(labels)),
    )
    pieces = partial(_pieces, ledger, records, split_of)
    written = stream_patch_index(
        draft.path, facts, slides=slides, patches=pieces(None), rejected=pieces("rejected")
    )
    _write_duplicates(draft.path, duplicates)
    page = _cohort_page(draft, config, slides, names)
    write_bytes(draft.path / "cohort.html", page.encode())
    issues = [issue for record in records.values() for issue in record.issues]
    failed = [issue for issue in issues if SkipReason(issue.reason).is_failure]
    skipped = [issue for issue in issues if not SkipReason(issue.reason).is_failure]
    contents = _contents(facts, slides, written, split_of, labels)
    contents |= {"skipped": len(skipped), "failed": len(failed)}
    return draft.finish(contents, content=written.sha256, failed=failed, skipped=skipped)


def _cohort_page(draft: Draft, config: TileConfig, slides: Any, units: Sequence[str]) -> str:
    """The page that shows every slide, with its picture if it has one."""
    ledger = draft.path / "ledger"
    there = set(list_names(ledger))
    shown = [unit for unit in units if f"{unit}.webp" in there]
    with ThreadPoolExecutor(_LEDGER_READS) as threads:
        pictures = threads.map(lambda unit: (ledger / f"{unit}.webp").read_bytes(), shown)
        thumbnails = dict(zip(map(slide_of_unit, shown), pictures, strict=True))
    facts = cohort_facts(
        slides, patch_tables(draft.path),
        name=str(config.output), mpp=config.wanted_mpp, patch_px=config.patch_px,
        duplicates=_duplicate_groups(slides),
    )  # fmt: skip
    return cohort_page(facts, thumbnails)


def _duplicate_groups(slides: Any) -> list[DuplicateGroup]:
    """Slides that share tissue, by group."""
    members: defaultdict[str, list[str]] = defaultdict(list)
    for row in slides.select(["slide_id", "duplicate_group"]).to_pylist():
        if row["duplicate_group"] is not None:
            members[row["duplicate_group"]].append(row["slide_id"])
    return [DuplicateGroup(tuple(found), "show the same tissue") for found in members.values()]


def _write_duplicates(path: StoragePath, found: DuplicateFindings) -> None:
    write_bytes(path / "duplicates.parquet", table_bytes(found.pairs))
    text = json.dumps(found.counts, indent=2, sort_keys=True) + "\n"
    write_bytes(path / "duplicates.json", text.encode())


def _slides_table(records: Iterable[TileRecord], same: Mapping[str, str]) -> Any:
    rows: defaultdict[str, list[Row]] = defaultdict(list)
    for record in records:
        for row in record.slides:
            rows[row["slide_id"]].append(row)
    found = [merged(rows[key]) | {"duplicate_group": same.get(key)} for key in sorted(rows)]
    return table_from_rows(found, SLIDES_SCHEMA)


def _label_counts(record: TileRecord) -> Counter[str]:
    return sum((Counter(found) for found in record.labels.values()), Counter[str]())


def _splits(
    records: Iterable[TileRecord], slides: Any, config: SplitConfig, same: Mapping[str, str]
) -> dict[str, str]:
    """The split of every slide that has patches; those that the data set states are kept."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    given: dict[str, str] = {}
    for record in records:
        given |= record.splits
        for slide_id, found in record.labels.items():
            counts[slide_id].update(found)
    labels = {slide_id: majority_label(found) for slide_id, found in counts.items()}
    used = slides.filter(pc.greater(slides["num_patches"], 0))
    free = used.filter(pc.invert(pc.is_in(used["slide_id"], pa.array(list(given), pa.string()))))
    split_of = given | assign_splits(free, config, labels=labels, same=same)
    column = pa.array(
        [split_of[slide_id] for slide_id in used["slide_id"].to_pylist()], pa.string()
    )
    divided = used.append_column("split", column)
    assert_disjoint(divided)
    return split_of


def _pieces(
    ledger: StoragePath,
    records: Mapping[str, TileRecord],
    split_of: Mapping[str, str],
    which: str | None,
) -> Iterator[Any]:
    """The tables of all units as pieces in the order of the index; few units in memory at a time.

    Args:
        ledger: Folder of the units.
        records: Their records, by name.
        split_of: Split of every slide with patches.
        which: None for the patches, ``rejected`` for those that were left out.
    """
    units_of: defaultdict[str, list[str]] = defaultdict(list)
    for name, record in records.items():
        for row in record.slides:
            if _num_rows(row, which):
                units_of[row["slide_id"]].append(name)
    tables: dict[str, Any] = {}
    for units, slides in groupby(sorted(units_of), key=lambda slide: units_of[slide]):
        tables = {name: tables.get(name) or _unit_table(ledger, name, which) for name in units}
        found = pa.concat_tables(tables.values())
        wanted = found.filter(pc.is_in(found["slide_id"], pa.array(list(slides), pa.string())))
        yield _with_splits(wanted.sort_by(PATCH_ORDER), split_of)


def _num_rows(row: Row, which: str | None) -> int:
    """Rows of a slide in the table of patches, or in that of rejected ones."""
    if which is None:
        return int(row["num_patches"])
    return sum(int(row[column] or 0) for column in REJECTED_COUNTS.values())


def _unit_table(ledger: StoragePath, name: str, which: str | None) -> Any:
    table = read_unit_patches(ledger, name)
    if which is None:
        return table.filter(pc.is_null(table["rejected"])).drop_columns(["rejected"])
    return table.filter(pc.is_valid(table["rejected"]))


def _with_splits(patches: Any, split_of: Mapping[str, str]) -> Any:
    """``patches`` with the split of their slides; null for a slide that has none."""
    coded = patches["slide_id"].combine_chunks().dictionary_encode()
    splits = pa.array([split_of.get(name) for name in coded.dictionary.to_pylist()], pa.string())
    position = PATCHES_SCHEMA.get_field_index("split")
    return patches.set_column(position, PATCHES_SCHEMA.field("split"), splits.take(coded.indices))


def _contents(
    facts: IndexFacts,
    slides: Any,
    written: WrittenIndex,
    split_of: Mapping[str, str],
    labels: Mapping[str, int],
) -> dict[str, Any]:
    by_split: Counter[str] = Counter()
    for row in slides.select(["slide_id", "num_patches"]).to_pylist():
        if row["num_patches"]:
            by_split[split_of[row["slide_id"]]] += row["num_patches"]
    return {
        "slides": slides.num_rows,
        "slides_with_patches": len(split_of),
        "patches": written.num_patches,
        "rejected": written.num_rejected,
        "patch_px": facts.patch_px,
        "mpp": facts.mpp,
        "patches_by_split": {name: by_split[name] for name in SPLITS},
        "patches_by_class": {name: labels[name] for name in facts.classes},
    }
