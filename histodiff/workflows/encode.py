"""``encode``: patches and an autoencoder -> a LatentStore.

The shard is the unit of work. Shards in the ledger are done; the same command again does the rest.
Readers and encoders run as Ray actors, or one after the other in this process (``ray.type: none``).
"""

import json
import logging
import time
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from histodiff.artifacts import (
    Artifact,
    CommandConfig,
    Draft,
    Kind,
    Reference,
    UnitIssue,
    begin,
    open_artifact,
)
from histodiff.cluster.capacity import ActorResources, Actors, require_capacity
from histodiff.cluster.pool import run_encode_pool
from histodiff.cluster.session import ray_session
from histodiff.cluster.site import ClusterRay, NoRay, Site
from histodiff.config import Location
from histodiff.data_prep.slides.patch_index import PatchIndex
from histodiff.data_prep.slides.splits import assert_disjoint
from histodiff.data_prep.stages.encode import (
    EncodedShard,
    EncoderLoad,
    EncodeSettings,
    ShardEncoder,
)
from histodiff.data_prep.stages.parts import EncodeReader, parts_of
from histodiff.errors import ConfigError
from histodiff.latents import (
    LatentStoreConfig,
    ShardPlan,
    ShardRecord,
    ShardUnit,
    ShardWriter,
    StoreAttributes,
    StoreLayout,
    finish_store,
    plan_shards,
    read_ledger,
    store_statistics,
)
from histodiff.latents.codec import shard_size
from histodiff.latents.finish import present_shards
from histodiff.latents.plan import READ_SCHEMA
from histodiff.latents.rows import reason_code
from histodiff.latents.writer import recorded_shards
from histodiff.models.autoencoder import load_autoencoder
from histodiff.runtime import Finished, encode_in_process
from histodiff.storage import list_names, read_bytes
from histodiff.telemetry import HubAddress, announced, metrics_hub, progress
from histodiff.telemetry.metrics import (
    ENCODE_BUSY_SECONDS,
    ENCODE_PATCHES,
    ENCODE_QUARANTINED,
    ENCODE_SHARD_SECONDS,
    ENCODE_WAIT_SECONDS,
)
from histodiff.workflows.encode_amounts import store_amounts, store_requests
from histodiff.workflows.encode_sample import (
    Run,
    measured_speed,
    num_encoders,
    sample_rows_per_shard,
)
from histodiff.workflows.encode_speed import (
    EncodeConditions,
    EncodeSpeed,
    Stopwatch,
    earlier_speed,
    recorded,
)

_log = logging.getLogger(__name__)

_NAMED_ISSUES = 100
PLANNED_COLUMNS = (*READ_SCHEMA.names, "patient_id", "label", "split")
"""Columns of the patches that the driver holds: what is read, and what the row table says."""
_TOO_IDLE = 0.2
_WORTH_ADVICE_SECONDS = 30.0


class EncodeConfig(CommandConfig):
    """Root config of ``encode``."""

    kind: ClassVar[Kind] = Kind.LATENTS

    patches: Annotated[Reference, Location()]
    """PatchIndex whose patches are encoded, all splits."""
    autoencoder: Annotated[Reference, Location()]
    """Autoencoder that encodes them."""
    store: LatentStoreConfig
    """How rows are cut into shards and inner chunks."""
    supertile: int = Field(ge=1)
    """Size of the blocks of neighbours that stay together in a shard: `supertile` squared patches,
    twice as many across and half as many down. Larger ones take fewer requests, and mix less."""
    mixing: int = Field(ge=1)
    """Slides that a shard mixes: more mix better, and open more slides per shard."""
    batch: int = Field(ge=1)
    """Patches in one forward pass of the encoder."""
    threads: int = Field(ge=1)
    """Torch threads of an encoder; results on a CPU depend on it."""
    precision: Literal["fp32", "bf16"]
    """Precision of the encoder; bf16 is slower than fp32 on most CPUs."""
    seed: int
    """Seed of the row order."""
    max_failed_fraction: Annotated[float, Location()] = Field(ge=0, le=1)
    """Share of quarantined rows above which the command fails; changes no byte of the store."""

    def inputs(self) -> dict[str, Reference]:
        return {
            "patches": self.patches.as_kind(Kind.PATCHES),
            "autoencoder": self.autoencoder.as_kind(Kind.AUTOENCODERS),
        }


