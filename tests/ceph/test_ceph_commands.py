"""Commands whose root and inputs lie on a real S3 server give what they give in a folder."""

from pathlib import Path

import numpy as np
import pytest

from histodiff.cluster.site import NoRay, Site
from histodiff.data_prep.generated import write_generated_slides
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.index.reading import PatchReader
from histodiff.storage import StoragePath, upload_tree
from histodiff.workflows.tile import TileConfig, tile
from histodiff.workflows.verify import verify
from tests.integration.test_pretrain_s3 import test_pretrain_on_s3_resumed_equals_the_local_run
from tests.integration.test_s3_encode import (
    test_s3_store_equals_the_local_one_and_lost_shards_are_found,
)
from tests.integration.test_s3_ranges import (
    test_reader_on_s3_gives_the_local_batches_and_names_a_lost_shard,
)
from tests.integration.test_s3_requests import test_s3_encode_makes_the_planned_requests

__all__ = [
    "test_pretrain_on_s3_resumed_equals_the_local_run",
    "test_reader_on_s3_gives_the_local_batches_and_names_a_lost_shard",
    "test_s3_encode_makes_the_planned_requests",
    "test_s3_store_equals_the_local_one_and_lost_shards_are_found",
]

pytestmark = pytest.mark.ceph


def config(data: str) -> TileConfig:
    values = {
        "name": "patches", "version": "v1", "data": data, "mpp": 1.0, "patch_px": 64,
        "sources": [{"type": "slides", "pattern": "*.svs"}],
        "split": {"val": 0.0, "test": 0.0, "seed": 0},
    }  # fmt: skip
    return TileConfig.model_validate(values)


def test_ceph_slides_are_tiled_and_read_as_local_ones(
    s3_root: StoragePath, site: Site, tmp_path: Path
) -> None:
    write_generated_slides(tmp_path / "slides", count=2, seed=3, size_px=1024)
    upload_tree(tmp_path / "slides", s3_root / "slides")
    on_s3 = Site(root=str(s3_root), ray=NoRay(type="none"), device="cpu")
    local = tile(config(str(tmp_path / "slides")), site)
    remote = tile(config(str(s3_root / "slides")), on_s3)
    assert remote.manifest.content_sha256 == local.manifest.content_sha256
    assert verify("patches@v1", on_s3) == []
    here, there = PatchIndex.open(local.path), PatchIndex.open(remote.path)
    assert there.patches.equals(here.patches)
    assert all(url.startswith("s3://") for url in there.slides["url"].to_pylist())
    rows = range(0, here.patches.num_rows, 3)
    block = PatchReader(there).read(rows)
    assert block.failures == {}
    assert np.array_equal(block.pixels, PatchReader(here).read(rows).pixels)
