"""What a run of ``encode`` writes and asks of the store, by arithmetic: objects, bytes, requests.

Shards and metadata are exact. Row tables are as large as those of a sample of the patches; ledger
records, plan and manifest as large as ones with numbers of the same length. No patch is taken to be
quarantined: what the pictures of such patches may add is an upper bound of its own. Requests are
those of a run from begin to end without a failure, against S3; local folders have none.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from histodiff.artifacts import Artifact, CommandConfig, Manifest
from histodiff.artifacts.artifact import planned_identity
from histodiff.artifacts.lease import RENEW_SECONDS
from histodiff.artifacts.provenance import provenance
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.stages.encode import MAX_PICTURES
from histodiff.latents import ShardRecord, StoreLayout
from histodiff.latents.codec import metadata_files, shard_size
from histodiff.latents.finish import SHARDS_SCHEMA
from histodiff.latents.layout import SHARDS_TABLE, shard_name
from histodiff.latents.rows import OK, ROWS_PER_FILE, ROWS_SCHEMA, parquet_bytes
from histodiff.latents.statistics import ChannelStatistics
from histodiff.runtime import generator_for

_SAMPLED_ROWS = 65_536
_LISTED_AT_ONCE = 1000
_PUT_BYTES = 100 * 2**20
_PART_BYTES = 50 * 2**20
"""s3fs puts objects of `_PUT_BYTES` and more in parts of `_PART_BYTES`."""
_GETS_OF_READ = 2
"""Reading an object is a head and a get."""
_PNG_OVERHEAD = 1.01
_DIGEST = "0" * 64
_NUMBER = -0.12345678901234567


@dataclass(frozen=True)
class StoreAmounts:
    """Everything that is in the store's folder when the command has ended."""

    objects: int
    bytes: int


@dataclass(frozen=True)
class Requests:
    """Requests to the store; readers of remote slides make more."""

    puts: int
    """Puts, parts of puts and their ends: what is priced as writing, lists left out."""
    gets: int
    """Gets and heads."""
    lists: int
    """Pages of listings."""


def store_amounts(
    config: CommandConfig, index: PatchIndex, layout: StoreLayout, inputs: Mapping[str, Artifact]
) -> StoreAmounts:
    """Objects and bytes of the finished store."""
    shards = layout.num_shards
    row_files = num_row_files(layout)
    metadata = [len(data) for data in metadata_files(layout).values()]
    sizes = [shard_size(layout, 0)] * (shards - 1) + [shard_size(layout, shards - 1)]
    own = {
        "metadata": (len(metadata), sum(metadata)),
        "shards": (shards, sum(sizes)),
        "ledger": (shards, shards * _record_bytes(layout)),
        "rows": (row_files, _row_bytes(index, layout)),
        "table of shards": (1, _shards_table_bytes(layout)),
        "plan": (1, _json_bytes(_plan(config, inputs))),
        "manifest": (1, _json_bytes(_manifest(config, layout, inputs))),
    }
    return StoreAmounts(
        objects=sum(count for count, _ in own.values()),
        bytes=sum(size for _, size in own.values()),
    )


def most_pictures(layout: StoreLayout, *, max_failed_fraction: float) -> StoreAmounts:
    """What pictures of quarantined patches may add to the store at most, if the run ends well.

    PNG of pixels that cannot be compressed is hardly larger than the pixels.
    """
    failed = int(max_failed_fraction * layout.num_rows)
    pictures = min(failed, MAX_PICTURES * layout.num_shards)
    pixels = 3 * layout.attributes.patch_px**2
    return StoreAmounts(objects=pictures, bytes=pictures * round(_PNG_OVERHEAD * pixels))


@dataclass(frozen=True)
class ReadFiles:
    """Files of the store's inputs, and by how many processes they are read."""

    inputs: int
    """Artifacts that are read."""
    index_parts: int
    """Files of the patch index's table of patches."""
    autoencoder_files: int
    """Files of the autoencoder; every encoder fetches them."""
    slide_opens: int
    """Openings of a slide whose table of tiles is kept in the index."""
    readers: int
    encoders: int


