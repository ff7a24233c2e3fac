"""``encode`` at the size at which memory and laziness show."""

import numpy as np
import pytest

from histodiff.cluster.site import LocalRay, NoRay, Site
from histodiff.latents import LatentStore
from histodiff.latents.codec import shard_size
from histodiff.storage import storage_path
from histodiff.workflows.encode import command as workflow
from tests.support.encode_inputs import encode_config
from tests.support.null_encoding import (
    MOMENT_SHAPE,
    PITCH_PX,
    NullEncoder,
    NullReader,
    load_null_encoder,
    write_null_inputs,
)

RAY = LocalRay(type="local", num_cpus=2)


@pytest.fixture
def null_encoding(monkeypatch):
    monkeypatch.setattr(workflow, "EncodeReader", NullReader)
    monkeypatch.setattr(workflow, "load_autoencoder", load_null_encoder)


def encode(root, *, rows, slides, ray, **changes):
    write_null_inputs(storage_path(root), rows=rows, slides=slides)
    store = {"rows_per_shard": 1024, "rows_per_chunk": 256}
    config = encode_config(store=store, supertile=4, mixing=16, batch=256, **changes)
    return workflow.encode(config, Site(root=str(root), ray=ray, device="cpu"))


def check_rows(store: LatentStore, rows: np.ndarray) -> None:
    """Whether rows have the moments of their patches' places."""
    table = store.rows.take(rows)
    x, y = (table[name].to_numpy() // PITCH_PX for name in ("x", "y"))
    known = NullEncoder()._table.numpy().astype(np.float16)
    expected = known[(x * 1009 + y) % len(known)].reshape(-1, *MOMENT_SHAPE)
    assert np.array_equal(store.read_rows(rows), expected)


def test_large_store_has_every_patch_once_and_resumes_from_listings(tmp_path, null_encoding):
    del null_encoding
    first = encode(tmp_path, rows=10_000, slides=40, ray=NoRay(type="none"))
    store = LatentStore.open(first.path)
    assert np.array_equal(np.sort(store.rows["patch"].to_numpy()), np.arange(10_000))
    check_rows(store, np.arange(0, 10_000, 7))
    layout = store.layout
    sizes = store.shards["size_bytes"].to_pylist()
    assert sizes == [shard_size(layout, shard) for shard in range(layout.num_shards)]
    for name in ("manifest.json", "shards.parquet", "ledger/00000003.json"):
        (first.path / name).unlink()
    second = encode(tmp_path, rows=10_000, slides=40, ray=NoRay(type="none"))
    assert second.manifest.content_sha256 == first.manifest.content_sha256
    assert second.manifest.files == first.manifest.files


@pytest.mark.slow
@pytest.mark.ray
def test_large_store_is_the_same_in_process_and_on_a_pool(tmp_path, null_encoding):
    del null_encoding
    manifests = [
        encode(tmp_path / name, rows=100_000, slides=300, ray=ray).manifest
        for name, ray in (("one", NoRay(type="none")), ("pool", RAY))
    ]
    assert manifests[0].contents["rows"] == 100_000
    assert manifests[0].files == manifests[1].files
    assert manifests[0].content_sha256 == manifests[1].content_sha256
    check_rows(LatentStore.open(storage_path(tmp_path / "pool/latents/latents/v1")), np.arange(999))
