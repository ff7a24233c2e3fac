"""Bytes of a slide file by ranges: ``pread`` on local files, coalesced requests on remote ones.

Tiles that are wanted together are sorted by offset and fetched in few requests. Two ranges become
one request where the gap between them is small, as long as all that is fetched stays below
``AMPLIFICATION`` times what is needed. What is fetched and what was needed is counted.
"""

import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

from histodiff.errors import FileChanged, SkipReason, SlideError
from histodiff.storage import StoragePath, is_local, read_ranges
from histodiff.telemetry.metrics import (
    TILE_FETCHED_BYTES,
    TILE_NEEDED_BYTES,
    TILE_RANGE_REQUESTS,
)

AMPLIFICATION = 1.15
"""Most bytes fetched per byte needed; neighbouring supertiles fetch tiles on their border anew,
so that over a whole store it is more."""
MAX_REQUEST_BYTES = 16 * 2**20


class ByteRange(NamedTuple):
    """Some bytes of a file."""

    offset: int
    size: int

    @property
    def end(self) -> int:
        """Offset behind the last byte."""
        return self.offset + self.size


class ByteSource(Protocol):
    """Reads ranges of one file."""

    def read(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """The bytes of every range, in the order asked for.

        Raises:
            SlideError: UNREADABLE: a range lies beyond the end, or the file cannot be read.
            TransientError: The connection failed; the read is worth another try.
        """

    def close(self) -> None:
        """Frees the file."""


def byte_source(path: StoragePath, *, version: str = "") -> ByteSource:
    """The bytes of a local file, or of a remote one that is held to a version."""
    return LocalBytes(path) if is_local(path) else RemoteBytes(path, version)


class LocalBytes:
    """A local file, read with ``pread``."""

    def __init__(self, path: StoragePath) -> None:
        self._name = path.name
        try:
            self._file = os.open(path.path, os.O_RDONLY)
        except OSError as error:
            raise _unreadable(self._name, error) from error

    def read(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        try:
            found = [os.pread(self._file, size, offset) for offset, size in ranges]
        except OSError as error:
            raise _unreadable(self._name, error) from error
        _check_lengths(self._name, ranges, found)
        return found

    def close(self) -> None:
        os.close(self._file)


class RemoteBytes:
    """An object or URL, read with range requests that run at the same time."""

    def __init__(self, path: StoragePath, version: str = "") -> None:
        self._path = path
        self._version = version

    def read(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        requests = coalesced(ranges)
        try:
            blocks = read_ranges(self._path, requests, version=self._version)
        except (FileNotFoundError, PermissionError, FileChanged) as error:
            raise _unreadable(self._path.name, error) from error
        _check_lengths(self._path.name, requests, blocks)
        TILE_RANGE_REQUESTS.inc(len(requests))
        TILE_FETCHED_BYTES.inc(sum(request.size for request in requests))
        TILE_NEEDED_BYTES.inc(sum(wanted.size for wanted in set(ranges)))
        return _cut(ranges, requests, blocks)

    def close(self) -> None:
        """Nothing: connections belong to the file system."""


def coalesced(
    ranges: Sequence[ByteRange], *, amplification: float = AMPLIFICATION
) -> list[ByteRange]:
    """Few ranges, sorted by offset, that cover ``ranges``.

    Neighbours are joined, smallest gap first, while all gaps together are at most
    ``amplification - 1`` of the bytes needed and no request exceeds ``MAX_REQUEST_BYTES``.
    """
    wanted = _without_overlaps(sorted(set(ranges)))
    allowance = (amplification - 1) * sum(each.size for each in wanted)
    gaps = [second.offset - first.end for first, second in pairwise(wanted)]
    joined: set[int] = set()
    for gap, number in sorted((gap, number) for number, gap in enumerate(gaps)):
        if gap > allowance:
            break
        allowance -= gap
        joined.add(number)
    requests: list[ByteRange] = []
    for number, each in enumerate(wanted):
        start = requests[-1].offset if number - 1 in joined else each.offset
        if start < each.offset and each.end - start <= MAX_REQUEST_BYTES:
            requests[-1] = ByteRange(start, each.end - start)
        else:
            requests.append(each)
    return requests


def _cut(
    ranges: Sequence[ByteRange], requests: Sequence[ByteRange], blocks: Sequence[bytes]
) -> list[bytes]:
    """The bytes of every range, out of the requests that hold them."""
    starts = [request.offset for request in requests]
    pieces = []
    for wanted in ranges:
        number = bisect_right(starts, wanted.offset) - 1
        start = wanted.offset - starts[number]
        pieces.append(blocks[number][start : start + wanted.size])
    return pieces


def _without_overlaps(ranges: Sequence[ByteRange]) -> list[ByteRange]:
    """Sorted ranges with overlapping ones united (files may share the bytes of equal tiles)."""
    united: list[ByteRange] = []
    for each in ranges:
        if united and each.offset < united[-1].end:
            first = united[-1]
            united[-1] = ByteRange(first.offset, max(first.end, each.end) - first.offset)
        else:
            united.append(each)
    return united


def _check_lengths(name: str, ranges: Sequence[ByteRange], found: Sequence[bytes]) -> None:
    for wanted, data in zip(ranges, found, strict=True):
        if len(data) != wanted.size:
            raise SlideError(
                SkipReason.UNREADABLE,
                f"{name}: ends at byte {wanted.offset + len(data)} of {wanted.end}; the file is"
                " truncated",
            )


def _unreadable(name: str, error: Exception) -> SlideError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return SlideError(SkipReason.UNREADABLE, f"{name}: {reason}")
