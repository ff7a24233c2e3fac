"""Writing, opening, reading and checking stores."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from histodiff.errors import ArtifactCorrupt, ArtifactError, ArtifactNotFound
from histodiff.latents import LatentStore, LatentStoreConfig, ShardWriter, store_problems
from histodiff.latents.codec import shard_size
from histodiff.latents.layout import shard_name
from histodiff.latents.rows import parquet_bytes, read_row_table
from histodiff.storage import storage_path
from tests.support.latent_stores import (
    ENCODER,
    SWAPPED,
    moments_of,
    open_new_store,
    patch_table,
    store_layout,
    write_store,
)

PATCHES = patch_table(slides=6, side=3)  # 54 rows: 4 shards, the last with 6 rows
GOLDEN = Path(__file__).parents[2] / "golden" / "latent_store_v1"


def test_store_read_gives_the_moments_of_each_rows_patch(tmp_path):
    store = open_new_store(tmp_path, PATCHES)
    assert store.num_rows == 54
    assert store.moment_shape == (4, 2, 2)
    assert store.latent_channels == 2
    assert store.encoder_sha256 == ENCODER
    assert (store.patch_px, store.mpp, store.classes) == (64, 0.5, ("benign", "cancer"))
    patches = store.rows["patch"].to_numpy()
    assert sorted(patches) == list(range(54))
    expected = moments_of(patches, store.moment_shape)
    assert np.array_equal(store.read(0, 54), expected)
    assert np.array_equal(store.read(10, 35), expected[10:35])
    some = [53, 0, 17, 17, 31]
    assert np.array_equal(store.read_rows(some), expected[some])
    assert store.read_rows([]).shape == (0, 4, 2, 2)


def test_store_rows_carry_slide_label_and_split_of_the_patch(tmp_path):
    store = open_new_store(tmp_path, PATCHES)
    source = PATCHES.take(store.rows["patch"])
    for name in ("slide_id", "patient_id", "x", "y", "label", "split"):
        assert store.rows[name].to_pylist() == source[name].to_pylist()
    train = store.rows_of_split("train")
    assert {store.rows["split"][int(row)].as_py() for row in train} == {"train"}
    assert len(train) == source["split"].to_pylist().count("train")


def test_store_quarantined_row_keeps_its_slot_as_nan_with_reason(tmp_path):
    store = open_new_store(tmp_path, PATCHES, quarantined={5: "UNREADABLE: truncated"})
    row = store.rows["patch"].to_pylist().index(5)
    assert store.rows["status"][row].as_py() == "UNREADABLE"
    assert np.isnan(store.read(row, row + 1)).all()
    assert row not in store.valid_rows
    assert len(store.valid_rows) == 53
    assert sum(store.shards["quarantined"].to_pylist()) == 1
    assert list(store_problems(store.path)) == []


def test_writer_non_finite_moments_are_quarantined(tmp_path):
    layout = store_layout(16)
    moments = moments_of(np.arange(16), layout.moment_shape)
    moments[3, 1, 0, 0] = np.inf
    moments[9, 0, 1, 1] = np.nan
    record = ShardWriter(storage_path(tmp_path), layout).write(0, moments, {})
    assert record.quarantined == {3: "NON_FINITE", 9: "NON_FINITE"}
    assert record.rows == 16


def test_writer_same_rows_give_same_bytes_and_other_rows_are_refused(tmp_path):
    layout = store_layout(16)
    moments = moments_of(np.arange(16), layout.moment_shape)
    writer = ShardWriter(storage_path(tmp_path), layout)
    first = writer.write(0, moments, {})
    assert first.size_bytes == shard_size(layout, 0)
    assert writer.write(0, moments, {}) == first
    with pytest.raises(ArtifactCorrupt, match="another writer"):
        writer.write(0, moments + 1, {})


def test_store_all_quarantined_chunk_is_written_and_intact(tmp_path):
    patches = patch_table(slides=1, side=4)
    lost = dict.fromkeys(range(16), "UNREADABLE")
    store = open_new_store(tmp_path, patches, quarantined=lost)
    assert len(store.valid_rows) == 0
    assert np.isnan(store.read(0, 16)).all()
    assert list(store_problems(store.path)) == []


def test_store_content_digest_does_not_depend_on_place_and_depends_on_values(tmp_path):
    one, two = write_store(tmp_path / "a", PATCHES), write_store(tmp_path / "b", PATCHES)
    assert one == two
    lost = write_store(tmp_path / "c", PATCHES, quarantined={0: "UNREADABLE: /a/path"})
    same = write_store(tmp_path / "d", PATCHES, quarantined={0: "UNREADABLE: /another/path"})
    assert lost.content == same.content != one.content
    assert write_store(tmp_path / "e", PATCHES, encoder="f" * 64).content != one.content
    assert write_store(tmp_path / "f", PATCHES, seed=1).content != one.content


def test_open_deleted_shard_is_named(tmp_path):
    write_store(tmp_path, PATCHES)
    (tmp_path / shard_name(2)).unlink()
    with pytest.raises(ArtifactCorrupt, match="moments/c/2/0/0/0: shard is missing"):
        LatentStore.open(storage_path(tmp_path))
    assert any("moments/c/2/0/0/0" in line for line in store_problems(storage_path(tmp_path)))


def test_open_truncated_or_foreign_shard_is_named(tmp_path):
    write_store(tmp_path, PATCHES)
    shard = tmp_path / shard_name(1)
    data = shard.read_bytes()
    shard.write_bytes(data[:-10])
    with pytest.raises(ArtifactCorrupt, match=r"c/1/0/0/0: \d+ bytes instead of"):
        LatentStore.open(storage_path(tmp_path))
    shard.write_bytes(data)
    foreign = tmp_path / shard_name(9)
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(data)
    with pytest.raises(ArtifactCorrupt, match="c/9/0/0/0: is not in"):
        LatentStore.open(storage_path(tmp_path))


def test_open_unfinished_store_is_not_found(tmp_path):
    write_store(tmp_path, PATCHES)
    (tmp_path / "shards.parquet").unlink()
    with pytest.raises(ArtifactNotFound):
        LatentStore.open(storage_path(tmp_path))


def test_open_newer_format_says_upgrade(tmp_path):
    write_store(tmp_path, PATCHES)
    group = tmp_path / "zarr.json"
    metadata = json.loads(group.read_text())
    metadata["attributes"]["format"] = 2
    group.write_text(json.dumps(metadata))
    with pytest.raises(ArtifactCorrupt, match="format 2"):
        LatentStore.open(storage_path(tmp_path))


def test_read_shard_deleted_after_opening_is_an_error_not_nan(tmp_path):
    store = open_new_store(tmp_path, PATCHES)
    (tmp_path / shard_name(0)).unlink()
    with pytest.raises(ArtifactCorrupt, match="moments/c/0/0/0/0"):
        store.read(0, 20)


def test_problems_missing_inner_chunk_is_named(tmp_path):
    store = open_new_store(tmp_path, PATCHES)
    shard = tmp_path / shard_name(0)
    data = bytearray(shard.read_bytes())
    index = len(data) - 4 - 4 * 16
    data[index + 16 : index + 32] = b"\xff" * 16  # zarr's mark of an absent inner chunk
    shard.write_bytes(data)
    lines = list(store_problems(store.path))
    assert "moments/c/0/0/0/0: inner chunks [1] are missing" in lines
    assert "moments/c/0/0/0/0: sha256 is not the recorded one" in lines


def test_problems_lost_ledger_and_flipped_byte_are_named(tmp_path):
    store = open_new_store(tmp_path, PATCHES)
    (tmp_path / "ledger" / "00000003.json").unlink()
    shard = tmp_path / shard_name(1)
    data = bytearray(shard.read_bytes())
    data[5] ^= 1
    shard.write_bytes(data)
    assert list(store_problems(store.path)) == [
        "moments/c/1/0/0/0: sha256 is not the recorded one",
        "ledger/00000003.json: missing",
    ]


def test_require_encoder_other_encoder_is_refused(tmp_path):
    store = open_new_store(tmp_path, PATCHES)
    store.require_encoder(ENCODER, owner="denoiser d@v1")
    with pytest.raises(ArtifactError, match="denoiser d@v1 has encoder 000000"):
        store.require_encoder("0" * 64, owner="denoiser d@v1")


def test_store_config_chunk_that_does_not_divide_the_shard_is_refused():
    with pytest.raises(ValueError, match="rows_per_shard=10 must be a multiple of"):
        LatentStoreConfig(rows_per_shard=10, rows_per_chunk=4)


def test_golden_store_of_format_1_opens_and_reads_the_same_for_ever():
    store = LatentStore.open(storage_path(GOLDEN))
    assert (store.num_rows, store.moment_shape, store.patch_px) == (54, (4, 2, 2), 64)
    assert store.classes == ("benign", "cancer")
    row = store.rows["patch"].to_pylist().index(7)
    assert store.rows["status"][row].as_py() == "UNREADABLE"
    valid = store.valid_rows
    moments = store.read_rows(valid)
    assert np.array_equal(moments[:, 0, 0, 0], store.rows["patch"].to_numpy()[valid])
    assert list(store_problems(store.path)) == []


def test_golden_store_is_what_the_writer_writes_today(tmp_path):
    # rows are laid out today otherwise than then; what is written for a row is the same
    order = LatentStore.open(storage_path(GOLDEN)).rows["patch"].to_numpy()
    write_store(tmp_path, PATCHES, quarantined={7: "UNREADABLE: golden"}, order=order)
    for name in ("zarr.json", "moments/zarr.json", *(shard_name(k) for k in range(4))):
        assert (tmp_path / name).read_bytes() == (GOLDEN / name).read_bytes(), name


def test_symmetries_of_channels_are_kept_and_part_of_the_content(tmp_path):
    plain = write_store(tmp_path / "plain", PATCHES)
    turned = write_store(tmp_path / "turned", PATCHES, symmetries=SWAPPED)
    opened = [LatentStore.open(storage_path(tmp_path / name)) for name in ("plain", "turned")]
    assert [store.layout.attributes.symmetries for store in opened] == [None, SWAPPED]
    assert plain.content != turned.content
    written = json.loads((tmp_path / "plain/zarr.json").read_bytes())["attributes"]
    assert "symmetries" not in written


def test_open_does_not_read_the_row_table_and_flags_are_its_columns(tmp_path):
    write_store(tmp_path, PATCHES, quarantined={5: "UNREADABLE", 17: "NON_FINITE"})
    store = LatentStore.open(storage_path(tmp_path))
    assert "rows" not in vars(store)
    status, split = (store.rows[name].to_pylist() for name in ("status", "split"))
    for row in range(54):
        expected = store.flags.code(split[row]) if status[row] == "ok" else 0
        assert store.flags.codes[row] == expected
    assert store.flags.splits == ("test", "train", "val")


def test_flags_of_several_files_with_different_splits_agree(tmp_path):
    write_store(tmp_path, PATCHES, quarantined={5: "UNREADABLE"})
    table = read_row_table(storage_path(tmp_path))
    order = np.argsort(table["split"].to_numpy(zero_copy_only=False).astype(str), kind="stable")
    table = table.take(order)
    splits = [None if row == 3 else name for row, name in enumerate(table["split"].to_pylist())]
    table = table.set_column(6, "split", pa.array(splits, pa.string()))
    for number, start in enumerate(range(0, 54, 10)):
        part = parquet_bytes(table.slice(start, 10))
        (tmp_path / "rows" / f"{number:05d}.parquet").write_bytes(part)
    store = LatentStore.open(storage_path(tmp_path))
    for name in ("train", "val", "test"):
        chosen = [row for row in range(54) if splits[row] == name]
        lost = [row for row in chosen if table["status"][row].as_py() != "ok"]
        assert store.rows_of_split(name).tolist() == sorted(set(chosen) - set(lost))
    assert 3 in store.valid_rows
    assert len(store.valid_rows) == 53
    assert len(store.rows_of_split("nothing")) == 0
    found = store.distinct_rows(["slide_id", "split"]).to_pylist()
    pairs = {(row["slide_id"], row["split"]) for row in table.to_pylist()}
    assert len(found) == len(pairs)
    assert {(row["slide_id"], row["split"]) for row in found} == pairs
