"""Literal names and refusals on a real S3 server: the contract of the simulated one, held here."""

from collections.abc import Callable

import pytest

from histodiff.errors import ConfigError
from histodiff.storage import StoragePath, list_names, read_bytes, storage_path, write_bytes
from tests.integration.test_s3_names import (
    test_s3_objects_of_printable_names_are_written_read_and_listed,
    test_s3_rebuilding_under_an_odd_root_touches_no_other,
    test_s3_removal_takes_what_is_named_and_nothing_else,
    test_s3_tree_that_is_removed_leaves_its_namesakes,
)
from tests.support.ceph import KEY
from tests.support.s3 import aws_environment

__all__ = [
    "test_s3_objects_of_printable_names_are_written_read_and_listed",
    "test_s3_rebuilding_under_an_odd_root_touches_no_other",
    "test_s3_removal_takes_what_is_named_and_nothing_else",
    "test_s3_tree_that_is_removed_leaves_its_namesakes",
]

pytestmark = pytest.mark.ceph


@pytest.mark.parametrize(
    ("key", "secret", "said"),
    [("nobody", "wrong", "AWS_ACCESS_KEY_ID"), (KEY, "wrong", "AWS_SECRET_ACCESS_KEY")],
)
@pytest.mark.parametrize(
    "operation",
    [read_bytes, lambda path: path.exists(), list_names, lambda path: write_bytes(path, b"")],
    ids=["read", "exists", "list", "write"],
)
def test_ceph_wrong_keys_are_named(
    ceph_endpoint: str,
    s3_root: StoragePath,
    operation: Callable[[StoragePath], object],
    key: str,
    secret: str,
    said: str,
) -> None:
    with (
        aws_environment(ceph_endpoint, key=key, secret=secret),
        pytest.raises(ConfigError, match=said),
    ):
        operation(storage_path(f"{s3_root}/object"))
