"""A SampleStore gives back what was written, and notices what is missing."""

import numpy as np
import pytest

from histodiff.errors import ArtifactCorrupt, ArtifactNotFound
from histodiff.samples import SampleStore, finish_store, finished_shards, write_shard
from histodiff.storage import storage_path


def columns_of(samples):
    count = len(samples)
    return {
        "sample": samples,
        "label": ["ab"[sample % 2] for sample in samples],
        "seed": [7] * count,
        "guide": ["g"] * count,
        "guidance_scale": [2.0] * count,
        "sampler": ["{}"] * count,
        "denoiser": ["d"] * count,
        "decoder_sha256": ["x"] * count,
        "guide_log_prob": [-0.5] * count,
    }


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def store_path(tmp_path, pixels):
    path = storage_path(tmp_path / "store")
    write_shard(path, 1, columns=columns_of([3, 4]), pixels_NHWC=pixels[3:])
    write_shard(path, 0, columns=columns_of([0, 1, 2]), pixels_NHWC=pixels[:3])
    finish_store(
        path, finished_shards(path).values(), classes=("a", "b"), image_px=8, mpp=0.5,
        encoder_sha256="e", decoder_sha256="x",
    )  # fmt: skip
    return path


def test_read_pixels_any_order_gives_the_images_losslessly(store_path, pixels):
    store = SampleStore.open(store_path)
    assert len(store) == 5
    assert store.labels == ["a", "b", "a", "b", "a"]
    np.testing.assert_array_equal(store.read_pixels([4, 0, 3, 0]), pixels[[4, 0, 3, 0]])
    assert store.counts() == {"a": 3, "b": 2}


def test_read_pixels_row_that_is_not_there_raises(store_path):
    with pytest.raises(IndexError):
        SampleStore.open(store_path).read_pixels([5])


def test_open_missing_shard_is_corrupt(store_path):
    (store_path / "shards" / "000001.parquet").unlink()
    with pytest.raises(ArtifactCorrupt, match="000001"):
        SampleStore.open(store_path)


def test_open_without_header_is_not_found(tmp_path):
    with pytest.raises(ArtifactNotFound):
        SampleStore.open(storage_path(tmp_path))


def test_write_shard_same_content_gives_the_same_bytes(tmp_path, pixels):
    first, second = (
        write_shard(
            storage_path(tmp_path / name), 0, columns=columns_of([0]), pixels_NHWC=pixels[:1]
        )
        for name in "ab"
    )
    assert first.sha256 == second.sha256
