"""What the training reader reads: every byte once, checked, and as zarr reads it."""

import tracemalloc
from dataclasses import dataclass, field, replace

import google_crc32c
import numpy as np
import pytest

from histodiff.errors import ArtifactCorrupt
from histodiff.latents import LatentMixture, LatentStore
from histodiff.latents.codec import index_bytes
from histodiff.latents.fetch import non_finite_rows
from histodiff.latents.lanes import LaneOrder
from histodiff.latents.layout import shard_name
from histodiff.latents.mixture import ReaderSettings
from histodiff.latents.rows import parquet_bytes, read_parquet
from histodiff.latents.slabs import SlabGrid
from histodiff.storage import RangeReader, storage_path
from tests.support.latent_stores import open_new_store, patch_table, store_layout, write_store

SETTINGS = ReaderSettings(slab_bytes=8 * 32, window_slabs=2)  # two inner chunks of the small store
BATCH = 64
EPOCHS = 3


@dataclass
class CountingRanges:
    """Counts what is read of the objects."""

    inner: RangeReader
    read: list[tuple[str, int, int]] = field(default_factory=list)

    def read_into(self, name, buffer, *, offset):
        self.inner.read_into(name, buffer, offset=offset)
        self.read.append((name, offset, len(buffer)))


def reader(stores, **changes):
    values = {"weights": [1.0], "split": "train", "seed": 5, "batch": BATCH, "num_lanes": BATCH}
    return LatentMixture(stores, **{**values, "settings": SETTINGS, **changes})


