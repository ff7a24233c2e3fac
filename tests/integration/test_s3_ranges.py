"""Ranges of S3 objects over plain connections, from a server that can be made to fail."""

import numpy as np
import pytest

from histodiff.errors import ArtifactCorrupt, TransientError
from histodiff.latents import LatentMixture, LatentStore
from histodiff.latents.layout import shard_name
from histodiff.storage import range_reader, storage_path
from histodiff.storage.signed_ranges import SignedRanges
from tests.support.latent_stores import patch_table, write_store
from tests.support.range_server import range_server
from tests.support.s3 import aws_environment

pytestmark = pytest.mark.s3
DATA = np.random.Generator(np.random.Philox(0)).bytes(300_000)
NO_PAUSES = (0.0, 0.0, 0.0)


@pytest.fixture
def server(tmp_path):
    (tmp_path / "bucket" / "a b").mkdir(parents=True)
    (tmp_path / "bucket" / "a b" / "object").write_bytes(DATA)
    with range_server(tmp_path) as server, aws_environment(server.url, key="key", secret="secret"):
        yield server


def read(ranges, name="object", *, offset=1000, size=200_000):
    buffer = bytearray(size)
    ranges.read_into(name, memoryview(buffer), offset=offset)
    return bytes(buffer)


@pytest.fixture
def ranges(server):
    del server
    return SignedRanges(storage_path("s3://bucket/a b"), pauses=NO_PAUSES)


def test_range_is_what_the_object_has_there(ranges):
    assert read(ranges) == DATA[1000:201_000]
    assert read(ranges, offset=299_999, size=1) == DATA[-1:]
    assert isinstance(range_reader(storage_path("s3://bucket/a b")), SignedRanges)


@pytest.mark.parametrize("fault", ["breaks", "busy"])
def test_range_of_a_failing_server_is_read_again(server, ranges, fault):
    server.fail(fault, times=3)
    assert read(ranges) == DATA[1000:201_000]
    assert len(server.taken("object")) == 4


@pytest.mark.parametrize(("fault", "said"), [("breaks", "100000"), ("busy", "status 503")])
def test_range_of_a_server_that_goes_on_failing_is_a_transient_error(server, ranges, fault, said):
    server.fail(fault, times=4)
    with pytest.raises(TransientError, match=rf"a b/object: .*{said}.* \(tried 4 times\)"):
        read(ranges)
    assert read(ranges) == DATA[1000:201_000]


def test_range_of_a_server_that_gives_whole_files_is_refused(server, ranges):
    server.fail("whole", times=1)
    with pytest.raises(PermissionError, match="status 200"):
        read(ranges)
    assert read(ranges) == DATA[1000:201_000]


def test_range_that_is_not_there_is_told_apart_at_once(server, ranges):
    with pytest.raises(FileNotFoundError, match="a b/nothing"):
        read(ranges, "nothing")
    for offset in (299_000, 300_000):
        with pytest.raises(EOFError, match="a b/object"):
            read(ranges, offset=offset, size=1001)
    assert len(server.taken()) == 3


def test_reader_on_s3_gives_the_local_batches_and_names_a_lost_shard(s3_root, tmp_path):
    patches = patch_table(slides=6, side=4, split="train")
    for place in (tmp_path, s3_root / "store"):
        write_store(place, patches, quarantined={4: "UNREADABLE"})
    here, there = LatentStore.open(storage_path(tmp_path)), LatentStore.open(s3_root / "store")
    options = {"weights": [1], "split": "train", "seed": 1, "batch": 32, "num_lanes": 4}
    ours, theirs = LatentMixture([here], **options), LatentMixture([there], **options)
    for step in range(4):
        assert np.array_equal(
            theirs.batch_at(step).moments_BMHW, ours.batch_at(step).moments_BMHW, equal_nan=True
        )
    (s3_root / "store" / shard_name(3)).unlink()
    with pytest.raises(ArtifactCorrupt, match="moments/c/3/0/0/0: shard is missing"):
        LatentMixture([there], **options).batch_at(0)
