"""Byte ranges of objects, read straight into memory that the caller owns: the hot path of training.

A reader belongs to one folder, has no state of its own, and is called from many threads at once.
"""

import os
from dataclasses import dataclass
from typing import Protocol
from urllib.request import getproxies

from histodiff.errors import TransientError
from histodiff.storage.places import StoragePath, is_local, is_s3
from histodiff.storage.remote import read_ranges
from histodiff.storage.signed_ranges import SignedRanges


class RangeReader(Protocol):
    """Reads ranges of the objects below a folder."""

    def read_into(self, name: str, buffer: memoryview, *, offset: int) -> None:
        """Fills ``buffer`` with the bytes of object ``name`` from ``offset`` on.

        Raises:
            FileNotFoundError: There is no such object.
            EOFError: It ends before.
            TransientError: The connection broke or the answer was cut, again and again.
        """


@dataclass(frozen=True)
class LocalRanges:
    """Ranges of files: read by the kernel into the buffer, with nothing in between."""

    folder: str

    def read_into(self, name: str, buffer: memoryview, *, offset: int) -> None:
        """See `RangeReader`."""
        file = os.open(f"{self.folder}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            done = 0
            while done < len(buffer):
                count = os.preadv(file, [buffer[done:]], offset + done)
                if not count:
                    raise EOFError(f"{name}: ends at byte {offset + done}")
                done += count
        finally:
            os.close(file)


@dataclass(frozen=True)
class RemoteRanges:
    """Ranges through fsspec, for storage that has no faster reader."""

    folder: StoragePath

    def read_into(self, name: str, buffer: memoryview, *, offset: int) -> None:
        """See `RangeReader`."""
        (data,) = read_ranges(self.folder / name, [(offset, len(buffer))])
        if len(data) != len(buffer):
            raise TransientError(
                f"{self.folder / name}: {len(data)} of {len(buffer)} bytes arrived from {offset} on"
            )
        buffer[:] = data


def range_reader(folder: StoragePath) -> RangeReader:
    """The fastest reader for what lies below ``folder``; behind a web proxy, S3 is read by s3fs."""
    if is_local(folder):
        return LocalRanges(folder.path.rstrip("/"))
    direct = is_s3(folder) and not getproxies()
    return SignedRanges(folder) if direct else RemoteRanges(folder)