def encode(config: EncodeConfig, site: Site) -> Artifact:
    """Encodes every patch; the finished store.

    Raises:
        ConfigError: Inputs do not fit each other, or too many rows failed.
        ArtifactError: An input is missing or damaged, or the store exists with other settings.
    """
    inputs = _opened(config, site)
    draft = begin(
        site.storage_root,
        config,
        inputs=inputs,
        inventory={"device_class": site.device},  # bytes differ between device classes
    )
    if draft.finished:
        return draft.finished
    with draft:
        return _encoded(config, site, draft, inputs)


def _encoded(
    config: EncodeConfig, site: Site, draft: Draft, inputs: Mapping[str, Artifact]
) -> Artifact:
    started = time.monotonic()
    index = PatchIndex.open(inputs["patches"].path, columns=PLANNED_COLUMNS)
    assert_disjoint(index.patches)
    writer = ShardWriter(draft.path, store_layout(config, index, inputs["autoencoder"]))
    plan = _plan(config, index)
    writer.write_metadata()
    watch = Stopwatch(num_encoders(site, plan.num_shards))
    with metrics_hub(site.metrics_port) as hub:
        run = partial(_run, config, site, inputs=inputs, hub=hub)
        records = _encode_missing(run, plan, writer, watch)
    took = watch.speed(source="run", end_seconds=time.monotonic() - started - watch.ended)
    measured = recorded(took, _conditions(config, site, writer.layout))
    return _finish(config, draft, index, writer, plan, records, measured)


def estimate(config: EncodeConfig, site: Site) -> dict[str, float | int | str]:
    """Slides, patches, shards; objects and bytes of the store; requests of a run to it."""
    inputs = _opened(config, site)
    index = PatchIndex.open(inputs["patches"].path)
    layout = store_layout(config, index, inputs["autoencoder"])
    amounts = store_amounts(config, index, layout, inputs)
    encoders = num_encoders(site, layout.num_shards)
    readers = 1 if isinstance(site.ray, NoRay) else site.reader_workers
    requests = store_requests(
        layout,
        inputs,
        index_files=len(list_names(inputs["patches"].path / "patches")) + 2,
        processes=encoders + readers,
    )
    return {
        "slides": len(pc.unique(index.patches["slide_id"])),
        "patches": layout.num_rows,
        "units": layout.num_shards,
        "bytes": amounts.bytes,
        "objects": amounts.objects,
        "requests": requests.puts + requests.gets + requests.lists,
        **{f"{name}_requests": count for name, count in asdict(requests).items()},
    }


def speed(config: EncodeConfig, site: Site, *, measure_seconds: float | None) -> EncodeSpeed | None:
    """How fast the command would go here: measured on a sample, or as of an earlier run.

    Args:
        config: Of the command.
        site: Where it would run.
        measure_seconds: How long to measure; None takes the newest earlier run that fits, if any.
    """
    started = time.monotonic()
    inputs = _opened(config, site)
    index = PatchIndex.open(inputs["patches"].path)
    layout = store_layout(config, index, inputs["autoencoder"])
    if measure_seconds is None:
        return earlier_speed(site, _conditions(config, site, layout))
    rows = sample_rows_per_shard(layout)
    cut = config.store.model_copy(update={"rows_per_shard": rows})
    plan = _plan(config.model_copy(update={"store": cut}), index)
    before = time.monotonic() - started
    run = partial(_run, config, site, inputs=inputs)
    found = measured_speed(run, plan, layout, site, seconds=measure_seconds)
    return replace(found, end_seconds=found.end_seconds + before)


def _conditions(config: EncodeConfig, site: Site, layout: StoreLayout) -> EncodeConditions:
    return EncodeConditions(
        encoder_sha256=layout.attributes.encoder_sha256,
        patch_px=layout.attributes.patch_px,
        batch=config.batch,
        threads=config.threads,
        precision=config.precision,
        device=site.device,
        ray=site.ray.type,
        encode_workers=site.encode_workers,
        reader_workers=site.reader_workers,
    )