def store_requests(layout: StoreLayout, files: ReadFiles) -> Requests:
    """Requests of an undisturbed run; those that keep its lease are `lease_requests`.

    Deletions are free of charge and left out.
    """
    shards = layout.num_shards
    size = shard_size(layout, 0)
    puts_of_shard = 1 if size < _PUT_BYTES else 2 + -(-size // _PART_BYTES)
    # probe, plan, lease, two of metadata, table of shards, manifest; shard and record; rows
    puts = 7 + shards * (puts_of_shard + 1) + num_row_files(layout)
    # manifests of the inputs, plan, index, autoencoder.json; two files of the index by readers
    reads = files.inputs + 1 + (2 + files.index_parts) + 1 + 2 * files.readers
    reads += files.encoders + files.slide_opens
    # that there is no plan, no manifest (twice) and no shard
    looks = 4
    gets = _GETS_OF_READ * reads + looks + files.encoders * files.autoencoder_files
    # what is not there is looked for as a folder, too: plan, manifest, lease, shards, ledger
    missing = 1 + 2 + 2 + 2 + 2
    # lease (taken, before the manifest, given back), index; the autoencoder by every encoder
    lists = missing + 3 + 1 + 2 * files.encoders + -(-shards // _LISTED_AT_ONCE)
    return Requests(puts=puts, gets=gets, lists=lists)


def lease_requests(seconds: float) -> Requests:
    """Requests with which a driver keeps its lease for so long."""
    renewals = int(seconds / RENEW_SECONDS)
    return Requests(puts=renewals, gets=0, lists=renewals)


def num_row_files(layout: StoreLayout) -> int:
    """Files of the row table."""
    return -(-layout.num_rows // ROWS_PER_FILE)


def _record_bytes(layout: StoreLayout) -> int:
    record = ShardRecord(
        shard=layout.num_shards,
        rows=layout.rows_per_shard,
        size_bytes=shard_size(layout, 0),
        sha256=_DIGEST,
        quarantined={},
        statistics=_statistics(layout),
    )
    return len(record.model_dump_json(indent=2)) + 1


def _statistics(layout: StoreLayout) -> ChannelStatistics:
    numbers = (_NUMBER,) * (layout.moment_shape[0] // 2)
    return ChannelStatistics(
        rows=layout.num_rows,
        mean_of_means=numbers,
        variance_of_means=numbers,
        posterior_variance=numbers,
    )


def _row_bytes(index: PatchIndex, layout: StoreLayout) -> int:
    """Bytes of the row table: those of some patches in random order, times their share."""
    count = min(layout.num_rows, _SAMPLED_ROWS)
    chosen = generator_for(0, "row table").permutation(layout.num_rows)[:count]
    columns = {
        name: index.patches[name].take(chosen)
        for name in ROWS_SCHEMA.names
        if name not in ("patch", "status")
    }
    columns |= {"patch": pa.array(chosen), "status": pa.array([OK] * count, pa.string())}
    table = pa.table([columns[name] for name in ROWS_SCHEMA.names], names=ROWS_SCHEMA.names)
    data = parquet_bytes(table.cast(ROWS_SCHEMA))
    return round(len(data) * layout.num_rows / count)


def _shards_table_bytes(layout: StoreLayout) -> int:
    count = min(layout.num_shards, _SAMPLED_ROWS)
    drawn = np.random.default_rng(0).bytes(32 * count)
    values = {
        "shard": pa.array(np.arange(count)),
        "rows": pa.array(np.full(count, layout.rows_per_shard)),
        "quarantined": pa.array(np.zeros(count, np.int64)),
        "size_bytes": pa.array(np.full(count, shard_size(layout, 0))),
        "sha256": pa.array([drawn[32 * k : 32 * (k + 1)].hex() for k in range(count)]),
    }
    table = pa.table([values[name] for name in SHARDS_SCHEMA.names], schema=SHARDS_SCHEMA)
    return round(len(parquet_bytes(table)) * layout.num_shards / count)


def _plan(config: CommandConfig, inputs: Mapping[str, Artifact]) -> object:
    what = planned_identity(config, inputs, {"device_class": "cuda"})
    return {"fingerprint": _DIGEST, "format": 1, "what": what}


def _manifest(config: CommandConfig, layout: StoreLayout, inputs: Mapping[str, Artifact]) -> object:
    names = [shard_name(shard) for shard in range(layout.num_shards)]
    names += [f"rows/{number:05d}.parquet" for number in range(num_row_files(layout))]
    names += [SHARDS_TABLE, *metadata_files(layout)]
    manifest = Manifest(
        kind=config.artifact_kind,
        name=config.name,
        version=config.version,
        format=1,
        fingerprint=_DIGEST,
        config=config.model_dump(mode="json"),
        inputs={str(item.reference): _DIGEST for item in inputs.values()},
        provenance=provenance(0.0),
        contents={
            "moment_shape": list(layout.moment_shape),
            "statistics": _statistics(layout).model_dump(mode="json"),
            **layout.attributes.model_dump(mode="json"),
        },
        content_sha256=_DIGEST,
        files=dict.fromkeys(names, _DIGEST),
    )
    return manifest.model_dump(mode="json")


def _json_bytes(value: object) -> int:
    return len(json.dumps(value, indent=2, sort_keys=True)) + 1
