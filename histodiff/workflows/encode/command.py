"""``encode``: patches and an autoencoder -> a LatentStore.

The shard is the unit of work. Shards in the ledger are done; the same command again does the rest.
Readers and encoders run as Ray actors, or one after the other in this process (``ray.type: none``).
"""

import logging
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from histodiff.artifacts import (
    Artifact,
    Draft,
    begin,
)
from histodiff.cluster.capacity import ActorResources, Actors, require_capacity
from histodiff.cluster.pool import run_encode_pool
from histodiff.cluster.session import ray_session
from histodiff.cluster.site import ClusterRay, NoRay, Site
from histodiff.data_prep.index.disjoint import assert_disjoint
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.stages.encode import (
    EncodedShard,
    EncoderLoad,
    EncodeSettings,
    ShardEncoder,
)
from histodiff.data_prep.stages.metering import MeteredEncoder, MeteredShard
from histodiff.data_prep.stages.parts import EncodeReader, parts_of
from histodiff.latents import (
    ShardPlan,
    ShardRecord,
    ShardUnit,
    ShardWriter,
    read_ledger,
)
from histodiff.latents.codec import shard_size
from histodiff.latents.finish import present_shards
from histodiff.latents.rows import reason_code
from histodiff.latents.writer import recorded_shards
from histodiff.models.autoencoder import load_autoencoder
from histodiff.runtime import Finished, encode_in_process
from histodiff.runtime.patches import READ_SCHEMA
from histodiff.telemetry import HubAddress, announced, metrics_hub, progress
from histodiff.telemetry.metrics import (
    ENCODE_BUSY_SECONDS,
    ENCODE_PATCHES,
    ENCODE_QUARANTINED,
    ENCODE_SHARD_SECONDS,
    ENCODE_WAIT_SECONDS,
)
from histodiff.workflows.encode.config import (
    EncodeConfig,
    encode_conditions,
    opened_inputs,
    shard_plan,
    store_layout,
)
from histodiff.workflows.encode.estimation import estimate
from histodiff.workflows.encode.finish import EncodedStore
from histodiff.workflows.encode.reading import Reading
from histodiff.workflows.encode.sample import (
    Run,
    measured_speed,
    num_encoders,
    sample_rows_per_shard,
)
from histodiff.workflows.encode.speed import (
    EncodeSpeed,
    Stopwatch,
    earlier_speed,
    recorded,
)

__all__ = ["PLANNED_COLUMNS", "EncodeConfig", "encode", "estimate", "speed"]

_log = logging.getLogger(__name__)

PLANNED_COLUMNS = (*READ_SCHEMA.names, "patient_id", "label", "split")
"""Columns of the patches that the driver holds: what is read, and what the row table says."""
_TOO_IDLE = 0.2
_WORTH_ADVICE_SECONDS = 30.0


def encode(config: EncodeConfig, site: Site) -> Artifact:
    """Encodes every patch; the finished store.

    Raises:
        ConfigError: Inputs do not fit each other, or too many rows failed.
        ArtifactError: An input is missing or damaged, or the store exists with other settings.
    """
    inputs = opened_inputs(config, site)
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
    plan = shard_plan(config, index)
    writer.write_metadata()
    watch, reading = Stopwatch(num_encoders(site, plan.num_shards)), Reading()
    with metrics_hub(site.metrics_port, host=site.metrics_host) as hub:
        run = partial(_run, config, site, inputs=inputs, hub=hub)
        records = _encode_missing(run, plan, writer, watch, reading)
    took = watch.speed(source="run", end_seconds=time.monotonic() - started - watch.ended)
    measured = recorded(took, encode_conditions(config, site, writer.layout)) | reading.recorded()
    store = EncodedStore(config, index, writer.layout, plan, records)
    return store.published(draft, measured=measured)


def speed(config: EncodeConfig, site: Site, *, measure_seconds: float | None) -> EncodeSpeed | None:
    """How fast the command would go here: measured on a sample, or as of an earlier run.

    Args:
        config: Of the command.
        site: Where it would run.
        measure_seconds: How long to measure; None takes the newest earlier run that fits, if any.
    """
    started = time.monotonic()
    inputs = opened_inputs(config, site)
    index = PatchIndex.open(inputs["patches"].path)
    layout = store_layout(config, index, inputs["autoencoder"])
    if measure_seconds is None:
        return earlier_speed(site, encode_conditions(config, site, layout))
    rows = sample_rows_per_shard(layout)
    cut = config.store.model_copy(update={"rows_per_shard": rows})
    plan = shard_plan(config.model_copy(update={"store": cut}), index)
    before = time.monotonic() - started
    run = partial(_run, config, site, inputs=inputs)
    found = measured_speed(run, plan, layout, site, seconds=measure_seconds)
    return replace(found, end_seconds=found.end_seconds + before)


def _encode_missing(
    run: Run, plan: ShardPlan, writer: ShardWriter, watch: Stopwatch, reading: Reading
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
            reading.add(finished.record.read)
            bar.advance(record.rows, quarantined=failed, encoder_busy=load.busy_share)
    _advise(load)
    reading.log()
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
) -> Generator[Finished[ShardUnit, MeteredShard], None, None]:
    make_reader = partial(
        announced,
        partial(EncodeReader, inputs["patches"].path),
        hub=hub,
        labels={"stage": "encode", "role": "reader"},
    )
    make_encoder = partial(
        announced,
        partial(
            MeteredEncoder,
            ShardEncoder,
            partial(load_autoencoder, inputs["autoencoder"].path, device=site.device),
            writer=writer,
            settings=EncodeSettings(
                config.batch, config.threads, config.precision, config.compiled
            ),
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