def rows_and_reads(store, *, world_size):
    """Rows in the order of draws, and reads of moments of all ranks, each with a store opened."""
    rows, reads = [], []
    for rank in range(world_size):
        counting = CountingRanges(store.ranges)
        mixture = reader([replace(store, ranges=counting)])
        steps = range(EPOCHS * store.num_rows // BATCH)
        rows.append(
            [mixture.batch_at(step, rank=rank, world_size=world_size).row_B for step in steps]
        )
        mixture._threads.shutdown()  # after what is read ahead
        reads += [read for read in counting.read if read[2] != index_bytes(store.layout)]
    return np.concatenate([np.concatenate(step) for step in zip(*rows, strict=True)]), reads


def test_reader_any_world_size_same_order_and_every_byte_read_once(tmp_path):
    patches = patch_table(slides=9, side=6, split="train")
    store = open_new_store(tmp_path, patches, quarantined={3: "UNREADABLE"})
    rows, reads = rows_and_reads(store, world_size=1)
    for world_size in (2, 4, 64):
        same_rows, same_reads = rows_and_reads(store, world_size=world_size)
        assert np.array_equal(same_rows, rows)
        assert sorted(same_reads) == sorted(reads)


@pytest.mark.parametrize("num_lanes", [1, 3, 8])
def test_lanes_of_an_epoch_read_every_row_of_the_slabs_once(num_lanes):
    flags = (np.arange(500) % 7 == 0).astype(np.uint8)
    order = LaneOrder(flags, 0, SlabGrid(500, 48, 20), num_lanes, 2, seed=3)
    for epoch in range(3):
        read = np.zeros(500, int)
        for lane in range(num_lanes):
            first = next(k for k in range(2000) if order.place(lane, k)[0] == epoch)
            last = next(k for k in range(first, 2000) if order.place(lane, k)[0] > epoch)
            keys = {order.window_of(lane, draw)[0] for draw in range(first, last)}
            for key in keys:
                for piece in order.window(key).pieces:
                    read[piece.start : piece.stop] += 1
        assert (read == 1).all()


@pytest.mark.parametrize("slab_bytes", [1, 8 * 32, 12 * 32, 2**20])
def test_reader_bytes_are_those_of_zarr(tmp_path, slab_bytes):
    store = open_new_store(tmp_path, patch_table(slides=5, side=5, split="train"))
    mixture = reader([store], settings=ReaderSettings(slab_bytes=slab_bytes, window_slabs=3))
    for step in range(6):
        batch = mixture.batch_at(step)
        assert np.array_equal(batch.moments_BMHW, store.read_rows(batch.row_B))


def test_reader_scattered_inner_chunks_are_found_by_the_index(tmp_path):
    store = open_new_store(tmp_path, patch_table(slides=4, side=4, split="train"))
    size = store.layout.rows_per_chunk * store.layout.row_bytes
    path = tmp_path / shard_name(1)
    data = path.read_bytes()
    chunks = [data[k * size : (k + 1) * size] for k in range(4)]
    order = [2, 0, 3, 1]  # inner chunk k lies at place order.index(k)
    places = [order.index(k) * size for k in range(4)]
    index = np.array([[place, size] for place in places], "<u8").tobytes()
    path.write_bytes(b"".join(chunks[k] for k in order) + index + checksum(index))
    expected = store.read(0, 64)
    batch = reader([store], num_lanes=1).batch_at(0)
    assert np.array_equal(batch.moments_BMHW, expected[batch.row_B])


def test_reader_missing_inner_chunk_is_named(tmp_path):
    store = open_new_store(tmp_path, patch_table(slides=4, side=4, split="train"))
    damage_index(tmp_path / shard_name(2), chunk=1, entry=b"\xff" * 16, sealed=True)
    with pytest.raises(ArtifactCorrupt, match=r"moments/c/2/0/0/0: inner chunks \[1\] are missing"):
        reader([store]).batch_at(0)


def test_reader_damaged_index_is_named(tmp_path):
    store = open_new_store(tmp_path, patch_table(slides=4, side=4, split="train"))
    damage_index(tmp_path / shard_name(3), chunk=0, entry=bytes(15) + b"\1", sealed=False)
    with pytest.raises(ArtifactCorrupt, match="moments/c/3/0/0/0: its index is damaged"):
        reader([store]).batch_at(0)


def test_reader_shard_deleted_or_cut_after_opening_is_named(tmp_path):
    for number, damage in enumerate(["missing", "cut"]):
        store = open_new_store(tmp_path / damage, patch_table(slides=4, side=4, split="train"))
        path = tmp_path / damage / shard_name(number)
        data = path.read_bytes()
        path.unlink()
        if damage == "cut":
            path.write_bytes(data[:-1])
        with pytest.raises(ArtifactCorrupt, match=f"moments/c/{number}/0/0/0: shard is {damage}"):
            reader([store]).batch_at(0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -np.nan])
def test_reader_lost_row_is_named(tmp_path, value):
    store = open_new_store(tmp_path, patch_table(slides=4, side=4, split="train"))
    path = tmp_path / shard_name(1)
    data = bytearray(path.read_bytes())
    data[5 * 32 + 6 : 5 * 32 + 8] = np.float16(value).tobytes()
    path.write_bytes(data)
    with pytest.raises(ArtifactCorrupt, match=r"1 rows \(21, \.\.\.\) in moments/c/1/0/0/0"):
        reader([store]).batch_at(0)


