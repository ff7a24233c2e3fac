"""Finishing a store: the ledger becomes ``shards.parquet``, the plan and the ledger become rows.

The content digest is logical: it covers the shards' digests, the row table's values and the group's
attributes. It is equal for a local folder and S3, and for any number of workers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from histodiff.artifacts import content_sha256, fingerprint
from histodiff.errors import ArtifactCorrupt
from histodiff.latents.codec import metadata_files
from histodiff.latents.layout import (
    SHARDS_FOLDER,
    SHARDS_TABLE,
    StoreLayout,
    picture_name,
    shard_name,
)
from histodiff.latents.rows import StoreRows, parquet_bytes
from histodiff.latents.writer import ShardRecord
from histodiff.storage import StoragePath, file_sizes, write_bytes

SHARDS_SCHEMA = pa.schema(
    [
        ("shard", pa.int64()),
        ("rows", pa.int64()),
        ("quarantined", pa.int64()),
        ("size_bytes", pa.int64()),
        ("sha256", pa.string()),
    ]
)


@dataclass(frozen=True)
class StoreDigests:
    """Digests for the manifest."""

    files: dict[str, str]
    """SHA-256 of every published file by relative path."""
    content: str
    """Logical digest of the store."""


def finish_store(
    path: StoragePath,
    layout: StoreLayout,
    *,
    patches: pa.Table,
    patch_of_row: npt.NDArray[np.integer[Any]],
    records: Mapping[int, ShardRecord],
) -> StoreDigests:
    """Writes ``rows/`` and ``shards.parquet`` of a store whose shards are all recorded.

    Raises:
        ArtifactCorrupt: A shard is not recorded, or its object is missing or has another size.
    """
    ordered = _complete(path, layout, records)
    quarantined = {
        layout.shard_rows(record.shard).start + position: reason
        for record in ordered
        for position, reason in record.quarantined.items()
    }
    rows = StoreRows(patches, patch_of_row, quarantined)
    files = {name: sha256(data).hexdigest() for name, data in metadata_files(layout).items()}
    table = (SHARDS_TABLE, parquet_bytes(_shards_table(ordered)))
    for name, data in chain(rows.files(), [table]):
        write_bytes(path / name, data)
        files[name] = sha256(data).hexdigest()
    files |= {shard_name(record.shard): record.sha256 for record in ordered}
    files |= {
        picture_name(record.shard, position): digest
        for record in ordered
        for position, digest in record.pictures.items()
    }
    return StoreDigests(dict(sorted(files.items())), _content(layout, ordered, rows))


def present_shards(path: StoragePath) -> dict[int, int]:
    """Size of every shard object that is there, by number."""
    sizes = file_sizes(path / SHARDS_FOLDER)
    return {int(name.split("/", 1)[0]): size for name, size in sizes.items()}


def _complete(
    path: StoragePath, layout: StoreLayout, records: Mapping[int, ShardRecord]
) -> list[ShardRecord]:
    present = present_shards(path)
    for shard in range(layout.num_shards):
        if shard not in records:
            raise ArtifactCorrupt(f"{path}: shard {shard} is not recorded; encode again")
        if present.get(shard) != records[shard].size_bytes:
            raise ArtifactCorrupt(
                f"{path / shard_name(shard)}: {present.get(shard, 'missing')} instead of"
                f" {records[shard].size_bytes} bytes; encode again"
            )
        assert records[shard].rows == len(layout.shard_rows(shard))
    return [records[shard] for shard in range(layout.num_shards)]


def _shards_table(records: list[ShardRecord]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "shard": record.shard,
                "rows": record.rows,
                "quarantined": len(record.quarantined),
                "size_bytes": record.size_bytes,
                "sha256": record.sha256,
            }
            for record in records
        ],
        schema=SHARDS_SCHEMA,
    )


def _content(layout: StoreLayout, records: list[ShardRecord], rows: StoreRows) -> str:
    parts = {shard_name(record.shard): record.sha256 for record in records}
    parts["rows"] = rows.sha256()
    parts["attributes"] = fingerprint(layout.attributes.model_dump(mode="json"))
    return content_sha256(parts)
