"""Paths whose names are literal: universal-pathlib's classes without what they read into a name.

As it is, universal-pathlib takes ``a::b`` for a chain of file systems, ``zip::b`` and ``ab:/c`` for
other protocols, and ``?versionId=`` for a version. Here everything behind ``protocol://`` is a
name, and joining adds a name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
from fsspec import AbstractFileSystem
from upath import UPath
from upath._chain import ChainSegment, FSSpecChainParser
from upath.implementations.cloud import S3Path
from upath.implementations.http import HTTPPath
from upath.implementations.local import PosixUPath
from upath.registry import register_implementation

from histodiff.storage.s3 import LiteralS3
from histodiff.storage.web import BoundedWeb


class _OneSegment(FSSpecChainParser):
    """Takes a URL for one file system and one path, whatever is in it."""

    def unchain(
        self,
        path: str,
        *_: Any,
        protocol: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> list[ChainSegment]:
        assert protocol, "its callers know the protocol"
        stripped = fsspec.get_filesystem_class(protocol)._strip_protocol(path)
        return [ChainSegment(stripped, protocol, dict(storage_options or {}))]


_ONE_SEGMENT = _OneSegment()


class _LiteralUrl(UPath):
    """What paths of S3 and of the web share."""

    def __init__(
        self,
        *args: Any,
        protocol: str | None = None,
        chain_parser: FSSpecChainParser = _ONE_SEGMENT,
        **storage_options: Any,
    ) -> None:
        super().__init__(*args, protocol=protocol, chain_parser=chain_parser, **storage_options)

    @classmethod
    def _parse_storage_options(
        cls, urlpath: str, protocol: str, storage_options: Mapping[str, Any]
    ) -> dict[str, Any]:
        return dict(storage_options)

    def with_segments(self, *pathsegments: Any) -> Any:
        first, *names = (str(segment) for segment in pathsegments)
        return super().with_segments(
            "/".join([first.removesuffix("/"), *names]) if names else first
        )


class S3Location(_LiteralUrl, S3Path):
    """An object or a prefix of a bucket."""

    @classmethod
    def _fs_factory(
        cls, urlpath: str, protocol: str, storage_options: Mapping[str, Any]
    ) -> AbstractFileSystem:
        return LiteralS3(**storage_options)


class WebLocation(_LiteralUrl, HTTPPath):
    """A page or a file of a web server."""

    @classmethod
    def _fs_factory(
        cls, urlpath: str, protocol: str, storage_options: Mapping[str, Any]
    ) -> AbstractFileSystem:
        return BoundedWeb(**storage_options)


class LocalLocation(PosixUPath):
    """A local file or folder."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "LocalLocation":
        return object.__new__(cls)

    def joinpath(self, *other: Any) -> Any:
        return Path.joinpath(self, *map(str, other))

    def __truediv__(self, other: Any) -> Any:
        return Path.__truediv__(self, str(other))


for _protocol, _class in {
    "s3": S3Location, "s3a": S3Location, "http": WebLocation, "https": WebLocation
}.items():  # fmt: skip
    register_implementation(_protocol, _class, clobber=True)
