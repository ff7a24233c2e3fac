"""``encode`` and the store on S3."""

import numpy as np
import pytest

from histodiff.cluster.site import NoRay, Site
from histodiff.errors import ArtifactCorrupt
from histodiff.latents import LatentMixture, LatentStore
from histodiff.latents.layout import shard_name
from histodiff.storage import storage_path
from histodiff.workflows.encode import encode
from histodiff.workflows.verify import verify
from tests.support.encode_inputs import encode_config, write_inputs

pytestmark = pytest.mark.s3


def site_at(root) -> Site:
    return Site(root=str(root), ray=NoRay(type="none"), device="cpu")


def test_s3_store_equals_the_local_one_and_lost_shards_are_found(s3_root, tmp_path):
    artifacts = []
    for root in (storage_path(tmp_path / "runs"), s3_root):
        write_inputs(root, tmp_path / "images")
        artifacts.append(encode(encode_config(), site_at(root)))
    local, remote = artifacts
    assert remote.manifest.content_sha256 == local.manifest.content_sha256
    assert remote.manifest.files == local.manifest.files
    assert verify("latents@v1", site_at(s3_root)) == []
    assert encode(encode_config(), site_at(s3_root)).manifest == remote.manifest

    here, there = LatentStore.open(local.path), LatentStore.open(remote.path)
    assert np.array_equal(there.read(3, 40), here.read(3, 40))
    options = {"weights": [1], "split": "train", "seed": 0, "batch": 8, "num_lanes": 2}
    ours, theirs = LatentMixture([here], **options), LatentMixture([there], **options)
    batches = theirs.batches(4)
    assert np.array_equal(next(batches).moments_BMHW, ours.batch_at(4).moments_BMHW)
    batches.close()

    (remote.path / shard_name(2)).unlink()
    with pytest.raises(ArtifactCorrupt, match="moments/c/2/0/0/0"):
        there.read(16, 20)
    with pytest.raises(ArtifactCorrupt, match="moments/c/2/0/0/0: shard is missing"):
        LatentStore.open(remote.path)
    assert f"{shard_name(2)}: missing" in verify("latents@v1", site_at(s3_root))
