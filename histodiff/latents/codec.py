"""Bytes of a store's objects: Zarr v3 metadata and shards, built in memory.

A shard is encoded into memory by zarr and put as one object by the caller: the put is atomic on any
storage, its SHA-256 is known without reading back, and no remote file system is needed to write.
All-NaN inner chunks are written too, so that an inner chunk that is not there is always damage.
"""

import struct

import numpy as np
import numpy.typing as npt
import zarr
from zarr.storage import FsspecStore, LocalStore, MemoryStore

from histodiff.latents.layout import (
    ARRAY_METADATA,
    GROUP_METADATA,
    MOMENTS,
    StoreLayout,
    shard_name,
)
from histodiff.storage import StoragePath, async_filesystem, is_local

_INDEX_ENTRY_BYTES = 16
_INDEX_CHECKSUM_BYTES = 4
_ABSENT = 2**64 - 1


def metadata_files(layout: StoreLayout) -> dict[str, bytes]:
    """The group's and the array's ``zarr.json``, by relative path."""
    objects, _ = _in_memory(layout)
    return {name: objects[name].to_bytes() for name in (GROUP_METADATA, ARRAY_METADATA)}


def shard_bytes(layout: StoreLayout, shard: int, moments: npt.NDArray[np.float16]) -> bytes:
    """The object of a shard; ``moments`` has the shard's rows, ``(rows, 2C, h, w)``."""
    rows = layout.shard_rows(shard)
    assert moments.shape == (len(rows), *layout.moment_shape)
    objects, array = _in_memory(layout)
    array[rows.start : rows.stop] = moments
    data: bytes = objects[shard_name(shard)].to_bytes()
    return data


def shard_moments(layout: StoreLayout, shard: int, data: bytes) -> npt.NDArray[np.float16]:
    """Moments in the object of a shard; rows of an inner chunk that is not there are NaN."""
    objects, array = _in_memory(layout)
    objects[shard_name(shard)] = zarr.core.buffer.cpu.Buffer.from_bytes(data)
    rows = layout.shard_rows(shard)
    return np.asarray(array[rows.start : rows.stop])


def missing_chunks(layout: StoreLayout, shard: int, data: bytes) -> list[int]:
    """Numbers of the inner chunks that the shard's own index says are not there."""
    length = layout.chunks_per_shard * _INDEX_ENTRY_BYTES
    index = data[-length - _INDEX_CHECKSUM_BYTES : -_INDEX_CHECKSUM_BYTES]
    offsets = [offset for offset, _ in struct.iter_unpack("<QQ", index)]
    return [k for k in range(layout.num_chunks(shard)) if offsets[k] == _ABSENT]


def shard_size(layout: StoreLayout, shard: int) -> int:
    """Bytes of a complete shard."""
    return layout.num_chunks(shard) * layout.rows_per_chunk * layout.row_bytes + index_bytes(layout)


def index_bytes(layout: StoreLayout) -> int:
    """Bytes of the index at the end of a shard: offset and size of every inner chunk, a CRC-32C."""
    return layout.chunks_per_shard * _INDEX_ENTRY_BYTES + _INDEX_CHECKSUM_BYTES


def open_group(path: StoragePath) -> zarr.Group:
    """The group at ``path``, for reading; directory listings are never cached.

    Raises:
        FileNotFoundError: There is no group.
    """
    store: LocalStore | FsspecStore
    if is_local(path):
        store = LocalStore(path.path, read_only=True)
    else:
        store = FsspecStore(async_filesystem(path), path=path.path, read_only=True)
    return zarr.open_group(store, mode="r", zarr_format=3)


def _in_memory(layout: StoreLayout) -> tuple[dict[str, "zarr.core.buffer.Buffer"], zarr.Array]:
    """An empty store in memory, with its objects by name."""
    objects: dict[str, zarr.core.buffer.Buffer] = {}
    attributes = layout.attributes.model_dump(mode="json")
    group = zarr.create_group(MemoryStore(store_dict=objects), attributes=attributes)
    array = group.create_array(
        MOMENTS,
        shape=(layout.num_rows, *layout.moment_shape),
        shards=(layout.rows_per_shard, *layout.moment_shape),
        chunks=(layout.rows_per_chunk, *layout.moment_shape),
        dtype="float16",
        fill_value=float("nan"),
        compressors=None,
        filters=None,
        config={"write_empty_chunks": True},
    )
    return objects, array
