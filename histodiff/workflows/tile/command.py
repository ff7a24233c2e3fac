"""tile: slides and patch sets -> a PatchIndex. No pixels are copied.

A unit is a slide, or up to 512 images of a patch set; units run in this process or as a pool of Ray
actors. Every finished unit has a record in the ledger, so that the same command goes on where it
was stopped. Splits are assigned when all units are known, over all sources together; the tables are
then written piece by piece, so that memory does not grow with the number of patches.
"""

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import Any

from histodiff.artifacts import Artifact, Draft, begin
from histodiff.cluster.capacity import ActorResources, Actors, require_capacity
from histodiff.cluster.pool import run_pool
from histodiff.cluster.session import ray_session
from histodiff.cluster.site import ClusterRay, NoRay, Site
from histodiff.data_prep.index.cohort import DuplicateGroup, cohort_facts
from histodiff.data_prep.index.patch_index import (
    FORMAT,
    IndexFacts,
    patch_tables,
    stream_patch_index,
    table_bytes,
)
from histodiff.data_prep.sources.finding import find_inputs
from histodiff.data_prep.sources.hashing import inventory, with_hashes
from histodiff.data_prep.sources.inputs import FoundTrap, Inputs
from histodiff.data_prep.stages.duplicate_search import (
    DuplicateFindings,
    find_duplicates,
)
from histodiff.data_prep.stages.tile import (
    TileRecord,
    TileUnit,
    TileWorker,
    read_record,
    slide_of_unit,
    unit_name,
)
from histodiff.errors import ConfigError, SkipReason
from histodiff.runtime import Worker, run_in_process
from histodiff.runtime.units import Finished
from histodiff.storage import StoragePath, list_names, write_bytes
from histodiff.telemetry import announced, metrics_hub, progress
from histodiff.telemetry.metrics import TILE_PATCHES, TILE_SLIDES
from histodiff.workflows.tile.cohort_page import cohort_page
from histodiff.workflows.tile.config import TileConfig
from histodiff.workflows.tile.emptiness import empty_splits, nothing_left
from histodiff.workflows.tile.tables import (
    assigned_splits,
    index_contents,
    label_counts,
    patch_pieces,
    slides_table,
)

RunUnits = Callable[
    [Callable[[], Worker[TileUnit, TileRecord]], Sequence[TileUnit]],
    Iterable[Finished[TileUnit, TileRecord]],
]
"""Runs a worker over units: in process, or as a pool of actors."""


_LEDGER_READS = 16
_log = logging.getLogger(__name__)


def estimate(config: TileConfig, site: Site) -> dict[str, float | int | str]:
    """Units, files and bytes of the inputs; nothing is opened."""
    del site
    found = find_inputs(config.data, config.sources, shared=config.split.shared)
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
        ConfigError: A path is missing or empty, a table does not fit, two things share a slide id,
            the root cannot be written, a patient is in two splits, or no patch is left; then
            nothing is kept.
    """
    found = with_hashes(find_inputs(config.data, config.sources, shared=config.split.shared))
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
        with metrics_hub(site.metrics_port, host=site.metrics_host):
            yield from run_in_process(make_worker, units)
        return
    each = ActorResources(num_cpus=1 if isinstance(site.ray, ClusterRay) else 0)
    with metrics_hub(site.metrics_port, host=site.metrics_host) as hub, ray_session(site.ray):
        require_capacity(site.ray, {"reader_workers": Actors(site.reader_workers, each)})
        make = partial(announced, make_worker, hub=hub, labels={"stage": "tile", "role": "reader"})
        yield from run_pool(make, units, num_workers=site.reader_workers, resources=each)


def _finish(draft: Draft, config: TileConfig, found: Inputs) -> Artifact:
    ledger = draft.path / "ledger"
    names = [unit_name(unit) for unit in _units(found)]
    with ThreadPoolExecutor(_LEDGER_READS) as threads:
        records = dict(zip(names, threads.map(partial(read_record, ledger), names), strict=True))
    if not any(record.num_patches for record in records.values()):
        draft.abandon()
        raise ConfigError(nothing_left(config.output, records.values()))
    digests = {slide.slide_id: records[unit_name(slide)].level_digest for slide in found.slides}
    duplicates = find_duplicates(found, ledger, config.duplicates, level_digests=digests)
    slides = slides_table(records.values(), duplicates.same)
    same = duplicates.same if config.duplicates.keep_together else {}
    split_of = assigned_splits(records.values(), slides, config.split, same)
    traps = [*found.traps, *empty_splits(config.split, slides, split_of)]
    labels = sum((label_counts(record) for record in records.values()), Counter[str]())
    scales_agree = all(record.at_scale for record in records.values())
    facts = IndexFacts(
        patch_px=config.patch_px,
        mpp=config.wanted_mpp if scales_agree else None,
        resample=config.resample,
        classes=tuple(sorted(labels)),
    )
    pieces = partial(patch_pieces, ledger, records, split_of)
    written = stream_patch_index(
        draft.path, facts, slides=slides, patches=pieces(None), rejected=pieces("rejected")
    )
    _write_duplicates(draft.path, duplicates)
    page = _cohort_page(draft, config, slides, names, traps)
    write_bytes(draft.path / "cohort.html", page.encode())
    issues = [issue for record in records.values() for issue in record.issues]
    failed = [issue for issue in issues if SkipReason(issue.reason).is_failure]
    skipped = [issue for issue in issues if not SkipReason(issue.reason).is_failure]
    contents = index_contents(facts, slides, written, split_of, labels)
    contents |= {"skipped": len(skipped), "failed": len(failed)}
    contents["traps"] = [asdict(trap) for trap in traps]
    for trap in traps:
        _log.warning("%s: %s (%s)", trap.data, trap.what, trap.source)
    return draft.finish(contents, content=written.sha256, failed=failed, skipped=skipped)


def _cohort_page(
    draft: Draft,
    config: TileConfig,
    slides: Any,
    units: Sequence[str],
    traps: Sequence[FoundTrap],
) -> str:
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
    return cohort_page(facts, thumbnails, traps)


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
