"""The fixtures of the tests for S3, with Ceph's gateway in the place of the simulated server."""

import pytest

from tests.support.ceph import ceph_endpoint
from tests.support.s3 import s3_root

__all__ = ["ceph_endpoint", "s3_root"]


@pytest.fixture(scope="session")
def s3_endpoint(ceph_endpoint: str) -> str:
    """The server that ``s3_root`` and the tests for S3 talk to."""
    return ceph_endpoint
