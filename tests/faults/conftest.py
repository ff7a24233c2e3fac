"""Servers of the tests with faults."""

from tests.ceph.conftest import ceph_endpoint, s3_endpoint

__all__ = ["ceph_endpoint", "s3_endpoint"]
