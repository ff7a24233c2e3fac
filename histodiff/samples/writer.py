"""Writing a SampleStore: one shard per unit of work, then the header.

A shard is one Parquet file, written once, followed by its ledger entry. Progress is the set of
ledger entries, so that an interrupted command goes on with the shards that are missing.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from histodiff.samples.schema import PNG, SAMPLE_COLUMNS, SOURCE_COLUMNS, parquet_bytes
from histodiff.samples.store import HEADER, StoreHeader
from histodiff.storage import StoragePath, list_names, write_bytes

SHARDS, LEDGER = "shards", "ledger"


@dataclass(frozen=True)
class ShardRecord:
    """What the ledger says of one finished shard."""

    name: str
    num_rows: int
    sha256: str


def write_shard(
    path: StoragePath,
    number: int,
    *,
    columns: Mapping[str, Any],
    pixels_NHWC: npt.NDArray[np.uint8],
) -> ShardRecord:
    """Writes shard ``number`` of the store at ``path`` and its ledger entry.

    Args:
        path: Folder of the store.
        number: Place of the shard in the store.
        columns: One sequence per column of ``SAMPLE_COLUMNS``, and of ``SOURCE_COLUMNS`` if the
            samples vary latents.
        pixels_NHWC: uint8 RGB images, one per row.
    """
    images = [png_bytes(image) for image in pixels_NHWC]
    return write_packed_shard(path, number, columns=columns, images=images)


def write_packed_shard(
    path: StoragePath, number: int, *, columns: Mapping[str, Any], images: Sequence[bytes]
) -> ShardRecord:
    """As ``write_shard``, of images that are PNGs already, by ``png_bytes``."""
    fields = [*SAMPLE_COLUMNS, *(field for field in SOURCE_COLUMNS if field.name in columns)]
    table = pa.table(dict(columns), schema=pa.schema(fields))
    table = table.append_column(PNG, pa.array(images, type=pa.binary()))
    data = parquet_bytes(table)
    record = ShardRecord(f"{number:06d}.parquet", table.num_rows, hashlib.sha256(data).hexdigest())
    write_bytes(path / SHARDS / record.name, data)
    entry = json.dumps(asdict(record), sort_keys=True).encode()
    write_bytes(path / LEDGER / f"{number:06d}.json", entry)
    return record


def finished_shards(path: StoragePath) -> dict[int, ShardRecord]:
    """The ledger of the store at ``path``: records of finished shards by their number."""
    return {
        int(name.removesuffix(".json")): ShardRecord(
            **json.loads((path / LEDGER / name).read_bytes())
        )
        for name in list_names(path / LEDGER)
    }


def finish_store(
    path: StoragePath,
    records: Iterable[ShardRecord],
    *,
    classes: tuple[str, ...],
    image_px: int,
    mpp: float | None,
    encoder_sha256: str,
    decoder_sha256: str,
) -> StoreHeader:
    """Writes the header that makes the shards at ``path`` a store."""
    header = StoreHeader(
        classes=classes,
        image_px=image_px,
        mpp=mpp,
        encoder_sha256=encoder_sha256,
        decoder_sha256=decoder_sha256,
        shards={record.name: record.num_rows for record in sorted(records, key=lambda r: r.name)},
    )
    write_bytes(path / HEADER, header.model_dump_json(indent=2).encode())
    return header


def png_bytes(image_HWC: npt.NDArray[np.uint8]) -> bytes:
    """The RGB image as PNG, losslessly."""
    buffer = io.BytesIO()
    Image.fromarray(image_HWC).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()