def store_layout(config: EncodeConfig, index: PatchIndex, autoencoder: Artifact) -> StoreLayout:
    """Shapes and attributes of the store.

    Raises:
        ConfigError: There are no patches, or their size does not fit the autoencoder.
    """
    if index.patches.num_rows == 0:
        raise ConfigError(f"patches '{config.patches}': has no patches; see its slides and reasons")
    facts = json.loads(read_bytes(autoencoder.path / "autoencoder.json"))
    side, odd = divmod(index.patch_px, facts["downsampling"])
    if odd:
        raise ConfigError(
            f"patches '{config.patches}': patch_px={index.patch_px} is not a multiple of"
            f" {facts['downsampling']}, by which autoencoder '{config.autoencoder}' downsamples;"
            " tile with another patch_px"
        )
    return StoreLayout(
        num_rows=index.patches.num_rows,
        moment_shape=(2 * facts["latent_channels"], side, side),
        rows_per_shard=config.store.rows_per_shard,
        rows_per_chunk=config.store.rows_per_chunk,
        attributes=StoreAttributes(
            encoder_sha256=facts["encoder_sha256"],
            patch_px=index.patch_px,
            mpp=index.mpp,
            classes=index.classes,
        ),
    )


def _opened(config: EncodeConfig, site: Site) -> dict[str, Artifact]:
    return {key: open_artifact(site.storage_root, ref) for key, ref in config.inputs().items()}


def _plan(config: EncodeConfig, index: PatchIndex) -> ShardPlan:
    return plan_shards(
        index.patches,
        supertile=config.supertile,
        mixing=config.mixing,
        rows_per_shard=config.store.rows_per_shard,
        seed=config.seed,
    )


def _encode_missing(
    run: Run, plan: ShardPlan, writer: ShardWriter, watch: Stopwatch
) -> dict[int, ShardRecord]:
    """Encodes the shards that are not in the ledger; the records of all."""
    done = _done(writer)
    units = plan.units_of([shard for shard in range(plan.num_shards) if shard not in done])
    rows = len(plan.patch_of_row)
    records: dict[int, ShardRecord] = {}
    failed = 0
    load = EncoderLoad()
    with progress("encode", total=rows, unit="patches", already=rows - units.num_rows) as bar:
        for finished in run(units, writer):
            record = finished.record.record
            watch.lap(record.rows)
            records[record.shard] = record
            _count(finished.record)
            failed += len(record.quarantined)
            load.add(finished.record)
            bar.advance(record.rows, quarantined=failed, encoder_busy=load.busy_share)
    _advise(load)
    return records | read_ledger(writer.path, done)


def _done(writer: ShardWriter) -> set[int]:
    """Shards that are recorded and whose object is there in full; two listings, nothing is read."""
    present = present_shards(writer.path)
    recorded = recorded_shards(writer.path)
    return {k for k in recorded if present.get(k) == shard_size(writer.layout, k)}


def _run(
    config: EncodeConfig,
    site: Site,
    units: Sequence[ShardUnit],
    writer: ShardWriter,
    *,
    inputs: Mapping[str, Artifact],
    hub: HubAddress | None = None,
) -> Generator[Finished[ShardUnit, EncodedShard], None, None]:
    make_reader = partial(
        announced,
        partial(EncodeReader, inputs["patches"].path),
        hub=hub,
        labels={"stage": "encode", "role": "reader"},
    )
    make_encoder = partial(
        announced,
        partial(
            ShardEncoder,
            partial(load_autoencoder, inputs["autoencoder"].path, device=site.device),
            writer=writer,
            settings=EncodeSettings(config.batch, config.threads, config.precision),
            device=site.device,
        ),
        hub=hub,
        labels={"stage": "encode", "role": "encoder"},
    )
    cut = partial(parts_of, batch=config.batch)
    if isinstance(site.ray, NoRay):
        yield from encode_in_process(make_reader, make_encoder, units, parts_of=cut)
        return
    cpus = 1 if isinstance(site.ray, ClusterRay) else 0
    gpus = 1 if site.device == "cuda" else 0
    readers = Actors(site.reader_workers, ActorResources(num_cpus=cpus))
    encoders = Actors(site.encode_workers, ActorResources(num_cpus=cpus, num_gpus=gpus))
    with ray_session(site.ray):
        require_capacity(site.ray, {"reader_workers": readers, "encode_workers": encoders})
        yield from run_encode_pool(
            make_reader,
            make_encoder,
            units,
            parts_of=cut,
            num_readers=readers.count,
            num_encoders=encoders.count,
            reader_resources=readers.each,
            encoder_resources=encoders.each,
        )


