"""The storage door on a real S3 server.

The contract is the one that the simulated server is held to; added are those parts of it that a
server of its own kind is most likely to do otherwise: writers that race for one object, listings
and deletions of more than a page, objects written in parts.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from histodiff.storage import (
    StoragePath,
    create_bytes,
    file_sizes,
    list_names,
    remove_tree,
    sha256_of,
    write_bytes,
)
from tests.integration.test_s3_storage import (
    test_s3_bucket_that_does_not_exist_is_not_writable,
    test_s3_create_only_where_none_is,
    test_s3_listing_shows_what_another_client_wrote,
    test_s3_local_copy_and_upload_keep_the_tree,
    test_s3_write_list_and_remove,
)

__all__ = [
    "test_s3_bucket_that_does_not_exist_is_not_writable",
    "test_s3_create_only_where_none_is",
    "test_s3_listing_shows_what_another_client_wrote",
    "test_s3_local_copy_and_upload_keep_the_tree",
    "test_s3_write_list_and_remove",
]

pytestmark = pytest.mark.ceph

WRITERS = 8
PAGE = 1000  # keys in one answer to a listing, and in one bulk deletion


def test_ceph_create_by_many_at_once_has_one_winner(s3_root: StoragePath) -> None:
    together = Barrier(WRITERS)

    def create(writer: int) -> bool:
        together.wait()
        return create_bytes(s3_root / "ledger/0.json", str(writer).encode())

    with ThreadPoolExecutor(WRITERS) as threads:
        created = list(threads.map(create, range(WRITERS)))
    assert created.count(True) == 1
    assert (s3_root / "ledger/0.json").read_bytes() == str(created.index(True)).encode()


def test_ceph_listing_and_removal_of_more_than_a_page_are_whole(s3_root: StoragePath) -> None:
    names = [f"{number:05d}.json" for number in range(PAGE + 5)]
    s3_root.fs.pipe({f"{s3_root.path}/ledger/{name}": b"{}" for name in names})
    assert list_names(s3_root / "ledger") == names
    assert file_sizes(s3_root) == {f"ledger/{name}": 2 for name in names}
    remove_tree(s3_root / "ledger")
    assert file_sizes(s3_root) == {}


def test_ceph_object_written_in_parts_is_read_back_whole(s3_root: StoragePath) -> None:
    data = bytes(range(256)) * (110 * 2**20 // 256)  # more than the 100 MiB that are put at once
    write_bytes(s3_root / "shard", data)
    assert file_sizes(s3_root) == {"shard": len(data)}
    assert sha256_of(s3_root / "shard") == hashlib.sha256(data).hexdigest()
    assert (
        s3_root.fs.cat_file(f"{s3_root.path}/shard", start=2**26 - 3, end=2**26 + 5)
        == (data[2**26 - 3 : 2**26 + 5])
    )