def test_reader_values_where_a_row_is_quarantined_are_found(tmp_path):
    store = open_new_store(
        tmp_path, patch_table(slides=4, side=4, split="train"), quarantined={7: "UNREADABLE"}
    )
    row = store.rows["patch"].to_pylist().index(7)
    path = tmp_path / shard_name(row // 16)
    data = bytearray(path.read_bytes())
    data[row % 16 * 32 : (row % 16 + 1) * 32] = bytes(32)
    path.write_bytes(data)
    with pytest.raises(ArtifactCorrupt, match=rf"1 rows \({row}, "):
        reader([store], batch=32, num_lanes=32).batch_at(0)


def test_reader_after_an_error_reads_again(tmp_path):
    store = open_new_store(tmp_path, patch_table(slides=4, side=4, split="train"))
    path = tmp_path / shard_name(0)
    data = path.read_bytes()
    path.unlink()
    mixture = reader([store])
    with pytest.raises(ArtifactCorrupt):
        mixture.batch_at(0)
    path.write_bytes(data)
    batch = mixture.batch_at(0)
    assert np.array_equal(batch.moments_BMHW, store.read_rows(batch.row_B))


def test_non_finite_rows_are_those_of_isfinite_for_every_half():
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(-1, 1)
    assert np.array_equal(non_finite_rows(halves), ~np.isfinite(halves[:, 0]))
    pairs = np.concatenate([halves, np.full_like(halves, -1)], axis=1)
    assert np.array_equal(non_finite_rows(pairs), ~np.isfinite(halves[:, 0]))


@pytest.mark.parametrize(("chunks", "wanted", "slabs"), [(16, 3, 6), (31, 8, 4), (7, 100, 1)])
def test_slab_grid_slabs_cover_all_rows_within_shards(chunks, wanted, slabs):
    layout = store_layout(1000, rows_per_shard=4 * chunks, rows_per_chunk=4)
    grid = SlabGrid.of(layout, slab_bytes=wanted * 4 * layout.row_bytes)
    assert grid.slabs_per_shard == slabs
    rows = [row for slab in range(grid.num_slabs) for row in grid.rows(slab)]
    assert rows == list(range(1000))
    for slab in range(grid.num_slabs):
        assert len({row // layout.rows_per_shard for row in grid.rows(slab)}) == 1
        assert {grid.slab_of(row) for row in grid.rows(slab)} == {slab}
    flags = (np.arange(1000) % 3).astype(np.uint8)
    expected = [int((flags[list(grid.rows(slab))] == 2).sum()) for slab in range(grid.num_slabs)]
    assert grid.counts(flags, 2).tolist() == expected


def test_store_table_of_shards_with_a_hole_is_refused(tmp_path):
    write_store(tmp_path, patch_table(slides=4, side=4))
    table = read_parquet(storage_path(tmp_path / "shards.parquet"))
    (tmp_path / "shards.parquet").write_bytes(parquet_bytes(table.slice(0, 3)))
    (tmp_path / shard_name(3)).unlink()
    with pytest.raises(ArtifactCorrupt, match="does not list shards 0 to 3"):
        LatentStore.open(storage_path(tmp_path))


@pytest.mark.parametrize("world_size", [1, 2])
def test_reader_takes_no_more_memory_than_it_says(tmp_path, world_size):
    shape = (8, 32, 32)
    patches = patch_table(slides=8, side=16, split="train")
    store = open_new_store(
        tmp_path, patches, moment_shape=shape, rows_per_shard=256, rows_per_chunk=16
    )
    settings = ReaderSettings(slab_bytes=16 * store.layout.row_bytes, window_slabs=2)
    tracemalloc.start()
    mixture = reader([store], num_lanes=8, settings=settings)
    batches = mixture.batches(0, rank=0, world_size=world_size)
    for _ in range(3 * store.num_rows // BATCH):
        next(batches)
    batches.close()
    mixture.close()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    said = mixture.memory_bytes(world_size=world_size)
    windows = 8 // world_size * 2 * 2 * 16 * store.layout.row_bytes
    assert windows < said < 2 * windows
    assert windows < peak < said + 300_000  # rows of windows, threads


def damage_index(path, *, chunk, entry, sealed):
    """Puts another entry into the index of a shard of four inner chunks, with a right checksum."""
    data = bytearray(path.read_bytes())
    start = len(data) - 4 - 4 * 16
    data[start + 16 * chunk : start + 16 * (chunk + 1)] = entry
    if sealed:
        data[-4:] = checksum(bytes(data[start:-4]))
    path.write_bytes(data)


def checksum(index):
    return int(google_crc32c.value(index)).to_bytes(4, "little")