def _advise(load: EncoderLoad) -> None:
    """One line where encoders had too little to do; runs of seconds only tell how Ray starts."""
    idle = 1 - load.busy_share
    if idle > _TOO_IDLE and load.waited_seconds > _WORTH_ADVICE_SECONDS:
        _log.warning(
            "encoders waited %.0f %% of their time for pixels; raise site.reader_workers",
            100 * idle,
        )


def _count(shard: EncodedShard) -> None:
    ENCODE_BUSY_SECONDS.inc(shard.busy_seconds)
    ENCODE_WAIT_SECONDS.inc(shard.waited_seconds)
    ENCODE_PATCHES.inc(shard.record.rows - len(shard.record.quarantined))
    ENCODE_SHARD_SECONDS.observe(shard.seconds)
    for reason in shard.record.quarantined.values():
        ENCODE_QUARANTINED.labels(reason=reason_code(reason)).inc()


def _finish(
    config: EncodeConfig,
    draft: Draft,
    index: PatchIndex,
    writer: ShardWriter,
    plan: ShardPlan,
    records: Mapping[int, ShardRecord],
    measured: Mapping[str, Any],
) -> Artifact:
    layout = writer.layout
    issues = _issues(records.values(), layout, plan, index.patches)
    quarantined = sum(len(record.quarantined) for record in records.values())
    if quarantined > config.max_failed_fraction * layout.num_rows:
        raise ConfigError(
            f"max_failed_fraction={config.max_failed_fraction}: {quarantined} of {layout.num_rows}"
            f" patches failed, first {issues[0].unit} ({issues[0].reason}: {issues[0].detail});"
            " mend them and tile again, or raise max_failed_fraction"
        )
    digests = finish_store(
        draft.path,
        layout,
        patches=index.patches,
        patch_of_row=plan.patch_of_row,
        records=records,
    )
    statistics = store_statistics(records)
    contents: dict[str, Any] = {
        "rows": layout.num_rows,
        "quarantined": quarantined,
        "shards": layout.num_shards,
        "moment_shape": list(layout.moment_shape),
        "bytes": sum(record.size_bytes for record in records.values()),
        "statistics": statistics.model_dump(mode="json") if statistics else None,
        **layout.attributes.model_dump(mode="json"),
    }
    return draft.finish(
        contents, content=digests.content, files=digests.files, failed=issues, measured=measured
    )


def _issues(
    records: Iterable[ShardRecord], layout: StoreLayout, plan: ShardPlan, patches: pa.Table
) -> list[UnitIssue]:
    """Quarantined patches by name; of very many, the first ones and a count per reason."""
    failed = sorted(
        (int(plan.patch_of_row[layout.shard_rows(record.shard).start + position]), reason)
        for record in records
        for position, reason in record.quarantined.items()
    )
    issues = [_issue(patches, patch, reason) for patch, reason in failed[:_NAMED_ISSUES]]
    rest = Counter(reason_code(reason) for _, reason in failed[_NAMED_ISSUES:])
    for reason, count in sorted(rest.items()):
        detail = "see `status` in rows/*.parquet of the store"
        issues.append(UnitIssue(unit=f"{count} further patches", reason=reason, detail=detail))
    return issues


def _issue(patches: pa.Table, patch: int, reason: str) -> UnitIssue:
    row = patches.slice(patch, 1).to_pylist()[0]
    name = row["path"] or f"{row['slide_id']} x={row['x']} y={row['y']}"
    code, _, detail = reason.partition(": ")
    return UnitIssue(unit=name, reason=code, detail=detail)
