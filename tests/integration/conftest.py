"""Servers that integration tests share."""

from tests.support.s3 import s3_endpoint, s3_root

__all__ = ["s3_endpoint", "s3_root"]
